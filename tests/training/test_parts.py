"""Schedule, optimiser groups, metrics file."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import quantize

from neolm.core.errors import InputError
from neolm.core.metrics import read_metrics
from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder
from neolm.models.encoder import Encoder
from neolm.models.encoder_config import encoder_config
from neolm.training import precision
from neolm.training.config import TrainConfig
from neolm.training.metrics import MetricsLog
from neolm.training.optimiser import build_optimisers, kind_of_parameter, optimiser_tensors, restore_optimisers
from neolm.training.precision import MixedPrecision
from neolm.training.pretrain_config import PretrainConfig
from neolm.training.schedule import LearningRate

SHAPES = ("linear", "cosine", "warmup-stable-decay")


@given(st.sampled_from(SHAPES), st.integers(1, 1000), st.integers(0, 500), st.integers(1, 1000), st.floats(0, 1))
def test_the_schedule_rises_then_decays_to_its_end(
    shape: Any, total: int, warmup: int, fall: int, final: float
) -> None:
    share = LearningRate(shape, total, warmup, fall, final)
    shares = [share(position) for position in range(1, total + 1)]
    assert all(0 <= value <= 1 + 1e-9 for value in shares)
    rise, rest = shares[:warmup], shares[warmup:]
    assert rise == sorted(rise)
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(rest))
    if 0 < warmup <= total:
        assert shares[warmup - 1] == 1.0
    if total >= warmup + fall:
        assert shares[-1] == pytest.approx(final)


def test_the_schedules_against_numbers_by_hand() -> None:
    cosine = LearningRate("cosine", 110, 10, 100, 0.1)
    assert cosine(5) == 0.5
    assert cosine(60) == pytest.approx(0.1 + 0.9 * 0.5)
    assert cosine(35) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    linear = LearningRate("linear", 110, 10, 100, 0.1)
    assert [linear(p) for p in (5, 10, 35, 110)] == pytest.approx([0.5, 1, 0.1 + 0.9 * 0.75, 0.1])
    short = LearningRate("cosine", 110, 10, 50, 0.1)  # GPT-3: on at a tenth after the fall
    assert [short(p) for p in (35, 60, 61, 110)] == pytest.approx([0.55, 0.1, 0.1, 0.1])
    stable = LearningRate("warmup-stable-decay", 110, 10, 20, 0.0)
    assert [stable(p) for p in (5, 10, 90, 100, 110)] == pytest.approx([0.5, 1, 1, 0.5, 0])
    assert [LearningRate("constant", 110, 10, 1, 0.0)(p) for p in (5, 10, 110)] == [0.5, 1, 1]


def test_settings_become_a_schedule_in_sequences() -> None:
    defaults = {"sequence_length": 10, "batch_size": 4}
    plain = PretrainConfig(steps=100, warmup_steps=5, **defaults).learning_rate_share
    assert (plain.total, plain.warmup, plain.decay) == (400, 20, 380)
    stable = PretrainConfig(steps=100, warmup_steps=5, schedule="warmup-stable-decay", **defaults).learning_rate_share
    assert stable.decay == 80
    # lengths in tokens, as GPT-3's are given; the last batch is whole
    gpt3 = PretrainConfig(tokens=300, warmup_tokens=40, decay_tokens=260, **defaults).learning_rate_share
    assert (gpt3.total, gpt3.warmup, gpt3.decay) == (32, 4, 26)
    with pytest.raises(ValueError, match="either decay_steps or decay_tokens"):
        PretrainConfig(steps=1, decay_steps=1, decay_tokens=1)


def test_settings_that_may_differ_when_a_run_is_resumed() -> None:
    changeable = PretrainConfig.changeable()
    assert changeable == TrainConfig.changeable()
    assert {"device", "micro_batch_size", "final", "track"} < changeable
    assert not changeable & {"steps", "learning_rate", "batch_size", "precision", "ema_decay", "z_loss", "tokens"}


def test_a_length_must_be_given() -> None:
    with pytest.raises(ValueError, match="steps must be given"):
        TrainConfig()
    with pytest.raises(ValueError, match="give either steps or tokens"):
        PretrainConfig(steps=1, tokens=1)
    assert TrainConfig(steps=3, batch_size=4, warmup_steps=2).learning_rate_at(1) == pytest.approx(3e-4)


def tiny(family: str = "gpt-neo") -> Decoder:
    config = decoder_config(family, vocab_size=40, hidden_size=8, num_layers=1, num_heads=2, max_position_embeddings=8)
    return Decoder(config).initialise(0)


def test_a_quantised_model_is_refused() -> None:
    with pytest.raises(InputError, match="a quantised model cannot be trained"):
        build_optimisers(quantize(tiny(), "int8"), PretrainConfig(steps=1))


def test_norms_biases_and_embeddings_do_not_decay() -> None:
    model = tiny()
    (optimiser,) = build_optimisers(model, PretrainConfig(steps=1, weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert {name for name, p in model.named_parameters() if decay[id(p)] == 0.3} == {
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.output.weight",
        "blocks.0.mlp.expand.weight",
        "blocks.0.mlp.contract.weight",
    }
    assert {kind_of_parameter(name, p) for name, p in model.named_parameters()} == {
        "bias",
        "norm",
        "embedding",
        "matrix",
    }
    (optimiser,) = build_optimisers(model, PretrainConfig(steps=1, no_decay=("norm", "bias")))
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert decay[id(model.embedding.weight)] == 0.1


def test_parameters_of_an_encoder() -> None:
    sizes = {"vocab_size": 40, "hidden_size": 8, "embedding_size": 4, "num_heads": 2, "max_position_embeddings": 8}
    model = Encoder(encoder_config("albert", num_layers=3, groups=1, sentence_task="sop", **sizes)).initialise(0)
    named = dict(model.named_parameters())
    kinds: dict[str, list[str]] = {}
    for name, parameter in named.items():
        kinds.setdefault(kind_of_parameter(name, parameter), []).append(name)
    block = ["attention.qkv", "attention.output", "mlp.expand", "mlp.contract"]
    of_blocks = [f"blocks.0.{layer}.weight" for layer in block]  # shared by the layers, and here once
    others = [f"{layer}.weight" for layer in ("projection", "pooler", "head.transform", "sentence_head")]
    assert kinds["embedding"] == ["embedding.weight", "positions.weight", "token_types.weight"]
    assert set(kinds["matrix"]) == {*of_blocks, *others}
    assert all("norm" in name for name in kinds["norm"])
    assert "head.bias" in kinds["bias"]
    names = {id(parameter): name for name, parameter in named.items()}
    _, muon = build_optimisers(model, PretrainConfig(steps=1, optimiser="muon"))
    moved = {names[id(p)] for p in muon.param_groups[0]["params"]}
    assert moved == {*of_blocks, "projection.weight", "pooler.weight"}
    (lamb,) = build_optimisers(model, PretrainConfig(steps=1, optimiser="lamb", no_decay=("norm", "bias")))
    apart, whole, plain = ({names[id(p)] for p in group["params"]} for group in lamb.param_groups)
    assert [group["blocks"] for group in lamb.param_groups] == [3, 1, 0]
    assert apart == {of_blocks[0]}
    assert whole == {*kinds["embedding"], *of_blocks[1:], *others}
    assert plain == {*kinds["norm"], *kinds["bias"]}


@pytest.mark.parametrize("together", [1, 1000, 2**26])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_are_divided_by_the_count_and_clipped_to_the_global_norm(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, parts: int, together: int
) -> None:
    monkeypatch.setattr(precision, "MAX_BUCKET_ELEMENTS", together)
    for clip in (None, 0.5, 1e9):
        weights = MixedPrecision(tiny(), dtype)
        weights.refresh()
        for _ in range(parts):  # each with a gradient of one everywhere
            sum(p.sum() for p in weights.working.parameters()).backward()
            weights.gather()
        masters = list(weights.model.parameters())
        size = sum(p.numel() for p in masters)
        assert weights.finish(2 * parts, clip) == pytest.approx(0.5 * size**0.5, rel=1e-5)
        given: dict[int, torch.Tensor] = {}
        for _ in weights.hand_over():
            now = {number: p.grad for number, p in enumerate(masters) if p.grad is not None}
            assert not given.keys() & now.keys()
            assert sum(grad.numel() for grad in now.values()) <= max(together, *(p.numel() for p in masters))
            given |= now
        assert given.keys() == set(range(len(masters)))
        grads = torch.cat([grad.flatten() for grad in given.values()])
        assert grads.dtype == torch.float32
        expected = 0.5 if clip != 0.5 else 0.5 / size**0.5
        torch.testing.assert_close(grads, torch.full_like(grads, expected))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_micro_batches_are_accumulated_in_float32(dtype: torch.dtype) -> None:
    weights = MixedPrecision(tiny(), dtype)
    weights.refresh()
    for value in (2048.0, *[1.0] * 8):  # 2049 is a number of neither type
        for parameter in weights.working.parameters():
            parameter.grad = torch.full_like(parameter, value)
        weights.gather()
    weights.finish(1, None)
    for _ in weights.hand_over():
        for parameter in weights.model.parameters():
            assert parameter.grad is None or torch.equal(parameter.grad, torch.full_like(parameter, 2056.0))


@pytest.mark.parametrize("optimiser", ["adamw", "lamb", "muon"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_update_in_buckets_is_the_same_update(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, optimiser: str
) -> None:
    results = []
    for together in (1, 2**26):
        monkeypatch.setattr(precision, "MAX_BUCKET_ELEMENTS", together)
        weights = MixedPrecision(tiny(), dtype)
        optimisers = build_optimisers(weights.model, PretrainConfig(steps=1, optimiser=optimiser))
        for seed in range(3):
            weights.refresh()
            generator = torch.Generator().manual_seed(seed)
            for parameter in weights.working.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(dtype)
            weights.gather()
            weights.finish(3, 1.0)
            for _ in weights.hand_over():
                for each in optimisers:
                    each.step()
        results.append(list(weights.model.parameters()))
    torch.testing.assert_close(
        *results, rtol=1e-2 if optimiser == "muon" else 0, atol=1e-4 if optimiser == "muon" else 0
    )


def test_adam_without_bias_correction_against_the_equations() -> None:
    model = tiny()
    config = PretrainConfig(steps=1, bias_correction=False, learning_rate=1e-2, weight_decay=0.5, epsilon=1e-6)
    (optimiser,) = build_optimisers(model, config)
    weight = model.blocks[0].mlp.expand.weight
    expected, m, v = weight.detach().double(), 0.0, 0.0
    for step in range(5):
        gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        weight.grad = gradient
        optimiser.step()
        g = gradient.double()
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        expected = expected * (1 - 1e-2 * 0.5) - 1e-2 * m / (v.sqrt() + 1e-6)
    torch.testing.assert_close(weight.detach().double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", ["gpt-neo", "gpt-neox"])  # the head of the second is a matrix of its own
def test_muon_moves_the_matrices_of_the_blocks_and_adamw_the_rest(family: str) -> None:
    model = tiny(family)
    adamw, muon = build_optimisers(model, PretrainConfig(steps=1, optimiser="muon"))
    moved = {id(p) for group in muon.param_groups for p in group["params"]}
    assert {name for name, p in model.named_parameters() if id(p) in moved} == {
        f"blocks.0.{layer}.weight" for layer in ("attention.qkv", "attention.output", "mlp.expand", "mlp.contract")
    }
    assert len(moved) + sum(len(g["params"]) for g in adamw.param_groups) == len(list(model.parameters()))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = model.blocks[0].mlp.expand.weight.detach().clone()
    muon.step()
    # A semi-orthogonal step: all singular values alike, and of AdamW's size (root mean square 0.2 of the rate).
    step = (model.blocks[0].mlp.expand.weight.detach() - before) / 6e-4
    values = torch.linalg.svdvals(step)
    assert values.max() / values.min() < 2
    assert step.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.3)


@pytest.mark.parametrize("optimiser", ["lamb", "muon"])
def test_the_optimiser_state_is_restored(optimiser: str) -> None:
    config = PretrainConfig(steps=1, optimiser=optimiser)
    models = [tiny(), tiny()]
    optimisers = [build_optimisers(model, config) for model in models]
    for parameter in models[0].parameters():
        parameter.grad = torch.ones_like(parameter)
    for each in optimisers[0]:
        each.step()
    saved = optimiser_tensors(optimisers[0])
    restore_optimisers(optimisers[1], saved)
    back = optimiser_tensors(optimisers[1])
    assert saved.keys() == back.keys()
    assert all(torch.equal(saved[name], back[name]) for name in saved)


@pytest.mark.parametrize(("tokens", "steps"), [(1, 1), (256, 1), (257, 2), (2560, 10)])
def test_tokens_become_whole_steps(tokens: int, steps: int) -> None:
    assert PretrainConfig(tokens=tokens, sequence_length=64, batch_size=4).total_steps == steps


def test_metrics_keep_the_rows_before_the_resumed_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, resume_at=0)
    for step in range(1, 6):
        log.write(step=step, loss=1.0 / step)
    log.close()
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # torn by a kill
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4, 5]
    MetricsLog(path, resume_at=3).close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
