"""Adapter files mean to `transformers`' modules what PEFT says: W + alpha / r * B A for each published layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tiny_encoders import padded_batch, tiny_encoder
from tiny_models import tiny_decoder

from neolm.models.adapter_files import save_adapter
from neolm.models.adapters import add_lora
from neolm.models.hf import save_model

MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "bert": ({"head": "sequence", "num_labels": 3}, "AutoModelForSequenceClassification"),
    "albert": ({"head": "token", "pooler": False, "groups": 2, "num_layers": 3}, "AutoModelForTokenClassification"),
    "gpt2": ({"head": "sequence", "pad_token_id": 96}, "AutoModelForSequenceClassification"),
    "gpt-neo": ({"window_size": 4}, "AutoModelForCausalLM"),
    "gpt-neox": ({"head": "sequence", "pad_token_id": 96}, "AutoModelForSequenceClassification"),
}


@torch.no_grad()
def apply_adapter(model: Any, directory: Path) -> None:
    """What `merge_and_unload` of PEFT computes, on a model of transformers."""
    config = json.loads((directory / "adapter_config.json").read_text())
    tensors = load_file(directory / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.") for name in tensors)
    tensors = {name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items()}
    for name in config["target_modules"]:
        layer = model.get_submodule(name)
        up, down = tensors.pop(f"{name}.lora_B.weight"), tensors.pop(f"{name}.lora_A.weight")
        update = up @ down * config["lora_alpha"] / config["r"]
        transposed = isinstance(layer, transformers.pytorch_utils.Conv1D)
        assert transposed is config["fan_in_fan_out"]
        layer.weight += update.t() if transposed else update
    for name in config["modules_to_save"] or []:
        for kind, parameter in model.get_submodule(name).named_parameters():
            parameter.copy_(tensors.pop(f"{name}.{kind}"))
    assert not tensors


@pytest.mark.parametrize("name", MODELS)
def test_an_adapter_means_the_same_to_transformers(name: str, tmp_path: Path) -> None:
    fields, loader = MODELS[name]
    decodes = name.startswith("gpt")
    model = tiny_decoder(name, 32, vocab_size=97, **fields) if decodes else tiny_encoder(name, **fields)
    save_model(model, tmp_path / "base")
    theirs = getattr(transformers, loader).from_pretrained(tmp_path / "base").eval()
    add_lora(model, rank=3, alpha=5.0, targets=("qkv", "output", "expand", "contract"))
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    save_adapter(model, tmp_path / "adapter")
    batch = padded_batch(96, [9, 4, 17], 20)
    batch["input_ids"].masked_fill_(batch["attention_mask"] == 0, 96)
    if decodes:
        batch.pop("token_type_ids")
    with torch.no_grad():
        before = theirs(**batch).logits
        apply_adapter(theirs, tmp_path / "adapter")
        expected, found = theirs(**batch).logits, model(**batch)
    assert not torch.allclose(before, expected, atol=0.1)
    if expected.dim() == 3:
        real = batch["attention_mask"].bool()
        expected, found = expected[real], found[real]
    assert (found - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max().item())
