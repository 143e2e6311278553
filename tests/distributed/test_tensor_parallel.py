"""Tensor parallelism: the loss of a divided vocabulary, the parts of a model, and random numbers."""

import threading
from pathlib import Path
from typing import Any

import forked_command
import pytest
import torch
from torch import Tensor

from neolm.core.errors import SettingError
from neolm.models import cross_entropy
from neolm.models.config import decoder_config
from neolm.models.cross_entropy import IGNORED, linear_cross_entropy
from neolm.training.division import share
from neolm.training.parallel_config import ParallelConfig, check_model


class Part:
    """A part of a vocabulary, which exchanges tensors with those of other threads."""

    def __init__(self, place: int, sizes: list[int], barrier: threading.Barrier, given: list[Any]) -> None:
        self.first, self.largest = sum(sizes[:place]), max(sizes)
        self._place, self._barrier, self._given = place, barrier, given

    def gather(self, x: Tensor) -> Tensor:
        self._given[self._place] = x.clone()
        self._barrier.wait(60)
        found = torch.stack(self._given)
        self._barrier.wait(60)
        return found

    def add(self, x: Tensor) -> None:
        x.copy_(self.gather(x).sum(0))

    def join(self, logits: Tensor) -> Tensor:
        raise NotImplementedError


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("z", [0.0, 0.1])
@pytest.mark.parametrize(("parts", "has_bias"), [(2, True), (3, False)])
def test_the_loss_of_a_divided_vocabulary_is_that_of_the_whole_one(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, z: float, parts: int, has_bias: bool
) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", 1)
    monkeypatch.setattr(cross_entropy, "MIN_CHUNK_ROWS", 7)
    rows, channels, classes = 33, 8, 23
    generator = torch.Generator().manual_seed(1)
    hidden, weight = (torch.randn(size, channels, generator=generator) for size in (rows, classes))
    hidden[0], weight[5] = 30, 3  # a large logit in one part only
    labels = torch.randint(0, classes, (rows,), generator=generator)
    labels[::5] = IGNORED
    bias = torch.linspace(-2, 2, classes) if has_bias else None

    def loss(first: int, end: int, vocabulary: Part | None) -> list[Tensor]:
        leaves = [hidden, weight[first:end], *([] if bias is None else [bias[first:end]])]
        own = [leaf.to(dtype).detach().requires_grad_() for leaf in leaves]
        *values, correct = linear_cross_entropy(own[0], own[1], labels, z, own[2] if has_bias else None, vocabulary)
        return [*values, correct, *torch.autograd.grad(values[0] * 0.7, own)]

    total, entropy, correct, grad_hidden, *grads = loss(0, classes, None)
    ranges = [share(classes, place, parts) for place in range(parts)]
    barrier, given = threading.Barrier(parts), [None] * parts
    found: list[list[Tensor]] = [[] for _ in ranges]

    def run(place: int) -> None:
        part = Part(place, [end - first for first, end in ranges], barrier, given)
        found[place] = loss(*ranges[place], part)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(parts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.02, "rtol": 0.02}
    for place, (first, end) in enumerate(ranges):
        own = found[place]
        torch.testing.assert_close(own[:2], [total, entropy], rtol=1e-5, atol=1e-4)
        assert own[2] == correct
        assert torch.equal(own[3], found[0][3])
        torch.testing.assert_close(own[3], grad_hidden, **close)
        for part, whole in zip(own[4:], grads, strict=True):
            torch.testing.assert_close(part, whole[first:end], **close)


def test_heads_that_cannot_be_divided_are_refused() -> None:
    model = decoder_config("gpt2", vocab_size=61, hidden_size=16, num_layers=2, num_heads=4, max_position_embeddings=16)
    check_model(ParallelConfig(tensor=2), model, 16)
    with pytest.raises(SettingError, match=r"parallel\.tensor: 3 processes cannot divide the 4 attention heads"):
        check_model(ParallelConfig(tensor=3), model, 16)


# One process of several, each of which divides a small model.
RANK = """
import copy, sys

import torch
import torch.distributed as dist

from neolm.distributed.tensor_parallel import TensorGroup, divide
from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder
from neolm.models.encoder import Encoder
from neolm.models.encoder_config import encoder_config
from neolm.training.division import division_of
from neolm.training.precision import MixedPrecision

rank, ranks, store = sys.argv[1:]
rank, ranks = int(rank), int(ranks)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
group = TensorGroup(dist.group.WORLD, rank, ranks)
SIZES = {"vocab_size": 61, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 16}

def same(tensor, what):
    found = [torch.empty_like(tensor) for _ in range(ranks)]
    dist.all_gather(found, tensor.contiguous())
    assert all(torch.equal(other, tensor) for other in found), what
    return found

def check(whole, tied, ids, **labels):
    initial = {name: p.detach().clone() for name, p in whole.named_parameters()}
    with torch.no_grad():
        expected = whole.eval()(ids)
    model = copy.deepcopy(whole)
    divide(model, group)
    assert (model.head.weight is model.embedding.weight) == tied
    assert [*dict(model.named_parameters())] == [*initial]
    held = sum(p.numel() for p in model.parameters())
    assert held < 0.75 * sum(p.numel() for p in initial.values()), held
    for name, p in model.named_parameters():
        division = division_of(p)
        assert torch.equal(p if division is None else division.whole(p.detach()), initial[name]), name
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(ids), expected, atol=1e-5, rtol=0)
    precision = MixedPrecision(model, torch.bfloat16)  # copies the model
    precision.refresh()
    working = precision.working.train()
    assert (working.head.weight is working.embedding.weight) == tied
    torch.manual_seed(3)
    sums = working(ids, **labels)
    total = sums[0] + getattr(sums, "sentence_loss", 0)
    total.backward()
    same(total.detach(), "loss")
    same(torch.get_rng_state(), "random state")
    for (name, p), (_, master) in zip(working.named_parameters(), model.named_parameters()):
        assert p.grad is not None and p.grad.isfinite().all(), name
        if division_of(master) is None:
            same(p.grad, name)

ids = torch.arange(3 * 16).view(3, 16) % 61
labels = (ids + 1) % 61
for family in ("gpt2", "gpt-neo", "gpt-neox"):
    config = decoder_config(family, **SIZES, residual_dropout=0.1, attention_dropout=0.1, embedding_dropout=0.1)
    check(Decoder(config).initialise(0), config.ties_head, ids, labels=labels, z_loss=1e-3)
for family, more in (("bert", {}), ("albert", {"embedding_size": 16})):
    config = encoder_config(family, **SIZES, **more)
    check(Encoder(config).initialise(0), True, ids, labels=labels, sentence_labels=torch.tensor([0, 1, 0]))

# Dropout of attention, whose weights are one number for all keys here: other heads, other numbers
config = decoder_config("gpt2", **SIZES, attention_dropout=0.5)
model = Decoder(config).initialise(0)
attention = model.blocks[0].attention
divide(model, group)
ones = torch.ones(1, 4 // ranks, 16, 8)
torch.manual_seed(5)
dropped = [attention.mix(ones, ones, ones, None) for _ in range(2)]
found = [torch.empty_like(ones) for _ in range(ranks)]
dist.all_gather(found, dropped[0].contiguous())
assert not torch.equal(found[0], found[1])
assert not torch.equal(*dropped)
torch.manual_seed(5)
assert torch.equal(attention.mix(ones, ones, ones, None), dropped[0])
dist.destroy_process_group()
"""


def test_ranks_divide_a_model_and_agree_on_the_rest(tmp_path: Path) -> None:
    ranks = 2
    paths = [tmp_path / f"said by {rank}.txt" for rank in range(ranks)]
    started = [forked_command.start([rank, ranks, tmp_path / "store"], paths[rank], RANK) for rank in range(ranks)]
    for process in started:
        process.join()
    assert not any(process.exitcode for process in started), "\n".join(path.read_text() for path in paths)
