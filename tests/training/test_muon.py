"""Muon against torch's own, and against the singular value decomposition."""

import pytest
import torch

from neolm.training import muon
from neolm.training.muon import Muon, orthogonal

SHAPES = [(24, 8), (8, 8), (32, 8), (8, 32), (24, 8), (8, 8)]


def parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


@pytest.mark.parametrize("together", [1, 2**22])
def test_it_updates_as_torchs_own(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    monkeypatch.setattr(muon, "MAX_STACKED_ELEMENTS", together)
    ours, theirs = parameters(), parameters()
    mine = Muon(ours, lr=0.02, weight_decay=0.3, momentum=0.9)
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.3, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    for step in range(5):
        generator = torch.Generator().manual_seed(step + 1)
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        mine.step()
        reference.step()
    for a, b, start in zip(ours, theirs, parameters(), strict=True):
        moved = (a - start).abs().mean().item()
        assert (a - b).abs().mean().item() < 0.02 * moved  # torch's own iterates in bfloat16


@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 64), (1, 5)])
def test_the_step_is_about_the_orthogonal_factor(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    found = orthogonal(matrices).float()
    values = torch.linalg.svdvals(found)
    well = torch.linalg.svdvals(matrices) > 0.1 * torch.linalg.svdvals(matrices)[:, :1]  # tiny ones stay below 1
    assert values[well].max() < 1.3
    assert values[well].min() > 0.5
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    alike = torch.nn.functional.cosine_similarity(found.flatten(1), (u @ v).flatten(1))
    assert alike.min() > 0.95


def test_no_gradient_and_a_zero_gradient_change_nothing() -> None:
    first, second = parameters()[:2]
    before = [first.detach().clone(), second.detach().clone()]
    second.grad = torch.zeros_like(second)
    Muon([first, second], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(first, before[0])
    assert torch.equal(second, before[1])
