"""Embedding with the encoder of Hugging Face transformers, sorted batches, mean pooling and vectors of length 1."""

from __future__ import annotations

import torch
from embedding import serve
from protocol import Channel
from torch import Tensor
from transformers import AutoModel, AutoTokenizer


def main() -> None:
    channel = Channel()
    job = channel.job
    model = AutoModel.from_pretrained(job["model"], dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(job["model"])

    @torch.inference_mode()
    def embed(texts: list[str], batch_size: int) -> Tensor:
        order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
        vectors = torch.empty(len(texts), model.config.hidden_size)
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            inputs = tokenizer(
                [texts[row] for row in rows],
                padding=True,
                truncation=True,
                max_length=job["max_length"],
                return_tensors="pt",
            )
            mask = inputs["attention_mask"].unsqueeze(2)  # (B, T, 1)
            hidden = model(**inputs).last_hidden_state  # (B, T, C)
            vectors[rows] = (hidden * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(vectors)

    serve(channel, embed)


if __name__ == "__main__":
    main()
