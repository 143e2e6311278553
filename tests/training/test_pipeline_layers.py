"""The layers of the stages of a pipeline, and the parts of a model that compute them."""

from __future__ import annotations

import copy
from itertools import combinations, pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_encoder import TOKENIZER
from torch import nn

from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder
from neolm.models.encoder import Encoder
from neolm.models.encoder_config import encoder_config
from neolm.training.config import TrainConfig
from neolm.training.model_part import keep_modules, whole_parameters
from neolm.training.optimiser import build_optimisers
from neolm.training.pipeline_layers import about_layers, divide, pipeline_layers

SIZES = {"vocab_size": TOKENIZER.size, "hidden_size": 16, "num_layers": 4, "num_heads": 2}
LONG = {"max_position_embeddings": 16}


@given(layers=st.integers(1, 8), parts=st.integers(1, 8), before=st.floats(0, 3), after=st.floats(0, 3))
def test_no_other_division_has_more_equal_costs(layers: int, parts: int, before: float, after: float) -> None:
    if parts > layers:
        with pytest.raises(ValueError, match="cannot be divided"):
            divide(layers, parts, before, after)
        return

    def cost(ends: list[int]) -> float:
        costs = [float(end - start) for start, end in pairwise([0, *ends])]
        costs[0], costs[-1] = costs[0] + before, costs[-1] + after if parts > 1 else costs[-1] + before + after
        return sum(each**2 for each in costs)

    found = divide(layers, parts, before, after)
    assert [layer for part in found for layer in part] == [*range(layers)]
    least = min(cost([*ends, layers]) for ends in combinations(range(1, layers), parts - 1))
    assert cost([part.stop for part in found]) == pytest.approx(least)


def test_a_large_vocabulary_leaves_few_layers_to_the_last_stage() -> None:
    model = decoder_config("gpt2", vocab_size=50257, hidden_size=768, num_layers=12, num_heads=12)
    stages = pipeline_layers(model, 4)
    assert about_layers(stages) == (
        "stage 0: embeddings, layers 0-2; stage 1: layers 3-6; stage 2: layers 7-10; stage 3: layer 11, head"
    )
    interleaved = pipeline_layers(model, 2, 2)
    assert interleaved == [[range(3), range(7, 11)], [range(3, 7), range(11, 12)]]
    assert about_layers(interleaved).startswith("stage 0: embeddings, layers 0-2 and 7-10; stage 1")


def small(family: str, **fields: Any) -> nn.Module:
    if family in ("bert", "albert"):
        return Encoder(encoder_config(family, **(SIZES | LONG | fields))).initialise(1)
    return Decoder(decoder_config(family, **(SIZES | LONG | fields))).initialise(1)


MODELS = [
    *(("gpt2", {}), ("gpt-neo", {"window_size": 4}), ("gpt-neox", {}), ("bert", {})),
    *(("albert", {"groups": 2, "embedding_size": 8}), ("albert", {"sharing": "attention", "embedding_size": 8})),
]


@pytest.mark.parametrize(("family", "fields"), MODELS)
def test_the_stages_compute_what_the_whole_model_does(family: str, fields: dict[str, Any]) -> None:
    whole = small(family, **fields).eval()
    inputs = {"input_ids": torch.arange(24).view(2, 12) % 50, "labels": torch.arange(24).view(2, 12) % 7}
    if family in ("bert", "albert"):
        inputs |= {
            "attention_mask": torch.tensor([[1] * 12, [1] * 7 + [0] * 5]),
            "sentence_labels": torch.tensor([0, 1]),
        }
    hidden: Any = None
    names = []
    for (layers,) in pipeline_layers(whole.config, 3):  # type: ignore[arg-type]
        part = copy.deepcopy(whole)
        keep_modules(part, part.modules_of(layers))  # type: ignore[operator]
        assert sum(p.numel() for p in part.parameters()) < sum(p.numel() for p in whole.parameters())
        assert [name for name, _ in whole_parameters(part)] == [name for name, _ in whole.named_parameters()]
        assert all(p.is_meta == (name not in dict(part.named_parameters())) for name, p in whole_parameters(part))
        names += [name for name, _ in part.named_parameters()]
        hidden = part(**inputs, hidden=hidden, layers=layers)
    assert {*names} == {name for name, _ in whole.named_parameters()}
    expected = whole(**inputs)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(hidden, expected, strict=True))


@pytest.mark.parametrize("optimiser", ["adamw", "lamb", "muon"])
def test_parameters_are_numbered_as_in_the_whole_model(optimiser: str) -> None:
    whole = small("gpt2")
    config = TrainConfig(steps=1, optimiser=optimiser)  # type: ignore[arg-type]

    def numbered(model: nn.Module) -> dict[tuple[int, int], str]:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        return {
            (place, number): names[id(parameter)]
            for place, each in enumerate(build_optimisers(model, config))
            for group in each.param_groups
            for number, parameter in zip(group["numbers"], group["params"], strict=True)
        }

    expected = numbered(whole)
    found = {}
    for (layers,) in pipeline_layers(whole.config, 2):  # type: ignore[arg-type]
        part = copy.deepcopy(whole)
        keep_modules(part, part.modules_of(layers))  # type: ignore[operator]
        found |= numbered(part)
    assert found == expected
