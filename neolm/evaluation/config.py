"""The `evaluate` section of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from neolm.core.config import Config, Unit
from neolm.corpus.config import CorpusConfig

Positive = Annotated[int, Field(gt=0)]


class EvaluateConfig(Config):
    """Measure a model on held-out documents; for a decoder, also compressors on the same text."""

    window: Annotated[Positive | None, Unit("tokens")] = None
    """Tokens that the model reads at a time, for encoders the longest sequence; null: the model's context."""
    stride: Annotated[Positive | None, Unit("tokens")] = None
    """Tokens by which the window moves. Smaller values give each token more context and take longer; null: half the
    window."""
    max_bytes: Annotated[Positive | None, Unit("bytes")] = 400_000
    """Measure whole documents, chosen by a hash of their id, up to this amount of text; null: all of it."""
    batch_size: Annotated[Positive, Unit("windows")] = 16
    """Windows computed at a time; the scores do not depend on it."""
    bootstrap_samples: Annotated[int, Field(ge=100, le=1_000_000), Unit("samples")] = 1000
    """Number of draws for the intervals."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Confidence of the intervals."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the choice of documents, of the bootstrap and of the sampled continuations."""
    baselines: bool = True
    """Also compress the documents with xz, and with zstd and a dictionary made from the training text."""
    dictionary_bytes: Annotated[int, Field(ge=1024, le=2**26), Unit("bytes")] = 2**20
    """Size of the zstd dictionary. It is not counted in the compressed size, as the size of the model is not."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:N or mps."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Type of the weights; auto: bfloat16 if the hardware computes with it, which is less exact."""
    quantize: Literal["int8", "int4"] | None = None
    """Measure the model with weights rounded to 8 or 4 bits; null: as they are."""
    prompts: tuple[str, ...] | None = None
    """Texts that the model continues, for the report; null: the first words of four held-out documents."""
    sample_tokens: Annotated[int, Field(ge=0), Unit("tokens")] = 96
    """Maximum length of a continuation."""
    temperature: Annotated[float, Field(gt=0)] = 0.8
    """Temperature of the sampled continuations."""
    pseudo_perplexity_documents: Annotated[int, Field(ge=0), Unit("documents")] = 0
    """Encoders: measure the pseudo-perplexity of this many documents too, one forward pass for each of their tokens."""


class TextEvaluateConfig(EvaluateConfig):
    """The settings of the command `neolm evaluate`: those of a recipe, and how the files of `--text` are read."""

    text_key: Annotated[str, Field(min_length=1)] = CorpusConfig.model_fields["text_key"].default
    """For `neolm evaluate --text` only: the key (.jsonl) or column (.parquet) of the text."""
    max_document_bytes: Annotated[int, Field(ge=1), Unit("bytes")] = CorpusConfig.model_fields[
        "max_document_bytes"
    ].default
    """For `neolm evaluate --text` only: larger documents are left out as `too_large`."""
