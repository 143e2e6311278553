"""Plans against the figures of papers, and by hand."""

from typing import Any

import pytest
import torch

from neolm.core.errors import InputError
from neolm.models.config import DecoderConfig, decoder_config
from neolm.models.encoder import Encoder
from neolm.models.encoder_config import encoder_config
from neolm.models.families import preset
from neolm.recipe import load_recipe
from neolm.scaling import plan_table
from neolm.scaling.accelerators import ACCELERATORS, Accelerator
from neolm.scaling.plan import PF_DAY, Plan, assumptions, make_plan
from neolm.training.pretrain_config import PretrainConfig

V100 = ACCELERATORS["v100"]


def model(name: str) -> DecoderConfig:
    fields = preset(name)
    return decoder_config(fields.pop("family"), **fields)


def plan_of(name: str, counts: tuple[int, int], device: Accelerator = V100, **chosen: Any) -> Plan:
    recipe = load_recipe(name)
    return make_plan(model(name), counts, recipe.pretrain, device, assumptions(**chosen))


def test_gpt3_by_six_nd_is_what_its_paper_states() -> None:
    plan = plan_of("gpt3-175b", (174_604_259_328, 173_961_535_488))
    assert plan.tokens == pytest.approx(300e9, rel=1e-5)  # whole steps
    assert plan.six_nd == pytest.approx(3.14e23, rel=2e-3)
    assert plan.six_nd / PF_DAY == pytest.approx(3637, abs=1)  # the paper: 3,640 (Brown et al. 2020, appendix D)


def test_gpt3_takes_what_patterson_found() -> None:
    # Patterson et al. 2021: 10,000 V100 of 330 W, 14.8 days, 1,287 MWh, 552 t. Their FLOPs come to a little more.
    plan = plan_of("gpt3-175b", (174_604_259_328, 173_961_535_488), devices=10_000, mfu=0.213)
    assert plan.seconds / 86400 == pytest.approx(14.8, rel=0.06)
    assert plan.kwh / 1000 == pytest.approx(1287, rel=0.06)
    assert plan.kilograms / 1000 == pytest.approx(552, rel=0.06)


@pytest.mark.parametrize(
    ("name", "steps", "tokens"),
    [
        ("gpt-neox-20b", 150_000, 150_000 * 3_145_728),
        ("gpt-neo-125m", 572_300, 572_300 * 256 * 2048),
        ("gpt-neo-1.3b", 362_000, 362_000 * 512 * 2048),
        ("gpt-neo-2.7b", 400_000, 400_000 * 512 * 2048),
    ],
)
def test_steps_and_tokens(name: str, steps: int, tokens: int) -> None:
    plan = plan_of(name, (1, 1))
    assert (plan.steps, plan.tokens) == (steps, tokens)


def test_flops_time_energy_and_carbon_by_hand() -> None:
    tiny = decoder_config("gpt2", vocab_size=100, hidden_size=8, num_layers=2, num_heads=2, max_position_embeddings=16)
    config = PretrainConfig(steps=10, sequence_length=16, batch_size=5)
    device = Accelerator("toy", 0, 1e6, 50, "")
    plan = make_plan(tiny, (2000, 1500), config, device, assumptions(devices=4, mfu=0.5, pue=1.5, grid_intensity=0.2))
    tokens = 10 * 5 * 16
    weights = 2 * (4 * 8 * 8 + 2 * 8 * 32) + 8 * 100  # of two blocks and the head
    flops = tokens * (6 * weights + 12 * 8 * 2 * 16)  # and 12 x channels x layers x keys
    assert (plan.tokens, plan.flops, plan.six_nd) == (tokens, flops, 6 * 2000 * tokens)
    assert plan.seconds == pytest.approx(flops / (4 * 1e6 * 0.5))
    assert plan.kwh == pytest.approx(plan.seconds / 3600 * 4 * 0.050 * 1.5)
    assert plan.kilograms == pytest.approx(plan.kwh * 0.2)


def test_gpt3s_ramp_by_hand() -> None:
    # From 16 to 256 sequences over 4 billion tokens, in multiples of 16; then full batches of 524,288 tokens.
    config = load_recipe("gpt3-small").pretrain
    first, ramp = 0, -(-4_000_000_000 // 2048)
    steps = 0
    while first < ramp:
        first += (16 + 240 * first // ramp) // 16 * 16
        steps += 1
    steps += -(-(-(-300_000_000_000 // 2048) - first) // 256)
    assert config.total_steps == steps == 591_581
    assert len(config.batch_sizes.examples(1)) == 16
    assert len(config.batch_sizes.examples(30_000)) == 256


def test_peaks_are_the_published_ones() -> None:
    assert {name: kind.flops / 1e12 for name, kind in ACCELERATORS.items()} == {
        "v100": 125,
        "a100-40gb": 312,
        "a100": 312,
        "h100": 989,
        "h200": 989,
    }


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"accelerator": "a1000"}, "accelerator: must be .*did you mean 'a100'"),
        ({"mfu": 0.0}, "mfu: must be greater than or equal to"),
        ({"mfu": 1.01}, "mfu: must be less than or equal to 1"),
        ({"grid_intensity": -0.1}, "grid_intensity: must be greater than or equal to 0"),
        ({"pue": 0.9}, "pue: must be greater than or equal to 1"),
        ({"devices": 0}, "devices: must be greater than 0"),
        ({"watts": 0.0}, "watts: must be greater than 0"),
        ({"device_tflops": -1.0}, "device_tflops: must be greater than or equal to"),
    ],
)
def test_assumptions_that_cannot_be(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        assumptions(**fields)


def test_an_encoder_s_flops_by_hand() -> None:
    sizes = {"vocab_size": 100, "hidden_size": 8, "num_layers": 3, "num_heads": 2, "embedding_size": 4}
    tiny = encoder_config("albert", max_position_embeddings=64, **sizes)
    lengths = {"sequence_length": 64, "short_length": 16, "short_steps": 6}
    limited = {"share": 0.25, "max_predictions": 8}  # 4 of 16 tokens; 8 of 64, where the share would be 16
    config = PretrainConfig(steps=10, batch_size=5, masking=limited, **lengths)
    plan = make_plan(tiny, (2000, 1500), config, Accelerator("toy", 0, 1e6, 50, ""), assumptions())
    short, full = 6 * 5 * 16, 4 * 5 * 64
    assert plan.tokens == short + full
    weights = 3 * (4 * 8 * 8 + 2 * 8 * 32) + 4 * 8  # all layers, although they share, and the embeddings' layer
    head = 8 * 4 + 4 * 100  # of a predicted token
    flops = short * (6 * (weights + head / 4) + 12 * 8 * 3 * 16) + full * (6 * (weights + head / 8) + 12 * 8 * 3 * 64)
    assert plan.flops == pytest.approx(flops, rel=1e-12)


@pytest.mark.parametrize(
    ("family", "fields", "words"),
    [
        ("bert", {}, "4 layers, 64 channels, 4 heads, vocabulary of 97"),
        ("albert", {}, "4 layers with shared parameters, 64 channels, 4 heads, embeddings of 16, vocabulary of 97"),
        ("albert", {"groups": 2}, "4 layers in 2 groups with shared parameters, 64 channels"),
        ("albert", {"sharing": "attention"}, "4 layers with shared attention parameters, 64 channels"),
        ("albert", {"sharing": "none"}, "4 layers, 64 channels, 4 heads, embeddings of 16"),
    ],
)
def test_the_table_of_an_encoder(
    monkeypatch: pytest.MonkeyPatch, family: str, fields: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(plan_table, "matrix_ceiling", lambda device, dtype: 2e12)
    sizes = {"vocab_size": 97, "hidden_size": 64, "num_layers": 4, "num_heads": 4}
    model = encoder_config(family, **sizes, **({"embedding_size": 16} if family == "albert" else {}), **fields)
    config = PretrainConfig(steps=10, batch_size=5, sequence_length=64, short_length=16, short_steps=6)
    rows = {
        name.strip(): (amount, remark) for name, amount, remark in plan_table.plan_table(model, config, assumptions())
    }
    assert rows["model"][0] == family
    assert rows["model"][1].startswith(words)
    with torch.device("meta"):
        built = Encoder(model)
    assert rows["parameters"][0] == f"{built.parameter_count():,}"
    assert rows["parameters"][1] == f"{built.parameter_count(embeddings=False):,} without embeddings"
    assert rows["steps"] == ("10", "5 sequences of 64 tokens each; of 16 tokens in the first 6 steps")
    assert rows["tokens"][0] == f"at most {6 * 5 * 16 + 4 * 5 * 64:,}"
    assert ("shared parameters count once" in rows["6ND"][1]) == ("shared" in words)
    assert {"memory", "activations", "this machine", "time", "energy", "carbon"} <= set(rows)
