"""A GPT-2 that writes a known text: the next token depends on the position only."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_models import tiny_decoder

from neolm.models.hf import save_model
from neolm.tokenizer.tokenizer import train_tokenizer

CONTEXT = 128


def write_scripted_decoder(directory: Path, script: str) -> Path:
    """A model whose greedy continuation of any prompt of one token is `script`; a longer prompt skips its start."""
    tokenizer = train_tokenizer(iter([script] * 3), 280)
    ids = tokenizer.encode(script)
    assert len(ids) < CONTEXT - 1, len(ids)
    sizes = {"vocab_size": tokenizer.size, "num_layers": 1, "hidden_size": CONTEXT, "num_heads": 1}
    model = tiny_decoder("gpt2", CONTEXT, tie_embeddings=False, **sizes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        model.positions.weight.copy_(torch.eye(CONTEXT))
        for position, token in enumerate([*ids, tokenizer.eos_token_id]):
            model.head.weight[token, position] = 10.0
    save_model(model, directory)
    tokenizer.save(directory)
    return directory
