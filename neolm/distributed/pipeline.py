"""Pipeline parallelism: each process has some layers, and micro-batches travel from one to the next.

`pipeline_schedule` says in which order a process runs its passes. Hidden states travel forward, and their gradients
back, by point-to-point messages; the sender waits for the receiver only if many of them are under way. All processes
of a pipeline have the same batch, so each knows the shape of what it receives.

torch.distributed.pipelining is not used: it takes one shape of activations for all micro-batches, and a loss that is
one tensor. An encoder's micro-batches have different shapes, and losses here are named terms with metrics.

A parameter that several stages need, such as an embedding that is the head too, exists in each of them. Its gradients
are summed over these stages before the norm is taken, in which it counts once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from neolm.core.progress import say
from neolm.data.batch import Batch
from neolm.distributed.groups import Groups
from neolm.training.model_part import keep_modules
from neolm.training.numerics import sum_dtype
from neolm.training.objective import Objective
from neolm.training.passes import Sums, weighted_loss
from neolm.training.pipeline_layers import about_layers, pipeline_layers
from neolm.training.pipeline_schedule import Pass, idle_share, most_messages, schedule
from neolm.training.precision import Precision
from neolm.training.world import World


class Pipeline:
    """The place of this process in its pipeline, and the layers that it has."""

    def __init__(self, world: World, groups: Groups, chunks: int) -> None:
        self.world, self.groups, self.chunks = world, groups, chunks
        self.stages, self.rank = groups.grid.sizes["pipeline"], groups.place["pipeline"]
        self.members = next(group for group in groups.grid.groups(["pipeline"]) if dist.get_rank() in group)
        self.group = groups.along(["pipeline"])
        # one for each kind and direction: NCCL runs the messages between two processes in the order of their calls
        kinds = ((backward, down) for backward in (False, True) for down in (False, True))
        self.channels = {kind: groups.along(["pipeline"]) for kind in kinds}
        self.layers: list[range] = []

    def divide(self, model: nn.Module) -> None:
        """Keep the parameters of this stage of `model`, in place, and find those that other stages have too."""
        stages = pipeline_layers(model.config, self.stages, self.chunks)  # type: ignore[arg-type]
        kept = [[module for layers in chunks for module in model.modules_of(layers)] for chunks in stages]  # type: ignore[operator]
        ids = [{id(parameter) for module in modules for parameter in module.parameters()} for modules in kept]
        shared: dict[tuple[int, ...], list[str]] = {}
        for name, parameter in model.named_parameters():
            owners = tuple(stage for stage, own in enumerate(ids) if id(parameter) in own)
            if len(owners) > 1 and parameter.requires_grad:
                shared.setdefault(owners, []).append(name)
        for owners, names in shared.items():
            self.groups.share(names, "pipeline", owners)
        keep_modules(model, kept[self.rank])
        self.layers = stages[self.rank]
        say(f"pipeline: {about_layers(stages)}")


class _Chunk(NamedTuple):
    """A chunk of layers of a model, as an objective calls a model."""

    module: nn.Module
    layers: range
    hidden: Tensor | None

    @property
    def training(self) -> bool:
        return self.module.training

    def __call__(self, **inputs: Any) -> Any:
        return self.module(**inputs, hidden=self.hidden, layers=self.layers)


class PipelinePasses:
    """`Passes` of a pipeline. `equal`: all ranks run as many micro-batches, because weights are gathered from others.

    A rank with fewer of them repeats its last one with weight zero.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        equal: bool,
        module: nn.Module,
        objective: Objective,
        precision: Precision,
    ) -> None:
        self._pipeline, self._equal = pipeline, equal
        self._module, self._objective, self._precision = module, objective, precision
        self._last = pipeline.stages * pipeline.chunks - 1
        self._sent: deque[tuple[dist.Work, Tensor]] = deque()
        self._keys: dict[bool, list[tuple[str, str]]] = {}
        self._told = False

    def run(self, parts: Sequence[Batch], factors: Mapping[str, float]) -> Sums:
        """See `Passes`."""
        own = len(parts)
        count = self._pipeline.world.most(own) if self._equal else own
        parts = [*parts, *[parts[-1]] * (count - own)]
        self._tell(count)
        sums, held = Sums(), dict[tuple[int, int], tuple[Tensor | None, Tensor]]()
        for step in schedule(self._pipeline.stages, self._pipeline.chunks, count, self._pipeline.rank):
            part, real = parts[step.micro_batch], step.micro_batch < own
            if step.backward:
                self._backward(step, part, *held.pop(step[1:]))
            else:
                held[step[1:]] = self._forward(
                    step, part, factors if real else dict.fromkeys(factors, 0.0), sums, 1.0 if real else None
                )
        self._wait()
        return self._shared(sums)

    @torch.no_grad()
    def measure(self, batches: Sequence[Batch], weights: Sequence[float]) -> Sums:
        """See `Passes`."""
        sums, factors = Sums(), dict(self._objective.weights)
        for step in schedule(self._pipeline.stages, self._pipeline.chunks, len(batches), self._pipeline.rank):
            if not step.backward:
                self._forward(step, batches[step.micro_batch], factors, sums, weights[step.micro_batch])
        self._wait()
        return self._shared(sums)

    def _forward(
        self, step: Pass, part: Batch, factors: Mapping[str, float], sums: Sums, weight: float | None
    ) -> tuple[Tensor | None, Tensor]:
        """The hidden states that the chunk reads (None: it embeds tokens), and those that it computes, or the loss."""
        place = step.chunk * self._pipeline.stages + self._pipeline.rank
        hidden = self._receive(step, place - 1, part) if place else None
        if hidden is not None and torch.is_grad_enabled():
            hidden.requires_grad_()
        chunk = _Chunk(self._module, self._pipeline.layers[step.chunk], hidden)
        if place < self._last:
            output: Tensor = chunk(**part)
            self._send(step, place + 1, output.detach())
            return hidden, output
        terms = self._objective(chunk, part)
        if weight is not None:  # zero too, so that a rank without a batch of its own has sums
            sums.add(terms, weight)
        return hidden, weighted_loss(terms, factors)

    def _backward(self, step: Pass, part: Batch, hidden: Tensor | None, output: Tensor) -> None:
        place = step.chunk * self._pipeline.stages + self._pipeline.rank
        torch.autograd.backward(output, self._receive(step, place + 1, part) if place < self._last else None)
        self._precision.gather()
        if hidden is not None:
            assert hidden.grad is not None
            self._send(step, place - 1, hidden.grad)

    def _receive(self, step: Pass, place: int, part: Batch) -> Tensor:
        """The hidden states of `part`, or their gradient, from the process of the chunk at `place`."""
        ids, rank = part["input_ids"], place % self._pipeline.stages
        shape = (*ids.shape, self._module.config.hidden_size)  # type: ignore[union-attr]
        message = torch.empty(shape, dtype=self._precision.dtype, device=ids.device)
        channel = self._pipeline.channels[step.backward, rank > self._pipeline.rank]
        dist.recv(message, self._pipeline.members[rank], group=channel)
        return message

    def _send(self, step: Pass, place: int, message: Tensor) -> None:
        message, rank = message.contiguous(), place % self._pipeline.stages
        channel = self._pipeline.channels[step.backward, rank < self._pipeline.rank]
        work = dist.isend(message, self._pipeline.members[rank], group=channel)
        assert work is not None
        self._sent.append((work, message))
        self._wait(most_messages(self._pipeline.stages))

    def _wait(self, most: int = 0) -> None:
        """Wait until at most the last `most` messages are under way."""
        while len(self._sent) > most:
            self._sent.popleft()[0].wait()

    def _shared(self, sums: Sums) -> Sums:
        """The sums of the last stage, in all stages."""
        pipeline, training = self._pipeline, self._module.training
        source = pipeline.members[-1]
        if training not in self._keys:
            found: list[Any] = [list(sums.tensors)]
            dist.broadcast_object_list(found, source, group=pipeline.group, device=torch.device("cpu"))
            self._keys[training] = found[0]
        keys = self._keys[training]
        device = next(self._module.parameters()).device
        values = torch.zeros(len(keys), dtype=sum_dtype(device), device=device)
        if sums.tensors:
            values = torch.stack([sums.tensors[key] for key in keys])
        dist.broadcast(values, source, group=pipeline.group)
        sums.tensors = dict(zip(keys, values.unbind(), strict=True))
        return sums

    def _tell(self, count: int) -> None:
        stages, chunks = self._pipeline.stages, self._pipeline.chunks
        if not self._told:
            share = idle_share(stages, chunks, count)
            say(f"pipeline: {count} micro-batches in a step; each process waits for others {share:.0%} of the time")
        self._told = True
