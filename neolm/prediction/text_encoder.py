"""A text with its words as an encoder reads it: `[CLS] part of the text [SEP]`, in windows that overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neolm.core.errors import InputError, SettingError
from neolm.prediction.prediction_file import PredictionConfig
from neolm.prediction.text_tokens import TextTokens, Windows, cut_windows, text_tokens
from neolm.tables.words import Place, text_words
from neolm.tokenizer.tokenizer import Tokenizer

SPECIAL = 2  # [CLS] and [SEP]
FIRST = 1  # position of the first token of the text in a window


@dataclass(frozen=True)
class EncodedText:
    """A text with its words, their tokens, and its windows."""

    tokenizer: Tokenizer
    tokens: TextTokens
    words: Sequence[Place]
    """The characters of each word."""
    word_tokens: Sequence[range]
    """The tokens of each word that its tag is read from; none if its characters are not in the vocabulary."""
    windows: Windows

    def inputs(self, number: int) -> tuple[list[int], list[int]]:
        """Token ids and token types of a window."""
        part = self.windows.tokens(number)
        return self.tokenizer.with_special(self.tokens.ids[part.start : part.stop])

    def window_words(self) -> list[list[tuple[int, range]]]:
        """For each window the words that are read in it, with the positions of their tokens there.

        A word is read in the window in which its first token has the most context. Tokens beyond it are left out.
        """
        owners = self.windows.with_most_context()
        found: list[list[tuple[int, range]]] = [[] for _ in range(len(self.windows))]
        for word, tokens in enumerate(self.word_tokens):
            if tokens:
                number = int(owners[tokens.start])
                part = self.windows.tokens(number)
                shift = FIRST - part.start
                found[number].append((word, range(tokens.start + shift, min(tokens.stop, part.stop) + shift)))
        return found


class TextEncoder:
    """Reads texts word by word."""

    def __init__(self, tokenizer: Tokenizer, positions: int, settings: PredictionConfig) -> None:
        """`positions` is the longest sequence that the model reads.

        Raises:
            InputError: the tokenizer has no [CLS] or [SEP].
            SettingError: the windows are longer than that or hold no text, or the stride passes over tokens.
        """
        tokenizer.with_special([])
        window = settings.window_tokens or positions
        self.tokenizer, self.stride, self.room = tokenizer, settings.stride, window - SPECIAL
        self._rule, self._all_tokens = settings.words, settings.word_labels == "all"
        if window > positions:
            raise SettingError("window_tokens", f"{window} is more than the {positions} that the model reads")
        if self.room < 1:
            raise SettingError("window_tokens", f"{window} holds no text beside [CLS] and [SEP]")
        if self.stride is not None and self.stride > self.room:
            raise SettingError(
                "stride",
                f"{self.stride} passes over tokens of the text: a window of {window} holds {self.room}; the largest "
                f"stride is {self.room}",
            )

    def encode(self, text: str, words: Sequence[Place] | None = None) -> EncodedText:
        """The text as the model reads it; `words` None: those of `text_words`.

        Raises:
            InputError: it is empty or has no tokens.
        """
        if not text.strip():
            raise InputError("the text is empty")
        tokens = text_tokens(self.tokenizer, text)
        if not tokens.visible.any():
            raise InputError("the text has no tokens: none of its characters is in the vocabulary")
        words = text_words(text, self._rule) if words is None else words
        windows = cut_windows(len(tokens.ids), self.room, self.stride)
        return EncodedText(self.tokenizer, tokens, words, self._word_tokens(tokens, words), windows)

    def _word_tokens(self, tokens: TextTokens, words: Sequence[Place]) -> list[range]:
        """The tokens of each word that its tag is read from. Both are in the order of the text."""
        visible = np.flatnonzero(tokens.visible)
        starts, ends = tokens.starts[visible], tokens.ends[visible]
        found = []
        for start, end in words:
            first = int(np.searchsorted(ends, start, side="right"))
            after = int(np.searchsorted(starts, end, side="left"))
            if start >= end or first >= after:
                found.append(range(0))
            elif self._all_tokens:
                found.append(range(int(visible[first]), int(visible[after - 1]) + 1))
            else:
                found.append(range(int(visible[first]), int(visible[first]) + 1))
        return found
