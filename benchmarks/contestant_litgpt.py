"""Training with LitGPT's GPT and chunked loss in a plain loop; compiled, like LitGPT's pretraining, or not."""

from __future__ import annotations

import torch
from litgpt.config import Config
from litgpt.model import GPT
from litgpt.utils import chunked_cross_entropy
from plain_loop import train_with_plain_loop
from protocol import Channel, Gate


def main() -> None:
    channel = Channel()
    job = channel.job
    shape = job["shape"]
    torch.manual_seed(job["seed"])
    config = Config(
        block_size=shape["context"],
        padded_vocab_size=shape["vocab_size"],
        vocab_size=shape["vocab_size"],
        n_layer=shape["num_layers"],
        n_head=shape["num_heads"],
        n_embd=shape["hidden_size"],
    )
    model = GPT(config)
    model.apply(model._init_weights)
    model.max_seq_length = shape["sequence_length"]
    model.to(job["device"])
    Gate(channel)
    called = torch.compile(model) if job["compile"] else model

    def loss(batch: torch.Tensor) -> torch.Tensor:
        return chunked_cross_entropy(called(batch[:, :-1].contiguous()), batch[:, 1:].contiguous())

    train_with_plain_loop(model, loss, job)


if __name__ == "__main__":
    main()
