"""One rank of a training of a small GPT-2, by NeoLM or a peer; `cluster_peers.py` starts it with torchrun.

    contestant_ranks.py PEER DIRECTORY

Prints, on rank 0, the seconds of a step and the seconds that a checkpoint costs, as JSON. Every peer trains the same
model on batches of the same size, in float32 with AdamW and clipping.

Shapes: B batch, T time.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

B, T, V, HIDDEN, LAYERS, HEADS = 8, 128, 8192, 512, 6, 8
STEPS, EVERY, WARMUP = 24, 6, 4  # a checkpoint after every sixth step of the second half


class Clock:
    """Times of the beginnings of steps."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def step(self) -> None:
        """A step begins."""
        self.times.append(time.perf_counter())

    def steps(self) -> list[float]:
        """Seconds from the beginning of each step to that of the next one, after the first ones."""
        return [after - before for before, after in zip(self.times[WARMUP:], self.times[WARMUP + 1 :], strict=False)]


def tokens(step: int, rows: slice = slice(None)) -> Tensor:
    """The sequences `rows` of the batch of `step`, (B, T + 1)."""
    return torch.randint(V, (B, T + 1), generator=torch.Generator().manual_seed(step))[rows]


def neolm(directory: Path, every: int, clock: Clock, *, shard: bool) -> None:
    """NeoLM's loop, with a copy of the model in each rank or, with `shard`, parts of it."""
    from neolm.core.device import Choice
    from neolm.data.batch import Batch
    from neolm.distributed.plan import parallelism
    from neolm.models.config import decoder_config
    from neolm.models.decoder import Decoder
    from neolm.training.loop import train
    from neolm.training.objective import CausalLanguageModelling
    from neolm.training.parallel_config import ParallelConfig
    from neolm.training.pretrain_config import PretrainConfig
    from neolm.training.run import Training

    class Data:
        def batch(self, step: int, rows: slice) -> Batch:
            ids = tokens(step, rows)
            return Batch({"input_ids": ids[:, :-1], "labels": ids[:, 1:]}, [*range(len(ids))])

        def documents(self, examples: Any) -> list[str]:
            return []

    class Timed(CausalLanguageModelling):
        def __call__(self, model: Any, batch: Batch) -> Any:
            clock.step()
            return super().__call__(model, batch)

    parallel = ParallelConfig(shard=dist.get_world_size() if shard else 1)
    config = decoder_config(
        "gpt2", vocab_size=V, hidden_size=HIDDEN, num_layers=LAYERS, num_heads=HEADS, max_position_embeddings=T
    )
    chosen = PretrainConfig(
        steps=STEPS, sequence_length=T, batch_size=B, checkpoint_every=every, validate_every=10**6, parallel=parallel
    )
    train(
        Training(
            model=Decoder(config).initialise(0),
            objective=Timed(),
            data=Data(),
            validation=(),
            config=chosen,
            directory=directory / f"{shard}-{every}",
            device=Choice("cpu", "requested"),
            precision=Choice("float32", "requested"),
            parallelism=parallelism(parallel, "cpu"),
        )
    )


def gpt2() -> nn.Module:
    """The same model in transformers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": V, "n_positions": T, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS}
    return GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))


def rank_batches(clock: Clock) -> Iterator[tuple[int, Tensor]]:
    """Step and sequences of this rank."""
    size = B // dist.get_world_size()
    rows = slice(size * dist.get_rank(), size * (dist.get_rank() + 1))
    for step in range(1, STEPS + 1):
        clock.step()
        yield step, tokens(step, rows)


def fsdp2(directory: Path, every: int, clock: Clock) -> None:
    """Torch's own example: fully_shard of transformers' blocks, and checkpoints by torch.distributed.checkpoint."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict
    from torch.distributed.fsdp import fully_shard

    model = gpt2()
    for block in model.transformer.h:
        fully_shard(block)
    fully_shard(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    for step, ids in rank_batches(clock):
        model(input_ids=ids[:, :-1], labels=ids[:, :-1]).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step % every == 0:
            weights, moments = get_state_dict(model, optimiser)
            dcp.save({"model": weights, "optimiser": moments}, checkpoint_id=directory / f"fsdp2-{step}")


def accelerate(directory: Path, every: int, clock: Clock) -> None:
    """Transformers in the loop of accelerate's documentation: DistributedDataParallel, and save_state."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = gpt2()
    model, optimiser = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True))
    for step, ids in rank_batches(clock):
        accelerator.backward(model(input_ids=ids[:, :-1], labels=ids[:, :-1]).loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step % every == 0:
            accelerator.save_state(str(directory / f"accelerate-{step}"))


PEERS: dict[str, Callable[[Path, int, Clock], None]] = {
    "neolm": lambda *arguments: neolm(*arguments, shard=False),
    "neolm sharded": lambda *arguments: neolm(*arguments, shard=True),
    "fsdp2": fsdp2,
    "accelerate": accelerate,
}


def main() -> None:
    peer, directory = PEERS[sys.argv[1]], Path(sys.argv[2])
    dist.init_process_group("gloo")
    found = []
    for every in (10**6, EVERY):
        torch.manual_seed(0)
        clock = Clock()
        peer(directory, every, clock)
        found.append(clock.steps())
    plain, saved = found
    checkpoints = len([step for step in range(WARMUP + 1, STEPS) if step % EVERY == 0])
    lost = (sum(saved) - sum(plain)) / checkpoints
    if dist.get_rank() == 0:
        print("result", json.dumps({"step": statistics.median(plain), "checkpoint": lost}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
