"""Texts and pairs of texts as a classifier reads them: whole, in overlapping windows, or cut.

An encoder reads `[CLS] text [SEP]` or `[CLS] text [SEP] second [SEP]`. A decoder reads a text as it is, and the end of
text between the texts of a pair.

A text that is longer than the model can read is divided into windows of equal length, of which each but the first
begins inside the one before it. The last one ends where the text ends. Pairs are cut, the longer text first, as in the
code of BERT (Devlin et al. 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neolm.prediction.prediction_file import LongText
from neolm.tokenizer.tokenizer import Tokenizer

Window = tuple[Sequence[int], Sequence[int]]
"""Token ids and token types."""
OVERLAP = 4  # a quarter of a window is also in the next one


@dataclass(frozen=True)
class EncodedText:
    """A text or a pair of texts."""

    windows: Sequence[Sequence[int]]
    """Token ids of each window, with special tokens."""
    types: Sequence[Sequence[int]]
    """Token types of each window."""
    left_out: int = 0
    """Number of tokens that no window has."""

    @property
    def inputs(self) -> list[Window]:
        """The windows as the model reads them."""
        return [*zip(self.windows, self.types, strict=True)]


def encode_texts(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    seconds: Sequence[str] | None,
    max_length: int,
    long_text: LongText = "windows",
) -> list[EncodedText]:
    """Read texts, or pairs of `texts` and `seconds`, in windows of at most `max_length` tokens."""
    firsts = tokenizer.encode_batch(texts)
    if seconds is None:
        room = max_length - len(whole(tokenizer, [])[0])
        return [_text(tokenizer, ids, room, long_text) for ids in firsts]
    room = max_length - len(whole(tokenizer, [], [])[0])
    return [_pair(tokenizer, a, b, room) for a, b in zip(firsts, tokenizer.encode_batch(seconds), strict=True)]


def whole(tokenizer: Tokenizer, a: list[int], b: list[int] | None = None) -> tuple[list[int], list[int]]:
    """Token ids and types of a text, or of a pair, with special tokens."""
    if tokenizer.kind != "bpe":
        return tokenizer.with_special(a, b)
    ids = a if b is None else [*a, tokenizer.eos_token_id, *b]
    return ids, [0] * len(ids)


def window_starts(length: int, room: int) -> list[int]:
    """First token of each window of `room` tokens over a text of `length`, evenly spread.

    Each window and the next one overlap by about a quarter.
    """
    if length <= room:
        return [0]
    step = max(1, room - room // OVERLAP)
    count = 1 + -(-(length - room) // step)
    return [round(number * (length - room) / (count - 1)) for number in range(count)]


def _text(tokenizer: Tokenizer, ids: list[int], room: int, long_text: LongText) -> EncodedText:
    starts = [0] if long_text == "truncate" else window_starts(len(ids), room)
    both = [whole(tokenizer, ids[start : start + room]) for start in starts]
    left_out = max(0, len(ids) - room) if long_text == "truncate" else 0
    return EncodedText([window for window, _ in both], [types for _, types in both], left_out)


def _pair(tokenizer: Tokenizer, a: list[int], b: list[int], room: int) -> EncodedText:
    """Tokens are taken from the end of the longer text, one at a time, until the pair fits."""
    excess = max(0, len(a) + len(b) - room)
    longer = max(0, len(a) - len(b)) if len(a) > len(b) else 0
    from_a = min(excess, longer)
    from_b = min(excess, max(0, len(b) - len(a)))
    rest = excess - from_a - from_b
    from_a, from_b = from_a + rest // 2, from_b + rest - rest // 2
    ids, types = whole(tokenizer, a[: len(a) - from_a], b[: len(b) - from_b])
    return EncodedText([ids], [types], excess)
