"""The memory estimate against the measured memory of trainings, and against counts by hand."""

import resource
import sys
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from measured_memory import Case, case, resident_peak, tensor_peak

from neolm.models.config import DecoderConfig, decoder_config
from neolm.models.decoder import count_parameters
from neolm.models.encoder_config import EncoderConfig, encoder_config
from neolm.models.families import preset
from neolm.training import memory
from neolm.training.memory import MemoryEstimate, estimate_memory
from neolm.training.pretrain_config import PretrainConfig

# Each with the moment of its peak.
QUICK = {
    "activations": (case("gpt2"), "the forward pass"),
    "windows, recomputed, two micro-batches": (
        case("gpt-neo", model={"window_size": 32}, activation_checkpointing=True, micro_batch_size=2),
        "the backward pass",
    ),
    "many tokens, two chunks of logits": (
        case("gpt-neox", model={"vocab_size": 8192, "hidden_size": 32}, batch_size=10),
        "the loss",
    ),
    "weights, bfloat16, two micro-batches": (
        case("gpt2", "bfloat16", model={"hidden_size": 128}, sequence_length=8, batch_size=2, micro_batch_size=1),
        "the optimiser's step",
    ),
    "bfloat16": (case("gpt-neox", "bfloat16", model={"num_layers": 2}, batch_size=2), "the loss"),
    "copies of the state": (case("gpt2", asynchronous_checkpoints=True, batch_size=1), "a checkpoint"),
    "bert": (case("bert", segments={"task": "nsp"}), "the backward pass"),
    "albert, recomputed, bfloat16": (
        case("albert", "bfloat16", segments={"task": "sop"}, model={"num_layers": 6}, activation_checkpointing=True),
        "the backward pass",
    ),
}
WIDER = {
    "micro-batches": case("gpt2", micro_batch_size=1),
    "recomputed": case("gpt2", activation_checkpointing=True, model={"num_layers": 8}),
    "rotary, recomputed": case("gpt-neox", activation_checkpointing=True, model={"num_layers": 8}),
    "windows": case("gpt-neo", model={"window_size": 32}),
    "a window that does not divide the sequence": case("gpt-neo", model={"window_size": 40}),
    "bfloat16, two micro-batches": case("gpt2", "bfloat16", micro_batch_size=2),
    "bfloat16, windows, recomputed": case(
        "gpt-neo", "bfloat16", model={"window_size": 32}, activation_checkpointing=True
    ),
    "bfloat16, several blocks of queries": case(
        "gpt2", "bfloat16", model={"max_position_embeddings": 640}, sequence_length=640, batch_size=1
    ),
    "bfloat16, a wide window": case(
        "gpt-neo",
        "bfloat16",
        model={"window_size": 300, "max_position_embeddings": 640, "num_layers": 2},
        sequence_length=640,
        batch_size=1,
    ),
    "bfloat16, many tokens": case("gpt2", "bfloat16", model={"vocab_size": 8192, "hidden_size": 32}, batch_size=6),
    "float16": case("gpt2", "float16", batch_size=2),
    "weights": case("gpt2", model={"hidden_size": 256}, sequence_length=16, batch_size=1),
    "weights, bfloat16": case("gpt2", "bfloat16", model={"hidden_size": 256}, sequence_length=16, batch_size=1),
    "average and copies": case(
        "gpt2", ema_decay=0.9, checkpoint_every=1, validate_every=1, **{"asynchronous_checkpoints": True}
    ),
    "muon": case("gpt2", model={"hidden_size": 128}, sequence_length=16, batch_size=2, optimiser="muon"),
    "lamb": case("gpt2", model={"hidden_size": 256}, sequence_length=16, batch_size=1, optimiser="lamb"),
    "lamb, bfloat16": case(
        "gpt2", "bfloat16", model={"hidden_size": 256}, sequence_length=16, batch_size=1, optimiser="lamb"
    ),
    "muon, untied head": case("gpt-neox", model={"vocab_size": 4096}, sequence_length=16, optimiser="muon"),
    "dropout": case("gpt2", model={"residual_dropout": 0.1, "embedding_dropout": 0.1, "attention_dropout": 0.1}),
    "relu": case("gpt2", model={"activation": "relu"}),
    "quick_gelu": case("gpt-neox", model={"activation": "quick_gelu"}),
    "silu, sequential": case("gpt-neox", model={"activation": "silu", "parallel_residual": False}),
    "bert, bfloat16, two micro-batches": case("bert", "bfloat16", micro_batch_size=2),
    "bert, recomputed": case("bert", model={"num_layers": 8}, activation_checkpointing=True),
    "bert, lamb, weights": case(
        "bert", model={"hidden_size": 256}, sequence_length=16, batch_size=1, optimiser="lamb", segments={"task": "sop"}
    ),
    "bert, muon, bfloat16": case("bert", "bfloat16", model={"hidden_size": 256}, sequence_length=16, optimiser="muon"),
    "bert, float16": case("bert", "float16", batch_size=2),
    "bert, no dropout": case("bert", model={"residual_dropout": 0.0, "attention_dropout": 0.0}),
    "bert, many predictions": case(
        "bert", model={"vocab_size": 8192, "hidden_size": 32}, masking={"share": 0.9}, batch_size=10
    ),
    "bert, a limit of predictions": case(
        "bert", model={"vocab_size": 8192}, masking={"share": 0.9, "max_predictions": 5}, batch_size=10
    ),
    "albert": case("albert", segments={"task": "sop"}, model={"num_layers": 6}),
    "albert, lamb, weights": case(
        "albert", model={"hidden_size": 512}, sequence_length=16, batch_size=1, optimiser="lamb"
    ),
    "albert, muon, bfloat16": case(
        "albert", "bfloat16", model={"hidden_size": 512}, sequence_length=16, batch_size=1, optimiser="muon"
    ),
    "albert, two groups": case("albert", model={"num_layers": 5, "groups": 2, "blocks_per_group": 2}),
    "albert, attention shared": case(
        "albert", model={"num_layers": 5, "sharing": "attention", "hidden_size": 256}, sequence_length=16, batch_size=1
    ),
}


def quick_and_slow(cases: Iterable[str], *quick: str) -> list[Any]:
    """The names of `cases`, of which those that are not `quick` are slow tests."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in cases]


def estimated(measured: Case) -> MemoryEstimate:
    return estimate_memory(measured.architecture, measured.config, measured.precision, "cpu")


@pytest.mark.parametrize("name", QUICK)
def test_the_estimate_is_what_a_training_takes(name: str) -> None:
    measured, moment = QUICK[name]
    estimate = estimated(measured)
    assert estimate.total == pytest.approx(tensor_peak(measured), rel=0.05)
    assert estimate.moment == moment


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDER)
def test_the_estimate_is_what_other_trainings_take(name: str) -> None:
    assert estimated(WIDER[name]).total == pytest.approx(tensor_peak(WIDER[name]), rel=0.05)


# ---- extrapolation from few layers and sequences ----

LARGE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "cpu": ("cpu", "float32", {}),
    "cpu, bfloat16, Muon, two micro-batches": ("cpu", "bfloat16", {"optimiser": "muon", "micro_batch_size": 20}),
    "gpu, recomputed, three micro-batches": (
        "cuda",
        "float16",
        {"activation_checkpointing": True, "micro_batch_size": 14},
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_an_extrapolated_estimate_is_that_of_the_whole_training(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device, precision, settings = LARGE[name]
    sizes = {"hidden_size": 64, "num_layers": 7, "num_heads": 2, "vocab_size": 4096, "max_position_embeddings": 256}
    model = decoder_config("gpt-neo", window_size=64, **sizes)
    config = PretrainConfig(steps=3, **{"batch_size": 40, "sequence_length": 256, **settings})
    runs: list[tuple[int, int]] = []
    run_step = memory.run_step

    def counted(model: DecoderConfig, **arguments: Any) -> Any:
        runs.append((model.num_layers, arguments["sequences"]))
        return run_step(model, **arguments)

    monkeypatch.setattr(memory, "run_step", counted)
    extrapolated = estimate_memory(model, config, precision, device)
    assert runs == [(3, 4), (3, 8), (5, 4), (5, 8), (7, 0)]  # the embedding is larger than all layers together
    monkeypatch.setattr(memory, "_sample", lambda full, low, high: (full,))
    whole = estimate_memory(model, config, precision, device)
    assert vars(extrapolated) == {key: approximate(value) for key, value in vars(whole).items()}


SHARED: dict[str, tuple[str, str, str, dict[str, Any], dict[str, Any], int]] = {
    "bert": ("bert", "cuda", "bfloat16", {}, {}, 2),
    "bert, cpu": ("bert", "cpu", "bfloat16", {"vocab_size": 8192}, {"segments": {"task": "nsp"}}, 2),
    "albert": ("albert", "cpu", "float32", {}, {"segments": {"task": "sop"}}, 4),
    "albert, recomputed": ("albert", "cuda", "bfloat16", {}, {"activation_checkpointing": True}, 4),
    "albert, blocks of a layer": ("albert", "cuda", "bfloat16", {"blocks_per_group": 2}, {"optimiser": "lamb"}, 4),
    "albert, attention": ("albert", "cpu", "bfloat16", {"sharing": "attention"}, {"micro_batch_size": 30}, 4),
    "albert, feed-forward": ("albert", "cuda", "float32", {"sharing": "feed-forward"}, {"optimiser": "muon"}, 4),
    "albert, groups": ("albert", "cuda", "bfloat16", {"groups": 3}, {}, 9),
    "albert, none": ("albert", "cuda", "bfloat16", {"sharing": "none"}, {}, 2),
}


@pytest.mark.parametrize("name", quick_and_slow(SHARED, "bert", "albert", "albert, attention", "albert, groups"))
def test_an_extrapolated_estimate_of_an_encoder_is_that_of_the_whole_training(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, device, precision, fields, settings, layers = SHARED[name]
    sizes = {"hidden_size": 256, "num_layers": 9, "num_heads": 2, "vocab_size": 1024, "embedding_size": 64}
    if family == "bert":
        del sizes["embedding_size"]
    model = encoder_config(family, **{**sizes, **fields})
    config = PretrainConfig(steps=3, **{"batch_size": 120, "sequence_length": 64, **settings})
    deepest, run_step = 0, memory.run_step

    def counted(model: EncoderConfig, **arguments: Any) -> Any:
        nonlocal deepest
        deepest = max(deepest, model.num_layers * bool(arguments["sequences"]))
        return run_step(model, **arguments)

    monkeypatch.setattr(memory, "run_step", counted)
    extrapolated = estimate_memory(model, config, precision, device)
    assert deepest == layers
    monkeypatch.setattr(memory, "_sample", lambda full, low, high: (full,))
    whole = estimate_memory(model, config, precision, device)
    assert vars(extrapolated) == {key: approximate(value) for key, value in vars(whole).items()}


def test_padding_takes_little_more_than_full_sequences() -> None:
    measured = case("albert", model={"num_layers": 6, "hidden_size": 128}, batch_size=12)
    full, uneven = tensor_peak(measured), tensor_peak(measured, shorter=1)
    assert full < uneven < 1.08 * estimated(measured).total


def test_the_longer_sequences_of_an_encoder_count() -> None:
    model = encoder_config(**preset("bert-tiny"))
    config = PretrainConfig(steps=10, sequence_length=512)
    shorter_first = PretrainConfig(steps=10, sequence_length=512, short_length=128, short_steps=9)
    assert estimate_memory(model, shorter_first, "float32", "cpu") == estimate_memory(model, config, "float32", "cpu")


DEEP: dict[str, tuple[str, str, str, dict[str, Any], dict[str, Any]]] = {
    "gpt2": ("gpt2", "cpu", "float32", {}, {}),
    "gpt2, bfloat16, two micro-batches": ("gpt2", "cuda", "bfloat16", {}, {"micro_batch_size": 8, "ema_decay": 0.9}),
    "gpt2, a large embedding": (
        "gpt2",
        "cuda",
        "bfloat16",
        {"vocab_size": 8192, "hidden_size": 256},
        {"batch_size": 2, "micro_batch_size": 1, "sequence_length": 8},  # the optimiser's step takes most
    ),
    "gpt3": ("gpt3", "cuda", "bfloat16", {}, {"activation_checkpointing": True}),
    "gpt-neo, alternating": ("gpt-neo", "cpu", "bfloat16", {"window_size": 64}, {"micro_batch_size": 8}),
    "gpt-neo, three kinds": (
        "gpt-neo",
        "cpu",
        "float32",
        {"window_size": 64, "attention_layers": ("global", "local", "local")},
        {},
    ),
    "gpt-neox": ("gpt-neox", "cuda", "bfloat16", {"parallel_residual": False}, {"micro_batch_size": 8}),
    "gpt-neox, Muon": ("gpt-neox", "cuda", "bfloat16", {}, {"optimiser": "muon"}),
}


@pytest.mark.parametrize(
    "name", quick_and_slow(DEEP, "gpt2, a large embedding", "gpt-neo, alternating", "gpt-neox, Muon")
)
def test_the_state_of_a_deep_model_is_extrapolated_exactly(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family, device, precision, fields, settings = DEEP[name]
    hidden = 1024 if "Muon" in name else 128
    sizes = {"hidden_size": hidden, "num_layers": 23, "num_heads": 2, "vocab_size": 512}
    model = decoder_config(family, max_position_embeddings=256, **{**sizes, **fields})
    config = PretrainConfig(steps=3, **{"batch_size": 16, "sequence_length": 256, **settings})
    deepest, run_step = 0, memory.run_step

    def counted(model: DecoderConfig, **arguments: Any) -> Any:
        nonlocal deepest
        deepest = max(deepest, model.num_layers)
        return run_step(model, **arguments)

    monkeypatch.setattr(memory, "run_step", counted)
    extrapolated = estimate_memory(model, config, precision, device)
    assert deepest < 18
    monkeypatch.setattr(memory, "_sample", lambda full, low, high: (full,))
    whole = estimate_memory(model, config, precision, device)
    assert vars(extrapolated) == {key: approximate(value, 1e-6) for key, value in vars(whole).items()}


def test_a_thousand_layers_take_as_long_as_a_few() -> None:
    sizes = {"hidden_size": 256, "num_layers": 1000, "num_heads": 4, "vocab_size": 1024}
    model = decoder_config("gpt-neo", max_position_embeddings=256, **sizes)
    estimate = estimate_memory(model, PretrainConfig(steps=3, sequence_length=256), "bfloat16", "cuda")
    assert estimate.weights == (4 + 2) * count_parameters(model)
    assert estimate.state == pytest.approx((4 + 2 + 2 + 8) * count_parameters(model), rel=1e-4)


def approximate(value: Any, relative: float = 1e-3) -> Any:
    return value if isinstance(value, str) else pytest.approx(value, rel=relative)


def test_an_estimate_changes_no_random_number() -> None:
    before = torch.get_rng_state()
    estimated(WIDER["dropout"])
    assert torch.equal(torch.get_rng_state(), before)


def test_an_estimate_of_a_large_model_takes_no_memory() -> None:
    model = decoder_config(**preset("gpt-neox-20b"))
    config = PretrainConfig(steps=10, sequence_length=2048, batch_size=8, micro_batch_size=4)
    before = most_memory()
    estimate = estimate_memory(model, config, "bfloat16", "cuda")
    assert most_memory() - before < 2**29
    assert estimate.total > estimate.state == pytest.approx((4 + 2 + 4 + 8) * count_parameters(model), rel=1e-6)


def most_memory() -> int:
    """The most bytes that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform == "linux" else 1)


# ---- counts by hand ----


def test_the_activations_of_gpt2_on_a_gpu() -> None:
    model = decoder_config(**preset("gpt2"))
    few, many = (
        estimate_memory(
            model.model_copy(update={"num_layers": layers}),
            PretrainConfig(steps=1, sequence_length=1024, batch_size=2),
            "bfloat16",
            "cuda",
        )
        for layers in (12, 13)
    )
    stream = 2 * 1024 * 768 * 2  # one (B, T, C) tensor in bytes
    # means and deviations of two norms; a float32 of each query and head
    statistics, sums = 4 * 2 * 1024 * 4, 2 * 12 * 1024 * 4
    seeds = 2 * 8  # of the kernel's random numbers
    assert many.activations - few.activations == 16 * stream + statistics + sums + seeds


def test_a_local_layer_on_a_gpu_is_one_kernel() -> None:
    fields = preset("gpt-neo-125m")
    config = PretrainConfig(steps=1, sequence_length=2048, batch_size=1)
    mixed, dense = (
        estimate_memory(decoder_config(**{**fields, "attention_layers": kinds}), config, "bfloat16", "cuda")
        for kinds in (("global", "local"), ("global",))
    )
    assert mixed.activations == dense.activations


def bytes_per_parameter(precision: str = "float32", **settings: Any) -> float:
    model = decoder_config(**preset("gpt2"))
    config = PretrainConfig(steps=1, **settings)
    return estimate_memory(model, config, precision, "cuda").state / count_parameters(model)


def test_the_state_in_bytes_per_parameter() -> None:
    steps = pytest.approx(0, abs=1e-4)  # AdamW's counters
    assert bytes_per_parameter() - (4 + 4 + 8) == steps
    assert bytes_per_parameter("bfloat16") - (4 + 2 + 2 + 8) == steps
    assert bytes_per_parameter("bfloat16", micro_batch_size=1) - (4 + 2 + 4 + 8) == steps
    matrices = 12 * 12 * 768**2 / 124_439_808  # the share that Muon updates, with one momentum instead of two means
    assert bytes_per_parameter(optimiser="lamb") - (4 + 4 + 8) == steps
    assert bytes_per_parameter(optimiser="muon") - (4 + 4 + 8 - 4 * matrices) == steps


def test_copies_for_checkpoints_are_in_host_memory() -> None:
    model, config = decoder_config(**preset("gpt2")), PretrainConfig(steps=10, ema_decay=0.9, checkpoint_every=5)
    parameters, batches = count_parameters(model), 8 * 513 * (2 * 32 + 256)
    state = (4 + 8 + 4 + 4) * parameters  # master weights, AdamW, average; the best weights
    counters = pytest.approx(0, abs=1000)
    gpu = estimate_memory(model, config, "bfloat16", "cuda")
    assert gpu.copies == 0
    assert gpu.host - state - batches == counters
    cpu = estimate_memory(model, config, "float32", "cpu")
    assert cpu.host == 0
    assert cpu.copies - state == counters
    synchronous = config.model_copy(update={"asynchronous_checkpoints": False})
    alone = estimate_memory(model, synchronous, "bfloat16", "cuda")  # without the best weights, which come later
    assert alone.host - (4 + 8 + 4) * parameters - batches == counters
    # the last state is there from the first checkpoint on; the best weights come at the end
    kept = cpu.total - estimate_memory(model, synchronous, "float32", "cpu").total
    assert kept - (4 + 8 + 4) * parameters == counters


# ---- what is resident ----


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "gpt-neo"])
def test_a_process_takes_a_little_more_than_its_tensors(family: str) -> None:
    sizes = {"hidden_size": 512, "num_layers": 4, "num_heads": 8, "vocab_size": 4096, "max_position_embeddings": 512}
    measured = case(family, model=sizes, sequence_length=512, batch_size=4)
    assert 0.9 * estimated(measured).total < resident_peak(measured) < 1.4 * estimated(measured).total


@pytest.mark.slow
def test_activation_checkpointing_makes_the_process_smaller() -> None:
    sizes = {"hidden_size": 512, "num_layers": 12, "num_heads": 8, "vocab_size": 4096, "max_position_embeddings": 512}
    plain, recomputed = (
        case("gpt2", model=sizes, sequence_length=512, batch_size=8, activation_checkpointing=again)
        for again in (False, True)
    )
    measured = resident_peak(recomputed)
    assert measured < 1.4 * estimated(recomputed).total
    assert measured < 0.75 * resident_peak(plain)
