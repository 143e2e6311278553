"""Texts in windows: every token is read, windows overlap, pairs are cut as in the code of BERT."""

import itertools

from encoder_tokenizers import NumberTokenizer
from hypothesis import given
from hypothesis import strategies as st

from neolm.prediction.text_windows import encode_texts, window_starts

NUMBERS = st.lists(st.integers(5, 90), max_size=60)


class Tokenizer(NumberTokenizer):
    def with_special(self, a: list[int], b: list[int] | None = None) -> tuple[list[int], list[int]]:
        second = [] if b is None else [*b, 3]
        return [2, *a, 3, *second], [0] * (len(a) + 2) + [1] * len(second)


TOKENIZER = Tokenizer(100)


def spelled(ids: list[int]) -> str:
    return " ".join(map(str, ids))


@given(st.integers(0, 5000), st.integers(2, 600))
def test_windows_cover_a_text_and_overlap(length: int, room: int) -> None:
    starts = window_starts(length, room)
    assert starts[0] == 0
    assert starts[-1] + room >= length
    if len(starts) > 1:
        assert starts[-1] + room == length
        steps = [b - a for a, b in itertools.pairwise(starts)]
        assert all(0 < step <= room - room // 4 for step in steps)
        assert max(steps) - min(steps) <= 1


@given(NUMBERS, st.integers(10, 40))
def test_each_window_is_a_part_of_the_text(ids: list[int], length: int) -> None:
    (found,) = encode_texts(TOKENIZER, [spelled(ids)], None, length)  # type: ignore[arg-type]
    starts = window_starts(len(ids), length - 2)
    assert [window[1:-1] for window in found.windows] == [ids[s : s + length - 2] for s in starts]
    assert all(len(window) <= length and window[0] == 2 and window[-1] == 3 for window in found.windows)
    assert found.types == [[0] * len(window) for window in found.windows]
    assert found.left_out == 0


@given(NUMBERS, st.integers(10, 40))
def test_a_text_that_is_cut_says_how_much(ids: list[int], length: int) -> None:
    (found,) = encode_texts(TOKENIZER, [spelled(ids)], None, length, "truncate")  # type: ignore[arg-type]
    assert found.windows == [[2, *ids[: length - 2], 3]]
    assert found.left_out == max(0, len(ids) - (length - 2))


@given(NUMBERS, NUMBERS, st.integers(10, 40))
def test_of_a_pair_the_longer_text_is_cut_token_by_token(a: list[int], b: list[int], length: int) -> None:
    (found,) = encode_texts(TOKENIZER, [spelled(a)], [spelled(b)], length)  # type: ignore[arg-type]
    first, second = list(a), list(b)
    while len(first) + len(second) > length - 3:  # Devlin et al. 2019, `_truncate_seq_pair` with equal lengths: b
        (first if len(first) > len(second) else second).pop()
    assert found.windows == [[2, *first, 3, *second, 3]]
    assert found.types == [[0] * (len(first) + 2) + [1] * (len(second) + 1)]
    assert found.left_out == len(a) + len(b) - len(first) - len(second)
