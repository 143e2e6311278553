"""The memory estimate of each process of a training on several devices, against measured peaks and one process."""

from typing import Any

import pytest
import torch
from measured_memory import Case, case
from measured_ranks import rank_peaks

from neolm.models.config import decoder_config
from neolm.models.families import preset
from neolm.training.memory import MemoryEstimate, estimate_memory
from neolm.training.memory_mesh import estimate_mesh, estimate_stage
from neolm.training.memory_share import Share, shared_network
from neolm.training.pretrain_config import PretrainConfig

WIDE = {"hidden_size": 256, "num_layers": 6}
CASES = {
    "float32": case("gpt2", model=WIDE),
    "bfloat16": case("gpt2", "bfloat16", model=WIDE),
    "two micro-batches": case("gpt2", "bfloat16", model=WIDE, micro_batch_size=1),
    "recomputed": case("gpt-neox", "bfloat16", model=WIDE, activation_checkpointing=True),
    "many layers": case("gpt-neox", "bfloat16", model={"hidden_size": 128, "num_layers": 12}),
    "activations": case("gpt2", batch_size=16),
    "vocabulary": case("gpt-neox", "bfloat16", model={"vocab_size": 8192}, batch_size=20),
    "muon": case("gpt2", model=WIDE, optimiser="muon"),
    "lamb, average": case("gpt2", "bfloat16", model=WIDE, optimiser="lamb", ema_decay=0.9),
    "albert": case("albert", model=WIDE),
    "bert": case("bert", model=WIDE),
}


def planned(measured: Case, **parallel: int) -> Case:
    return Case(measured.family, measured.precision, measured.model, {**measured.pretrain, "parallel": parallel})


def estimated(measured: Case, ranks: int) -> MemoryEstimate:
    return estimate_mesh(measured.architecture, measured.config, measured.precision, "cpu", ranks)[0]


def compare(ranks: int, names: list[str], **parallel: int) -> None:
    cases = [planned(CASES[name], **parallel) for name in names]
    for name, measured, peak in zip(names, cases, rank_peaks(cases, ranks), strict=True):
        assert estimated(measured, ranks).total == pytest.approx(peak, rel=0.1), name


def test_the_estimate_is_what_each_of_two_processes_takes() -> None:
    compare(2, ["two micro-batches"], shard=2)


@pytest.mark.slow
@pytest.mark.parametrize("plan", [{}, {"shard": 2}, {"tensor": 2}, {"context": 2}])
def test_the_estimate_is_what_each_of_two_processes_takes_in_other_trainings(plan: dict[str, int]) -> None:
    encoders = ["albert", "bert"] if "context" in plan else []
    compare(2, [name for name in CASES if name not in encoders], **plan)


@pytest.mark.slow
def test_the_estimate_is_what_the_fullest_stage_of_a_pipeline_takes() -> None:
    compare(2, ["float32", "two micro-batches", "recomputed", "vocabulary"], pipeline=2)


@pytest.mark.slow
@pytest.mark.parametrize("plan", [{"shard": 2}, {"shard": 4}, {"shard": 2, "tensor": 2}])
def test_the_estimate_is_what_each_of_four_processes_takes(plan: dict[str, int]) -> None:
    compare(4, ["float32", "two micro-batches", "vocabulary", "muon"], **plan)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_one_process_by_this_estimate_and_by_that_of_a_whole_step(name: str, device: str) -> None:
    measured = CASES[name]
    model, config, precision = measured.architecture, measured.config, measured.precision
    ours = estimate_stage(model, config, precision, device, 1, 0)
    whole = estimate_memory(model, config, precision, device)
    assert ours.total == pytest.approx(whole.total, rel=0.09)
    for part in ("weights", "gradients", "optimiser", "average", "batches", "host"):
        assert getattr(ours, part) == pytest.approx(getattr(whole, part), rel=1e-3)
    assert ours.activations == pytest.approx(whole.activations, rel=0.02)


# ---- counts by hand, for GPT-NeoX-20B ----

NEOX = decoder_config(**preset("gpt-neox-20b"))
WIDTH, VOCABULARY = 6144, 50432
BLOCK = 12 * WIDTH**2 + 13 * WIDTH


def neox(ranks: int, stage: int, **settings: Any) -> MemoryEstimate:
    parallel = {key: settings.pop(key) for key in ("shard", "tensor", "pipeline", "context") if key in settings}
    fields = {"micro_batch_size": 4, "activation_checkpointing": True, **settings}
    config = PretrainConfig(steps=10, sequence_length=2048, batch_size=1536, parallel=parallel, **fields)
    return estimate_stage(NEOX, config, "bfloat16", "cuda", ranks, stage)


def test_the_state_of_a_sharded_stage_by_hand() -> None:
    middle = neox(96, 1, tensor=2, pipeline=4, shard=12)
    matrices = 11 * 12 * WIDTH**2 / 2  # divided by two; of the norms and of two biases each process has all
    small = 11 * ((3 * WIDTH + 4 * WIDTH) / 2 + 6 * WIDTH)
    own = (matrices + small) / 12
    assert middle.weights == pytest.approx(4 * own, rel=1e-3)
    assert middle.optimiser == pytest.approx(8 * own, rel=1e-3)
    first = neox(96, 0, tensor=2, pipeline=4, shard=12)
    less = (matrices + small) / 11  # the first stage has one layer less, and the embeddings
    assert first.weights - middle.weights == pytest.approx(4 * (VOCABULARY * WIDTH / 2 - less) / 12, rel=1e-3)


def test_the_first_stage_holds_the_activations_of_as_many_micro_batches_as_there_are_stages() -> None:
    plan = {"tensor": 2, "pipeline": 4, "shard": 12}
    first, third = (neox(96, stage, **plan).activations for stage in (0, 2))  # of 10 and of 12 layers
    stream = 4 * 2048 * WIDTH * 2  # the input of a block, which is all that is kept of it, and the output of the last
    assert first - third == pytest.approx((4 * 11 - 2 * 13) * stream, rel=0.05)
    whole = neox(96, 0, **plan, micro_batch_size=128).activations  # a single micro-batch, as large as 32 of them
    assert whole == pytest.approx(32 * (first - 3 * 11 * stream), rel=0.05)


def test_both_vocabulary_gradients_are_in_one_buffer() -> None:
    assert neox(16, 0, shard=16).buffer == pytest.approx(4 * 2 * VOCABULARY * WIDTH, rel=1e-4)  # 2.3 GiB
    assert neox(16, 0, shard=1).buffer == 4 * VOCABULARY * WIDTH


def test_a_share_has_the_parameters_of_its_layers() -> None:
    model = decoder_config("gpt2", vocab_size=100, hidden_size=16, num_layers=3, num_heads=4)
    with torch.device("meta"):
        names = {name: tuple(p.shape) for name, p in shared_network(model, Share(tensor=2)).named_parameters()}
    assert names["embedding.weight"] == (50, 16)
    assert "head.weight" not in names  # tied
    assert names["blocks.0.attention.qkv.weight"] == (24, 16)
    assert names["blocks.0.attention.output.weight"] == (16, 8)
    assert names["blocks.2.mlp.expand.bias"] == (32,)
    assert names["blocks.2.mlp.contract.bias"] == (16,)
    assert names["norm.weight"] == (16,)
