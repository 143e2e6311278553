"""One rank that builds a model for a plan, and prints its growth of memory as a share of the model's size."""

from __future__ import annotations

import resource
import sys
from functools import partial

import torch
import torch.distributed as dist

from neolm.distributed.plan import parallelism
from neolm.models.config import decoder_config
from neolm.models.decoder import count_parameters
from neolm.models.stored_model import build, build_unfilled
from neolm.training.parallel_config import ParallelConfig
from neolm.training.pretrain_config import PretrainConfig
from neolm.training.sharded_tensor import whole_tensor
from neolm.training.state import TrainingState


def peak() -> int:
    """Peak resident memory in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Arguments: the axis that has two processes, and the size of the blocks."""
    axis, size = sys.argv[1], int(sys.argv[2])
    dist.init_process_group("gloo")
    config = decoder_config("gpt2", vocab_size=500, hidden_size=size, num_layers=8, num_heads=4)
    plan = parallelism(ParallelConfig(**{axis: 2}), "cpu")
    with torch.device("meta"):
        shapes = build(config)
    before = peak()
    model = build_unfilled(config)
    plan.divide(model)
    training = PretrainConfig(steps=1, ema_decay=0.9 if size < 100 else None)
    state = TrainingState(model, training, torch.float32, plan, partial(shapes.initial_weights, 3))
    growth = peak() - before
    if size < 100:
        expected = dict(build(config).initialise(3).named_parameters())
        averages = state.average.tensors if state.average else {}
        for name, parameter in model.named_parameters():
            assert torch.equal(whole_tensor(parameter), expected[name]), name
            assert torch.equal(whole_tensor(averages[name]), expected[name]), name
        assert len(averages) == len([*model.parameters()]) > 10
    if dist.get_rank() == 0:
        print(growth / (4 * count_parameters(config)))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
