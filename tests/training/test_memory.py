"""The memory estimate against what trainings really take, and against counts by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from measured_memory import Case, resident_peak, tensor_peak

from neolm.models.attention import rotary_table
from neolm.models.block import Block
from neolm.models.config import decoder_config
from neolm.models.decoder import count_parameters
from neolm.models.presets import PRESETS, preset
from neolm.training.activations import Passes, block_activations
from neolm.training.memory import host_memory, moments, peak, state_memory
from neolm.training.pretrain_config import PretrainConfig


def case(family: str, precision: str = "float32", model: dict[str, Any] | None = None, **pretrain: Any) -> Case:
    """A small training; on a CPU without bfloat16 units each of its products takes long."""
    sizes = {"hidden_size": 64, "num_layers": 3, "num_heads": 2, "vocab_size": 128, "max_position_embeddings": 96}
    settings = {"sequence_length": 96, "batch_size": 4, "asynchronous_checkpoints": False}
    return Case(family, precision, {**sizes, **(model or {})}, {**settings, **pretrain})


# The moment at which each is the fullest stands beside it.
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
        "the sums of the gradients",
    ),
    "bfloat16": (case("gpt-neox", "bfloat16", model={"num_layers": 2}, batch_size=2), "the loss"),
    "copies of the state": (case("gpt2", asynchronous_checkpoints=True, batch_size=1), "a checkpoint"),
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
    "muon, untied head": case("gpt-neox", model={"vocab_size": 4096}, sequence_length=16, optimiser="muon"),
    "dropout": case("gpt2", model={"residual_dropout": 0.1, "embedding_dropout": 0.1, "attention_dropout": 0.1}),
    "relu": case("gpt2", model={"activation": "relu"}),
    "quick_gelu": case("gpt-neox", model={"activation": "quick_gelu"}),
    "silu, sequential": case("gpt-neox", model={"activation": "silu", "parallel_residual": False}),
}


def estimate(measured: Case) -> int:
    return peak(measured.architecture, measured.config, measured.precision, "cpu").total


@pytest.mark.parametrize("name", QUICK)
def test_the_estimate_is_what_a_training_takes(name: str) -> None:
    measured, fullest = QUICK[name]
    assert estimate(measured) == pytest.approx(tensor_peak(measured), rel=0.05)
    assert peak(measured.architecture, measured.config, measured.precision, "cpu").name == fullest


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDER)
def test_the_estimate_is_what_other_trainings_take(name: str) -> None:
    assert estimate(WIDER[name]) == pytest.approx(tensor_peak(WIDER[name]), rel=0.05)


# ---- a block's activations, against what autograd keeps ----

BLOCKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "global": ("gpt2", "float32", {}),
    "global, bfloat16 products": ("gpt2", "bfloat16", {}),
    "global, float16": ("gpt2", "float16", {}),
    "local": ("gpt-neo", "float32", {"window_size": 16}),
    "local, not dividing": ("gpt-neo", "float32", {"window_size": 20}),
    "local, bfloat16 products": ("gpt-neo", "bfloat16", {"window_size": 16}),
    "rotary": ("gpt-neox", "float32", {"rotary_fraction": 0.5}),
    "rotary, bfloat16 products": ("gpt-neox", "bfloat16", {}),
    "dropout": ("gpt2", "float32", {"residual_dropout": 0.1, "attention_dropout": 0.1}),
    "dropout, local": ("gpt-neo", "float32", {"window_size": 16, "attention_dropout": 0.1}),
    "dropout, bfloat16": ("gpt2", "bfloat16", {"attention_dropout": 0.1}),
    "relu, wide": ("gpt2", "float32", {"activation": "relu", "intermediate_size": 320}),
    "quick_gelu": ("gpt2", "float32", {"activation": "quick_gelu"}),
    "tanh": ("gpt2", "float32", {"activation": "tanh"}),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_keeps_what_autograd_keeps(name: str) -> None:
    family, precision, fields = BLOCKS[name]
    dtype, B, T, C = getattr(torch, precision), 3, 48, 64
    sizes = {"vocab_size": 64, "hidden_size": C, "num_layers": 2, "num_heads": 2, "max_position_embeddings": T}
    model = decoder_config(family, **sizes, **fields)
    block = Block(model, layer=1).to(dtype)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in block.parameters()}
    angles = None
    if family == "gpt-neox":
        angles = rotary_table(torch.arange(T), model.rotary_size, model.rotary_base, dtype)
        parameters |= {table.untyped_storage().data_ptr() for table in angles}  # of all blocks, made once
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        block(torch.randn(B, T, C, dtype=dtype, requires_grad=True), angles)
    measured = sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in parameters)
    expected = block_activations(model, 1, Passes(B, T, precision, cpu=True, fused=False)).kept
    assert expected == pytest.approx(measured, rel=0.02)


def test_gpt2_small_by_hand() -> None:
    model = decoder_config(**preset("gpt2"))
    passes = Passes(batch=2, length=1024, precision="bfloat16", cpu=False, fused=False)
    stream = 2 * 1024 * 768 * 2  # one (B, T, C) tensor in bytes
    statistics, sums = (
        4 * 2 * 1024 * 4,
        2 * 12 * 1024 * 4,
    )  # two norms' means and deviations; a float32 a query and head
    assert block_activations(model, 0, passes).kept == 16 * stream + statistics + sums


def test_a_local_layer_that_is_one_kernel_keeps_no_weights() -> None:
    model = decoder_config(**preset("gpt-neo-125m"))
    separate = Passes(1, 2048, "bfloat16", cpu=False, fused=False)
    assert block_activations(model, 1, replace(separate, fused=True)) == block_activations(model, 0, separate)
    more = block_activations(model, 1, separate).kept - block_activations(model, 0, separate).kept
    # attention weights: 16 blocks of 128 queries meet 128, 256 and then 384 keys, where the kernel keeps a sum a query
    assert more == 12 * (128 * (128 + 256 + 14 * 384) * 2 - 2048 * 4)


# ---- weights, gradients, optimiser ----


def bytes_a_parameter(precision: str = "float32", **settings: Any) -> float:
    model = decoder_config(**preset("gpt2"))
    return state_memory(model, PretrainConfig(steps=1, **settings), precision) / count_parameters(model)


def test_the_state_in_bytes_a_parameter() -> None:
    assert bytes_a_parameter() == 4 + 4 + 8
    assert bytes_a_parameter("bfloat16") == 4 + 2 + 2 + 8
    assert bytes_a_parameter("bfloat16", micro_batch_size=1) == 4 + 2 + 4 + 8
    matrices = 12 * 12 * 768**2 / 124_439_808  # the share that Muon moves, with one momentum instead of two means
    assert bytes_a_parameter(optimiser="muon") == pytest.approx(4 + 4 + 8 - 4 * matrices)


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_are_those_of_the_decoder(name: str) -> None:
    fields = preset(name)
    model = decoder_config(fields.pop("family"), **fields | {"num_layers": 2})
    assert state_memory(model, PretrainConfig(steps=1), "float32") == 16 * count_parameters(model)


def test_copies_for_checkpoints_lie_where_the_training_is_not_on_a_gpu() -> None:
    model, config = decoder_config(**preset("gpt2")), PretrainConfig(steps=10, ema_decay=0.9, checkpoint_every=5)
    parameters, batches = count_parameters(model), 8 * 513 * (2 * 32 + 256)
    state = (4 + 8 + 4 + 4) * parameters  # masters, AdamW, average; the best weights
    assert host_memory(model, config) == state + batches
    assert all(moment.copies == 0 for moment in moments(model, config, "bfloat16", "cuda"))
    saving = [moment.copies for moment in moments(model, config, "float32", "cpu")]
    assert max(saving) == state
    assert min(saving) == (4 + 8 + 4) * parameters  # there from the first checkpoint on; the best ones come at the end
    synchronous = config.model_copy(update={"asynchronous_checkpoints": False})
    assert host_memory(model, synchronous) == batches


# ---- what is resident ----


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "gpt-neo"])
def test_a_process_takes_a_little_more_than_its_tensors(family: str) -> None:
    sizes = {"hidden_size": 512, "num_layers": 4, "num_heads": 8, "vocab_size": 4096, "max_position_embeddings": 512}
    measured = case(family, model=sizes, sequence_length=512, batch_size=4)
    assert 0.9 * estimate(measured) < resident_peak(measured) < 1.4 * estimate(measured)


@pytest.mark.slow
def test_activation_checkpointing_makes_the_process_smaller() -> None:
    sizes = {"hidden_size": 512, "num_layers": 12, "num_heads": 8, "vocab_size": 4096, "max_position_embeddings": 512}
    plain, recomputed = (
        case("gpt2", model=sizes, sequence_length=512, batch_size=8, activation_checkpointing=again)
        for again in (False, True)
    )
    measured = resident_peak(recomputed)
    assert measured < 1.4 * estimate(recomputed)
    assert measured < 0.75 * resident_peak(plain)
