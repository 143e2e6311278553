"""Properties of sampling."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neolm.core.errors import NonFiniteError
from neolm.generation.config import GenerationConfig
from neolm.generation.sampling import (
    apply_penalties,
    distribution,
    draw,
    keep_top_k,
    keep_top_p,
    prompt_generators,
    sample,
)

# Few distinct values on purpose: ties are where cutting goes wrong.
values = st.one_of(st.integers(-3, 3).map(float), st.floats(-30, 30, width=32))
rows = st.lists(values, min_size=1, max_size=40)
temperatures = st.sampled_from([1e-300, 1e-3, 0.3, 1.0, 2.0, 1e6])
top_ks = st.one_of(st.none(), st.integers(1, 50))
top_ps = st.one_of(st.none(), st.floats(0.01, 1.0))


def config(temperature: float = 1.0, **fields: float | None) -> GenerationConfig:
    return GenerationConfig(temperature=temperature, **fields)  # type: ignore[arg-type]


@given(rows, temperatures, top_ks, top_ps)
def test_a_distribution_sums_to_one_and_keeps_at_most_k(
    row: list[float], temperature: float, k: int | None, p: float | None
) -> None:
    result = distribution(torch.tensor([row]), config(temperature, top_k=k, top_p=p))
    assert result.sum().item() == pytest.approx(1, abs=1e-5)
    assert (result >= 0).all()
    assert (result > 0).sum() <= (k or len(row))
    assert result[0, torch.tensor(row).argmax()] > 0  # the likeliest token always stays


@given(rows, st.integers(1, 50))
def test_top_k_keeps_exactly_k_of_the_largest(row: list[float], k: int) -> None:
    kept = keep_top_k(torch.tensor([row]), k)[0]
    stay = kept.isfinite()
    assert stay.sum() == min(k, len(row))
    best = sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]
    assert stay.nonzero().flatten().tolist() == sorted(best)
    assert kept[stay].tolist() == [torch.tensor(row)[i].item() for i in sorted(best)]


@given(rows, st.floats(0.01, 0.999))
def test_top_p_is_the_smallest_set_that_reaches_p(row: list[float], p: float) -> None:
    logits = torch.tensor([row])
    probabilities = logits.softmax(-1)[0].double()
    stay = keep_top_p(logits, p)[0].isfinite()
    mass, least = probabilities[stay].sum().item(), probabilities[stay].min().item()
    assert stay.any()
    assert mass >= p - 1e-6
    assert mass - least < p + 1e-9  # without its least token it would not reach p
    assert (~stay).sum() == 0 or probabilities[~stay].max() <= least


@given(st.lists(rows, min_size=2, max_size=4), st.integers(1, 50), st.floats(0.01, 1.0))
def test_a_row_does_not_depend_on_its_batch(table: list[list[float]], k: int, p: float) -> None:
    width = min(map(len, table))
    logits = torch.tensor([row[:width] for row in table])
    settings = config(0.7, top_k=k, top_p=p)
    together = distribution(logits, settings)
    alone = torch.cat([distribution(row.unsqueeze(0), settings) for row in logits])
    assert torch.equal(together > 0, alone > 0)
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(distribution(logits.flip(0), settings).flip(0), together)


@given(rows, temperatures, st.floats(0, 0.999))
def test_k_of_one_is_greedy(row: list[float], temperature: float, uniform: float) -> None:
    logits = torch.tensor([row])
    only = distribution(logits, config(temperature, top_k=1))
    assert draw(only, torch.tensor([uniform], dtype=torch.float64)).item() == logits.argmax().item()


def test_the_order_is_temperature_then_top_k_then_top_p() -> None:
    logits = torch.tensor([[math.log(x) for x in (0.4, 0.3, 0.2, 0.1)]])
    # After top-k 2 the two tokens have 4/7 and 3/7, so top-p 0.5 keeps one; top-p first would keep two.
    assert (distribution(logits, config(1.0, top_k=2, top_p=0.5)) > 0).sum() == 1
    # A temperature of 100 makes all four nearly equal before top-p.
    assert (distribution(logits, config(100.0, top_p=0.74)) > 0).sum() == 3


@given(rows, st.floats(0.1, 10), st.data())
def test_the_penalty_makes_seen_tokens_less_likely(row: list[float], penalty: float, data: st.DataObject) -> None:
    logits = torch.tensor(row)
    seen = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(row), max_size=len(row))))
    result = apply_penalties(logits, seen.nonzero().flatten().tolist(), 0, GenerationConfig(repetition_penalty=penalty))
    assert torch.equal(result[~seen], logits[~seen])
    wanted = [x / penalty if x > 0 else x * penalty for x in logits[seen].tolist()]
    torch.testing.assert_close(result[seen], torch.tensor(wanted))


@settings(max_examples=50)
@given(st.lists(st.sampled_from([0.0, 0.0, 0.25, 1.0]), min_size=1, max_size=30), st.floats(0, 1, exclude_max=True))
def test_a_draw_inverts_the_distribution_and_never_takes_probability_zero(weights: list[float], uniform: float) -> None:
    if not any(weights):
        return
    probabilities = torch.tensor([weights]) / sum(weights)
    token = draw(probabilities, torch.tensor([uniform], dtype=torch.float64)).item()
    assert probabilities[0, int(token)] > 0
    assert probabilities[0, : int(token)].sum().item() <= uniform + 1e-6


def test_draws_have_the_frequencies_of_the_distribution() -> None:
    probabilities = torch.tensor([[0.5, 0.0, 0.3, 0.2]]).expand(20_000, 4)
    [stream] = prompt_generators([[1]], seed=0)
    uniforms = torch.tensor([stream.random() for _ in range(20_000)], dtype=torch.float64)
    counts = Counter(draw(probabilities, uniforms).tolist())
    assert counts[1] == 0
    for token, share in ((0, 0.5), (2, 0.3), (3, 0.2)):
        assert counts[token] / 20_000 == pytest.approx(share, abs=0.02)


def test_generators_depend_on_seed_prompt_and_occurrence() -> None:
    first = [stream.random() for stream in prompt_generators([[1, 2], [3], [1, 2]], seed=5)]
    again = [stream.random() for stream in prompt_generators([[3], [1, 2]], seed=5)]
    assert again == [first[1], first[0]]
    assert len(set(first)) == 3
    assert [stream.random() for stream in prompt_generators([[1, 2]], seed=6)] != first[:1]
    assert prompt_generators([[1]], None)[0].random() != prompt_generators([[1]], None)[0].random()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_logits_are_an_error(bad: float) -> None:
    logits: Tensor = torch.tensor([[0.0, bad, 1.0]])
    with pytest.raises(NonFiniteError, match="not finite"):
        sample(logits, config(0.0), prompt_generators([[1]], 0))


class MpsTensor(torch.Tensor):
    """A CPU tensor that reports the device mps and, as on mps, cannot become float64."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("mps")

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(function, types, args, kwargs or {})
        if isinstance(result, MpsTensor) and result.dtype == torch.float64:
            raise TypeError("the MPS framework doesn't support float64")
        return result.as_subclass(Tensor) if function is Tensor.cpu else result


@pytest.mark.parametrize("fields", [{}, {"top_p": 0.9}, {"top_k": 5, "top_p": 0.5}])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_device_without_float64_samples_the_same_tokens(temperature: float, fields: dict[str, Any]) -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    settings = config(temperature, **fields)
    expected = sample(logits, settings, prompt_generators([[1], [2], [3]], 0))
    found = sample(logits.as_subclass(MpsTensor), settings, prompt_generators([[1], [2], [3]], 0))
    assert found.tolist() == expected.tolist()


def test_top_p_keeps_all_tokens_if_rounding_leaves_their_sum_below_p() -> None:
    logits, p = torch.randn(50, 1000, generator=torch.Generator().manual_seed(0)), 1 - 1e-12
    assert (logits.softmax(-1).double().sum(-1) < p).any()
    assert keep_top_p(logits, p).isfinite().all(1).any()
