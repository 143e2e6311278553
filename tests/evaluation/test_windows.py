"""Windows score each token once, with the context that the stride leaves; batches and padding change nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neolm.evaluation import windows as windows_module
from neolm.evaluation.windows import Window, score_windows, sliding_windows
from neolm.models.decoder import Decoder


def rolling_windows_of_the_harness(tokens: list[int], prefix: int, length: int) -> list[tuple[list[int], list[int]]]:
    """Input and target tokens of the definition in words: disjoint targets, the last with a full window of input."""
    whole = [prefix, *tokens]
    found = []
    for start in range(0, len(tokens), length):
        end = min(start + length, len(tokens))
        found.append((whole[max(0, end - length) : end], tokens[start:end]))
    return found


@given(length=st.integers(0, 200), window=st.integers(1, 40), data=st.data())
def test_each_token_is_scored_once_with_enough_context(length: int, window: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, window))
    ids = np.arange(length + 1)
    scored: list[int] = []
    for number, part in enumerate(sliding_windows(ids, window, stride)):
        assert len(part.ids) - 1 <= window
        targets = part.ids[len(part.ids) - part.scored :]
        context = len(part.ids) - part.scored
        # all that there is before the first of them, or what the stride leaves of a window
        assert context >= min(int(targets[0]), window - stride + 1)
        assert number == 0 or len(targets) <= stride
        scored += targets.tolist()
    assert scored == list(range(1, length + 1))


@given(length=st.integers(0, 100), window=st.integers(1, 20))
def test_a_stride_of_one_window_is_the_harness(length: int, window: int) -> None:
    tokens = list(range(1, length + 1))
    ours = [
        (w.ids[:-1].tolist(), w.ids[len(w.ids) - w.scored :].tolist())
        for w in sliding_windows(np.arange(length + 1), window, window)
    ]
    assert ours == rolling_windows_of_the_harness(tokens, 0, window)


def naive(model: Decoder, window: Window) -> tuple[float, bool]:
    """One token after another, each from a pass of its own."""
    total, greedy = 0.0, True
    ids = window.ids.tolist()
    with torch.inference_mode():
        for position in range(len(ids) - window.scored, len(ids)):
            row = model(torch.tensor([ids[:position]]))[0, -1].double().log_softmax(0)
            total += float(row[ids[position]])
            greedy &= int(row.argmax()) == ids[position]
    return total, greedy


def ragged(seed: int = 0, count: int = 12) -> list[Window]:
    chooser = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        length = int(chooser.integers(2, 34))
        found.append(Window(chooser.integers(0, 330, length), int(chooser.integers(1, length))))
    return found


@pytest.mark.parametrize("family", ["gpt2", "gpt-neo", "gpt-neox"])
@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_scores_equal_those_of_one_token_at_a_time(make: Callable[..., Decoder], family: str, batch_size: int) -> None:
    model = make(family)
    windows = ragged()
    sums, greedy = score_windows(model, windows, batch_size)
    for window, total, likeliest in zip(windows, sums, greedy, strict=True):
        expected, expected_greedy = naive(model, window)
        assert total == pytest.approx(expected, rel=1e-5, abs=1e-5)
        assert likeliest == expected_greedy


def test_scores_do_not_depend_on_batch_order_or_chunks(neo: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = ragged(1, 30)
    alone = np.array([score_windows(neo, [window], 1)[0][0] for window in windows])
    for batch_size in (2, 7, 64):
        assert np.abs(score_windows(neo, windows, batch_size)[0] - alone).max() < 1e-5
    shuffled = np.random.default_rng(0).permutation(len(windows))
    again = score_windows(neo, [windows[i] for i in shuffled], 4)[0]
    assert np.abs(again - alone[shuffled]).max() < 1e-5
    monkeypatch.setattr(windows_module, "MAX_LOGITS", 330 * 3)  # three positions at a time
    assert np.abs(score_windows(neo, windows, 7)[0] - alone).max() < 1e-5


def test_greedy_equals_what_the_model_writes(neo: Decoder) -> None:
    ids = [5, 9]
    with torch.inference_mode():
        for _ in range(6):
            ids.append(int(neo(torch.tensor([ids]))[0, -1].argmax()))
    assert score_windows(neo, [Window(np.array(ids), 6)], 1)[1].tolist() == [True]
    ids[-1] = (ids[-1] + 1) % 330
    assert score_windows(neo, [Window(np.array(ids), 6)], 1)[1].tolist() == [False]


def test_dropout_is_off_while_scoring_and_back_afterwards(make: Callable[..., Decoder]) -> None:
    model = make("gpt2", seed=3, residual_dropout=0.5)
    expected = score_windows(model, ragged(), 4)[0]
    model.train()
    assert np.array_equal(score_windows(model, ragged(), 4)[0], expected)
    assert model.training
    model.eval()


def test_no_window_is_no_score(neo: Decoder) -> None:
    sums, greedy = score_windows(neo, [], 4)
    assert len(sums) == len(greedy) == 0
