"""One optimiser step of the real code on fake tensors, and the bytes that exist at each moment of it.

`neolm.training.memory` describes how an estimate is made of such steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from neolm.core.device import Choice
from neolm.data.batch import Batch
from neolm.models.config import DecoderConfig
from neolm.models.encoder_config import EncoderConfig
from neolm.models.encoder_heads import MaskedHead
from neolm.models.stored_model import build
from neolm.training import loop
from neolm.training.live_storages import LiveStorages
from neolm.training.objective import Term
from neolm.training.passes import GradientAccumulation, Sums
from neolm.training.pretrain_config import PretrainConfig
from neolm.training.pretrain_task import objective
from neolm.training.run import Parallelism, Training
from neolm.training.state import TrainingState
from neolm.training.step import OptimiserStep

START, FORWARD, LOSS, BACKWARD = "the start of a micro-batch", "the forward pass", "the loss", "the backward pass"
EMBEDDING, UPDATE, CHECKPOINT = "the embedding's gradient", "the optimiser's step", "a checkpoint"


@dataclass(frozen=True)
class Step:
    """Bytes that a step takes."""

    moments: dict[str, int]
    """The most at each moment; a checkpoint is between two steps."""
    masters: int
    working: int
    """Working copy of the master weights; 0 where there is none."""
    gradients: int
    optimiser: int
    average: int


@lru_cache(maxsize=256)
def run_step(
    model: DecoderConfig | EncoderConfig,
    config: PretrainConfig,
    precision: str,
    cpu: bool,
    micro_batches: int,
    sequences: int,
    length: int,
) -> Step:
    """Run the second step of a training on fake tensors, whose last micro-batch is of `sequences` of `length` tokens.

    The other micro-batches, and the last one too if `length` is 0, have gradients without passes.
    """
    device = "cpu" if cpu else "meta"
    config = config.model_copy(update={"micro_batch_size": max(sequences, 1), "skip_spikes": None})
    with FakeTensorMode(), LiveStorages(device) as live:
        with torch.device(device):
            network = build(model)
        if isinstance(head := getattr(network, "head", None), MaskedHead):
            predictions = sequences * config.masking.predictions(length)
            head.predicted = lambda labels: torch.arange(predictions, device=labels.device)  # type: ignore[method-assign]
        training = Training(
            model=network,
            objective=objective(model, config),
            data=cast(Any, None),
            validation=(),
            config=config,
            directory=Path(),
            device=Choice(device, "estimate"),
            precision=Choice(precision, "estimate"),
            parallelism=Parallelism(passes=_LastPasses, deferred=True),
        )
        state = TrainingState(network, config, getattr(torch, precision))
        state.scale = None  # it would read numbers from the device
        module = loop._module(training, state)
        step = OptimiserStep(training, state, module)
        for optimiser in state.optimisers:
            optimiser.found_inf = None  # type: ignore[attr-defined] # which only AdamW's fused form takes
        step.run(1, make_batch(model, 1, 0), 0.0)  # makes the state of the optimisers
        state.weights.refresh()  # frees the gradients
        for optimiser in state.optimisers:
            for group in optimiser.param_groups:
                group["fused"] = True  # on meta too, once the state is there
        mark_passes(module, live)
        live.moments.clear()
        live.enter(CHECKPOINT)
        live.enter(UPDATE)
        step.run(2, make_batch(model, micro_batches * max(sequences, 1), length), 0.0)
        masters, copy = _bytes(network.parameters()), _bytes(module.parameters())
        return Step(
            moments=live.moments,
            masters=masters,
            working=copy if module is not network else 0,
            gradients=masters if micro_batches > 1 else copy,  # sums of several are in float32
            optimiser=_bytes(v for o in state.optimisers for entry in o.state.values() for v in entry.values()),
            average=_bytes(state.average.tensors.values()) if state.average else 0,
        )


class _LastPasses(GradientAccumulation):
    """Passes of the last micro-batch, if it has tokens. The others have gradients, which are new tensors."""

    def run(self, parts: Sequence[Batch], factors: Mapping[str, float]) -> Sums:
        """See `Passes`."""
        passes = parts[-1:] if parts[-1].tokens else ()
        for _ in range(len(parts) - len(passes)):
            for parameter in self._module.parameters():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            self._precision.gather()
        if passes:
            return super().run(passes, factors)
        sums = Sums()
        sums.add({term: Term(next(self._module.parameters()).new_zeros(())) for term in factors})
        return sums


def make_batch(model: DecoderConfig | EncoderConfig, sequences: int, length: int) -> Batch:
    """Sequences without padding, with which an encoder computes most; so it needs no attention mask."""
    ids = torch.zeros(sequences, length, dtype=torch.int64, device="cpu")
    tensors = {"input_ids": ids, "labels": ids.clone()}
    if isinstance(model, EncoderConfig):
        tensors |= {"token_type_ids": ids.clone(), "sentence_labels": ids.new_zeros(sequences)}
    return Batch(tensors)


def _bytes(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def mark_passes(module: nn.Module, live: LiveStorages) -> None:
    """Divide the passes of `module` into moments; those of a block are named by its number from either end.

    Blocks are numbered by their calls: one that several layers share has several numbers.
    """
    calls = 0

    def enter_backward(number: int, grad: Tensor) -> None:
        live.enter(f"{BACKWARD} of block {number}", f"{BACKWARD} of block {number - calls}")

    def before_block(block: nn.Module, args: Any) -> None:
        if calls == 0:
            args[0].register_hook(lambda grad: live.enter(EMBEDDING))
        live.enter(FORWARD)

    def after_block(block: nn.Module, args: Any, output: Tensor) -> None:
        nonlocal calls
        live.enter(LOSS)  # or the next block
        output.register_hook(partial(enter_backward, calls))  # type: ignore[no-untyped-call]
        calls += 1

    def before_passes(module: nn.Module, args: Any) -> None:
        nonlocal calls
        calls = 0
        live.enter(START)
        live.enter(FORWARD)

    module.register_forward_pre_hook(before_passes)
    last_to_come = next(module.parameters())  # of the input embedding
    last_to_come.register_post_accumulate_grad_hook(lambda _: live.enter(UPDATE))  # type: ignore[no-untyped-call]
    for block in loop.blocks_of(module):
        block.register_forward_pre_hook(before_block)
        block.register_forward_hook(after_block)
