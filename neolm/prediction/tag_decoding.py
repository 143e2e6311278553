"""From the logits of tokens to the tags of words, and from these to entities in the raw text.

Tags that break the scheme still make entities, as in the default mode of seqeval: I-PER behind O starts one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neolm.core.errors import InputError, NonFiniteError, shortened
from neolm.metrics.entities import Entity, entities
from neolm.prediction.text_encoder import EncodedText
from neolm.tables.tagged_texts import iob2_tags, tag_entities

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FoundEntity:
    """A part of a text with a label."""

    label: str
    text: str
    start: int
    """Index of its first character in the text."""
    end: int
    """Index of the character after its last one."""
    probability: float
    """That each of its words has a tag of this label: the product over the words."""


class TagDecoder:
    """The tags of the words of one text, from the logits of its windows."""

    def __init__(self, text: EncodedText, labels: Sequence[str]) -> None:
        """`labels` are the tags that the outputs of the model stand for; see `check_labels`."""
        self.text, self.labels = text, labels
        self._kinds = [label[2:] for label in labels]
        self._window_words = text.window_words()
        self.probabilities: Floats = np.zeros((len(text.words), len(labels)))
        """(words, K) of each tag; zero for a word without tokens."""

    def add(self, number: int, logits: Floats) -> None:
        """Add the logits (T, K) of a window. The mean over the tokens of a word counts.

        Raises:
            NonFiniteError: a logit is not finite.
        """
        if not np.isfinite(logits).all():
            raise NonFiniteError("predict: a logit is not finite; the weights are damaged")
        for word, positions in self._window_words[number]:
            mean = logits[positions.start : positions.stop].mean(axis=0)
            shares = np.exp(mean - mean.max())
            self.probabilities[word] = shares / shares.sum()

    def word_entities(self) -> list[Entity]:
        """The entities as label, first word, and the word after the last one.

        Words without tokens have no tag: an entity may go on behind them.
        """
        read = [word for word, tokens in enumerate(self.text.word_tokens) if tokens]
        tags = [self.labels[best] for best in self.probabilities[read].argmax(axis=1)]
        return [(label, read[first], read[after - 1] + 1) for label, first, after in entities(tags)]

    def tags(self) -> list[str]:
        """The tag of each word in IOB2, with broken sequences repaired."""
        return iob2_tags(len(self.text.words), self.word_entities())

    def found(self) -> list[FoundEntity]:
        """The entities with their places in the text."""
        return [self._entity(*entity) for entity in self.word_entities()]

    def _entity(self, label: str, first: int, after: int) -> FoundEntity:
        outputs = [number for number, kind in enumerate(self._kinds) if kind == label]
        shares = [self.probabilities[w, outputs].sum() for w in range(first, after) if self.text.word_tokens[w]]
        start, end = self.text.words[first][0], self.text.words[after - 1][1]
        return FoundEntity(label, self.text.tokens.text[start:end], start, end, float(np.prod(shares)))


def check_labels(labels: Sequence[str]) -> None:
    """Raise `InputError` if the outputs of a model are no tags of BIO, IOB2 or IOBES, each once."""
    try:
        tag_entities(labels)
    except InputError as error:
        raise InputError(f"the labels of the model, {shortened(list(labels), 80)}, mark no entities: {error}") from None
    if len(set(labels)) < len(labels):
        raise InputError(f"the labels of the model, {shortened(list(labels), 80)}, name a tag twice")
