"""Measurements: what is measured on a subject, and how the values become scores with intervals.

A measurement returns one value per item, with the group that the item belongs to. The same bootstrap over groups gives
the interval of every score. Scores are stored by measurement with the id of a protocol, which records the data and the
settings that the number depends on.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from neolm.core.errors import InputError
from neolm.core.files import digest_json
from neolm.core.ranks import ONE_RANK, RunRanks
from neolm.evaluation.language_model import DecoderLanguageModel
from neolm.evaluation.perplexity import DocumentScore, document_scores, text_bytes
from neolm.metrics.intervals import Interval, bootstrap_ratio

Subject_contra = TypeVar("Subject_contra", contravariant=True)


@dataclass(frozen=True)
class Values:
    """One value per item; the score is the sum of the `amounts` over the sum of the `weights`, then `transform`ed."""

    amounts: NDArray[np.float64]
    weights: NDArray[np.float64]
    groups: Sequence[str]
    unit: str = ""
    transform: Callable[[float], float] = float
    """An increasing function, such as the exponential for a perplexity."""

    def select(self, chosen: Sequence[bool]) -> Values:
        """The values of the chosen items only."""
        mask = np.asarray(chosen)
        groups = [group for group, is_chosen in zip(self.groups, chosen, strict=True) if is_chosen]
        return replace(self, amounts=self.amounts[mask], weights=self.weights[mask], groups=groups)

    def interval(self, samples: int = 1000, confidence: float = 0.95, seed: int = 0) -> Interval:
        """The score with its interval from a bootstrap over the groups.

        Raises:
            InputError: the weights are all 0.
        """
        if not (self.weights > 0).any():
            raise InputError("evaluation: there is no text to measure on")
        ratio = bootstrap_ratio(self.amounts, self.weights, self.groups, samples, confidence, seed)
        return ratio.map(self.transform)


class Measurement(Protocol[Subject_contra]):
    """Something that is measured on a subject, such as a language model or a classifier."""

    def protocol(self) -> Mapping[str, Any]:
        """The data and the settings that the values depend on, as JSON."""

    def measure(self, subject: Subject_contra) -> Mapping[str, Values]:
        """The values of each score by its name."""


def protocol_id(protocol: Mapping[str, Any]) -> str:
    """The name of the measurement and a digest of the whole protocol."""
    return f"{protocol['measurement']}-{digest_json(protocol)[:12]}"


class TextDocument(Protocol):
    """A document to measure on. It may have a `source`, for scores by source, and a `parent` that it is a part of."""

    @property
    def id(self) -> str:
        """Name of the document, unique in the corpus."""

    @property
    def text(self) -> str:
        """The whole text."""


def group_of(document: TextDocument) -> str:
    """The document that a part was cut from; the document's own id if it is whole."""
    return str(getattr(document, "parent", "") or document.id)


def data_of(documents: Sequence[TextDocument]) -> dict[str, Any]:
    """What is measured on: a digest of the texts, the numbers of documents and groups, and the bytes."""
    raw = [text_bytes(document.text) for document in documents]
    return {
        "digest": digest_json(sorted(hashlib.sha256(text).hexdigest() for text in raw)),
        "documents": len(raw),
        "groups": len({group_of(document) for document in documents}),
        "bytes": sum(map(len, raw)),
    }


@dataclass(frozen=True)
class TextLikelihood:
    """Loss, perplexities and bits per byte of documents under a language model, by a sliding window."""

    documents: Sequence[TextDocument]
    window: int
    stride: int
    batch_size: int = 16
    ranks: RunRanks = ONE_RANK

    def protocol(self) -> dict[str, Any]:
        """The documents (by a digest of their texts), window and stride."""
        data = data_of(self.documents)
        return {"measurement": "likelihood", "data": data, "window": self.window, "stride": self.stride}

    def measure(self, subject: DecoderLanguageModel) -> dict[str, Values]:
        """`bits_per_byte`, `loss`, `token_perplexity` and `word_perplexity`; the amounts are nats."""
        texts, names = [document.text for document in self.documents], [document.id for document in self.documents]
        settings = self.window, self.stride, self.batch_size, names, self.ranks
        found = document_scores(subject.model, subject.tokenizer, texts, *settings)
        return likelihood_values(found, [group_of(document) for document in self.documents])


def likelihood_values(scores: Sequence[DocumentScore], groups: Sequence[str]) -> dict[str, Values]:
    """The measures that follow from the likelihood of documents; definitions in `neolm.evaluation.perplexity`."""
    nats = np.array([score.negative_log_likelihood for score in scores])

    def per(what: str, unit: str, transform: Callable[[float], float] = float) -> Values:
        weights = np.array([getattr(score, what) for score in scores], np.float64)
        return Values(nats, weights, groups, unit, transform)

    return {
        "bits_per_byte": per("bytes", "bits per byte", lambda nats: nats / math.log(2)),
        "loss": per("tokens", "nats per token"),
        "token_perplexity": per("tokens", "per token", _exp),
        "word_perplexity": per("words", "per word", _exp),
    }


def _exp(x: float) -> float:
    """The exponential of x; infinity where it exceeds a float."""
    return math.exp(x) if x < 709 else math.inf
