"""Large plans without their devices: each rank's parameters under torch's fake process group, against the plan."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from neolm.distributed.plan import parallelism
from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder
from neolm.models.families import preset
from neolm.training.memory_mesh import estimate_stage, weights_of_share
from neolm.training.memory_share import Share
from neolm.training.parallel_config import ParallelConfig
from neolm.training.pipeline_layers import pipeline_layers
from neolm.training.pretrain_config import PretrainConfig


@pytest.fixture
def join(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], None]]:
    """Makes this process a rank of as many as are named, whose operations do nothing."""
    new_group = dist.new_group
    monkeypatch.setattr(dist, "new_group", lambda ranks=None, **options: new_group(ranks))  # gloo would wait for ranks

    def join(rank: int, ranks: int) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)

    yield join
    dist.destroy_process_group()


def local_shapes(model: Decoder) -> dict[str, tuple[int, ...]]:
    parts = {n: p.to_local() if isinstance(p, DTensor) else p for n, p in model.named_parameters()}
    return {name: tuple(part.shape) for name, part in parts.items()}


def check(join: Any, name: str, ranks: int, stages: list[int], **sizes: int) -> dict[str, tuple[int, ...]]:
    """The parameters of the first rank of each of `stages` are those of the plan; returns those of the last one."""
    config, parallel = decoder_config(**preset(name)), ParallelConfig(**sizes)
    layers = [sum(map(len, chunks)) for chunks in pipeline_layers(config, parallel.pipeline)]
    shapes: dict[str, tuple[int, ...]] = {}
    for stage in stages:
        join(stage * ranks // parallel.pipeline, ranks)
        with torch.device("meta"):
            model = Decoder(config)
        plan = parallelism(parallel, "cpu")
        plan.divide(model)
        plan.precision(model, torch.bfloat16)
        shapes = local_shapes(model)
        count = sum(torch.Size(shape).numel() for shape in shapes.values())
        share = Share(stage == 0, stage == parallel.pipeline - 1, parallel.tensor)
        planned = weights_of_share(config.model_copy(update={"num_layers": layers[stage]}), share)
        one_row = (
            config.hidden_size
        )  # which the plan counts of the embeddings, the positions and the head that are elsewhere
        assert count == pytest.approx(planned.elements(parallel.shard), abs=3 * one_row)
        training = PretrainConfig(steps=1, batch_size=1536, micro_batch_size=1, parallel=parallel)
        estimate = estimate_stage(config, training, "bfloat16", "cuda", ranks, stage)
        working = 6 if parallel.shard == 1 else 4  # bytes: master weights, and their copy for the passes
        assert estimate.weights == pytest.approx(working * count, rel=1e-3)
    return shapes


def test_gpt_neox_20b_on_96_devices(join: Any) -> None:
    shapes = check(join, "gpt-neox-20b", 96, [0, 3], tensor=2, pipeline=4, shard=12)
    assert shapes["head.weight"] == (-(-50432 // 2 // 12), 6144)
    assert shapes["blocks.43.attention.qkv.weight"] == (3 * 6144 // 2 // 12, 6144)
    assert "blocks.0.attention.qkv.weight" not in shapes


def test_gpt_neox_20b_with_whole_shares(join: Any) -> None:
    shapes = check(join, "gpt-neox-20b", 96, [1], tensor=2, pipeline=4)
    assert shapes["blocks.12.mlp.contract.weight"] == (6144, 24576 // 2)


def test_gpt3_175b_on_2048_devices(join: Any) -> None:
    """The mesh of GPT-3 was not published."""
    shapes = check(join, "gpt3-175b", 2048, [0, 15], tensor=8, pipeline=16, shard=16)
    assert shapes["blocks.95.mlp.expand.weight"] == (49152 // 8 // 16, 12288)


def test_gpt_neox_20b_sharded_over_all(join: Any) -> None:
    check(join, "gpt-neox-20b", 96, [0], shard=96)
