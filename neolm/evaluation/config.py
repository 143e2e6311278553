"""The `evaluate` section of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from neolm.core.config import Config, Unit

Positive = Annotated[int, Field(gt=0)]


class EvaluateConfig(Config):
    """Measure a model on held-out documents, next to what compressors reach on the same text."""

    window: Annotated[Positive | None, Unit("tokens")] = None
    """Tokens that the model reads at once; null: the model's context."""
    stride: Annotated[Positive | None, Unit("tokens")] = None
    """Tokens that the window moves by, and scores; smaller gives more context and costs more; null: half the window."""
    max_bytes: Annotated[Positive | None, Unit("bytes")] = 400_000
    """Measure whole documents, chosen evenly by a hash of their id, until there is this much text; null: all of it."""
    batch_size: Annotated[Positive, Unit("windows")] = 16
    """Windows that go through the model at once; no score depends on it."""
    bootstrap_samples: Annotated[int, Field(ge=100), Unit("samples")] = 1000
    """Times that the documents are drawn anew for the intervals."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Share of the bootstrap that an interval holds."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the choice of documents, of the bootstrap and of the sampled continuations."""
    baselines: bool = True
    """Also compress the documents with xz, and with zstd and a dictionary from the training text."""
    dictionary_bytes: Annotated[int, Field(ge=1024, le=2**26), Unit("bytes")] = 2**20
    """Size of the zstd dictionary; it is not counted in the compressed size, as the model's own size is not."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:N or mps."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Type of the weights while measuring; auto: bfloat16 where the hardware multiplies it, less exact."""
    quantize: Literal["int8", "int4"] | None = None
    """Round the weights to 8 or 4 bits and measure what that costs; null: as they are."""
    prompts: tuple[str, ...] | None = None
    """Texts that the model continues, for the report; null: the first words of four held-out documents."""
    sample_tokens: Annotated[int, Field(ge=0), Unit("tokens")] = 96
    """Longest continuation of a prompt."""
    temperature: Annotated[float, Field(gt=0)] = 0.8
    """Of the sampled continuations; the greedy ones have none."""
