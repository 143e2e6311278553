"""Targets for training a model with the head "token": the tag of each token that a tag is read from.

Each word is a target once, in the window in which it is predicted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from neolm.core.errors import InputError
from neolm.prediction.text_encoder import TextEncoder
from neolm.tables.questions import Places, counted, reasons
from neolm.tables.tagged_texts import TaggedText

IGNORED = -100
"""Target of tokens that no tag is read from."""


@dataclass(frozen=True)
class TagWindow:
    """A window with its targets."""

    text: int
    """Index of the text."""
    input_ids: list[int]
    token_type_ids: list[int]
    targets: list[int]
    """For each token the number of its tag, or IGNORED."""


@dataclass
class TagWindows:
    """The windows of the texts of a training part."""

    windows: list[TagWindow] = field(default_factory=list)
    left_out: dict[str, Places] = field(default_factory=dict)
    """Texts that cannot be trained on, by reason."""
    words_without_tokens: int = 0
    """Words whose characters are not in the vocabulary, such as control characters; they are no targets."""
    cut_texts: int = 0
    """Texts of more than one window."""

    def lines(self) -> list[str]:
        """What was made and what is wrong with it, for a person."""
        line = f"{len(self.windows):,} windows"
        line += f"; texts of more than one: {self.cut_texts:,}" if self.cut_texts else ""
        lines = [line, *reasons(self.left_out, "text")]
        if self.words_without_tokens:
            lines.append(f"words without tokens, which are not trained on: {self.words_without_tokens:,}")
        return lines


def tag_names(texts: Iterable[TaggedText]) -> tuple[str, ...]:
    """The tags of a model for these texts: O, and B- and I- for each label, sorted."""
    labels = {label for text in texts for label, _, _ in text.entities or []}
    return ("O", *(f"{prefix}-{label}" for label in sorted(labels) for prefix in "BI"))


def tag_windows(encoder: TextEncoder, texts: Sequence[TaggedText], names: Sequence[str]) -> TagWindows:
    """The windows of texts with their targets.

    Args:
        encoder: Reads the texts.
        texts: Each must be labelled.
        names: The tags of the model, in the order of its outputs; see `tag_names`.

    Raises:
        InputError: a text is not labelled, or a tag is not among the names.
    """
    numbers = {name: number for number, name in enumerate(names)}
    found = TagWindows()
    for index, text in enumerate(texts):
        if text.entities is None:
            raise InputError(f"{text.place}: the text is not labelled, so it cannot be trained on")
        if unknown := sorted({*text.tags} - {*names}):
            raise InputError(
                f"{text.place}: the tag {unknown[0]!r} is not among those of the model: {', '.join(names)}"
            )
        try:
            encoded = encoder.encode(text.text, text.words)
        except InputError as error:
            counted(found.left_out, str(error), text.place)
            continue
        found.words_without_tokens += sum(not tokens for tokens in encoded.word_tokens)
        found.cut_texts += len(encoded.windows) > 1
        tags = text.tags
        for number, words in enumerate(encoded.window_words()):
            if not words:
                continue
            ids, types = encoded.inputs(number)
            targets = [IGNORED] * len(ids)
            for word, positions in words:
                targets[positions.start : positions.stop] = [numbers[tags[word]]] * len(positions)
            found.windows.append(TagWindow(index, ids, types, targets))
    return found
