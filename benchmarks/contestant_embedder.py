"""Embedding with NeoLM's `load_embedder`. It forms batches itself."""

from __future__ import annotations

from embedding import serve
from protocol import Channel

import neolm


def main() -> None:
    channel = Channel()
    job = channel.job
    embedder = neolm.load_embedder(job["model"], "cpu", job["dtype"], job["quantize"])
    serve(channel, lambda texts, _: embedder.embed(texts).numpy(), batch_sizes=(1,))


if __name__ == "__main__":
    main()
