"""Dropout: exact values, masks that are random, repeated by a seed and the same in the backward pass."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from neolm.models.dropout import dropout

KERNEL = [torch.float32, torch.bfloat16]
TYPES = [*KERNEL, torch.float16, torch.float64]
SIGMAS = 5.0  # with fixed seeds; by chance, one of 2 million numbers is further off


def mask(n: int, p: float, seed: int | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Which of n elements are kept, 1 or 0."""
    if seed is not None:
        torch.manual_seed(seed)
    return (dropout(torch.ones(n, dtype=dtype), p, True) != 0).double()


def correlation(a: Tensor, b: Tensor, p: float) -> float:
    """In standard deviations of that of independent masks."""
    return float(((a - 1 + p) * (b - 1 + p)).sum() / (p * (1 - p) * len(a) ** 0.5))


@pytest.mark.parametrize("dtype", KERNEL)
@pytest.mark.parametrize("p", [1e-9, 1e-4, 0.01, 0.1, 1 / 9, 0.2, 1 / 3, 0.5, 0.7, 0.9, 0.999, 1 - 1e-7])
def test_kept_elements_are_rounded_once(p: float, dtype: torch.dtype) -> None:
    every = torch.arange(2**16).to(torch.uint16).view(torch.bfloat16)
    x = every[every.isfinite()].to(dtype)
    if dtype == torch.float32:  # all sorts of fractions
        x = x * (1 + torch.rand(len(x), generator=torch.Generator().manual_seed(2)))
    torch.manual_seed(1)
    y = dropout(x, p, True)
    kept = mask(len(x), p, 1, dtype).bool()
    assert y.dtype == dtype
    exact = torch.where(kept, x.double() / (1 - p), 0)
    below, above = ((exact * (1 + error)).to(dtype) for error in (-(2**-51), 2**-51))  # 1 / (1 - p) is rounded too
    assert ((y == below) | (y == above)).all()


@pytest.mark.parametrize("dtype", KERNEL)
def test_infinity_and_nan_are_kept(dtype: torch.dtype) -> None:
    x = torch.tensor([float("inf"), float("-inf"), float("nan")]).repeat(100).to(dtype)
    y = dropout(x, 0.5, True)
    assert 50 < y.count_nonzero() < 250
    torch.testing.assert_close(y, torch.where(y != 0, x, 0), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (1,), (3, 5), (2, 7, 100), (33, 1024)])
def test_the_gradient_has_the_same_mask_and_factor(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.ones(shape, dtype=dtype, requires_grad=True)
    torch.manual_seed(3)
    y = dropout(x, 0.4, True)
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert y.shape == gradient.shape == shape
    assert torch.equal(gradient, y)
    assert len(set(y.flatten().tolist())) <= 2


def test_the_second_derivative_goes_through_the_mask() -> None:
    x = torch.linspace(1, 2, 100, requires_grad=True)
    y = dropout(x, 0.5, True)
    (first,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, 6 * x.detach() * 8 * (y != 0))


@pytest.mark.parametrize("dtype", KERNEL)
@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_the_share_is_that_of_independent_elements(p: float, dtype: torch.dtype) -> None:
    n = 2**20
    kept = mask(n, p, 5, dtype)
    assert abs(kept.sum() - n * (1 - p)) < SIGMAS * (n * p * (1 - p)) ** 0.5
    for size in (2, 16, 1024):  # the counts of groups are spread as binomial ones
        counts = kept.view(-1, size).sum(dim=1)
        groups, variance = n // size, size * p * (1 - p)
        fourth = 3 + (1 - 6 * p * (1 - p)) / variance  # kurtosis
        error = ((counts - size * (1 - p)) ** 2).mean() / variance - 1
        assert abs(error) < SIGMAS * ((fourth - 1) / groups) ** 0.5
    for places in (slice(0, None, 2), slice(1, None, 2), slice(0, n // 8), slice(-n // 8, None)):
        part = kept[places]
        assert abs(part.sum() - len(part) * (1 - p)) < SIGMAS * (len(part) * p * (1 - p)) ** 0.5


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_neighbours_are_independent(p: float) -> None:
    kept = mask(2**20, p, 6)
    for distance in (1, 2, 3, 4, 8, 16, 384, 512, 768, 1024, 2048):
        assert abs(correlation(kept[:-distance], kept[distance:], p)) < SIGMAS, distance


def test_consecutive_calls_and_seeds_are_independent() -> None:
    torch.manual_seed(100)
    calls = [mask(2**16, 0.3) for _ in range(12)] + [mask(2**16, 0.3, seed) for seed in range(12)]
    for number, one in enumerate(calls):
        assert all(abs(correlation(one, other, 0.3)) < SIGMAS for other in calls[:number])
        assert all(abs(correlation(one[1:], other[:-1], 0.3)) < SIGMAS for other in calls[:number])


def test_a_seed_or_a_restored_state_repeats_the_masks() -> None:
    x = torch.ones(1000)
    torch.manual_seed(8)
    first = dropout(x, 0.5, True)
    state = torch.get_rng_state()
    second = dropout(x, 0.5, True)
    torch.set_rng_state(state)
    assert torch.equal(dropout(x, 0.5, True), second)
    torch.manual_seed(8)
    assert torch.equal(dropout(x, 0.5, True), first)
    torch.manual_seed(9)
    assert not torch.equal(dropout(x, 0.5, True), first)


@pytest.mark.parametrize("dtype", KERNEL)
def test_any_number_of_threads_gives_the_same(dtype: torch.dtype) -> None:
    x = torch.randn(150_001, generator=torch.Generator().manual_seed(1)).to(dtype)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        torch.manual_seed(1)
        found.append(dropout(x, 0.25, True))
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_activation_checkpointing_recomputes_the_mask(dtype: torch.dtype, reentrant: bool) -> None:
    weight = torch.randn(20, 20, dtype=dtype, generator=torch.Generator().manual_seed(1))

    def block(x: Tensor) -> Tensor:
        return dropout(torch.tanh(dropout(x @ weight, 0.3, True)), 0.3, True)

    results = []
    for recomputed in (False, True):
        x = torch.ones(30, 20, dtype=dtype, requires_grad=True)
        torch.manual_seed(4)
        y = block(x)
        y = checkpoint(block, y, use_reentrant=reentrant) if recomputed else block(y)
        dropout(y, 0.3, True).sum().backward()  # draws between the forward pass and its repetition
        results.append((y, x.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("dtype", TYPES)
def test_nothing_is_dropped_or_drawn_in_evaluation_or_at_zero(dtype: torch.dtype) -> None:
    x, state = torch.ones(4, dtype=dtype, requires_grad=True), torch.get_rng_state()
    assert dropout(x, 0.5, False) is x
    assert dropout(x, 0.0, True) is x
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", TYPES)
def test_everything_is_dropped_at_one(dtype: torch.dtype) -> None:
    x = torch.ones(50, dtype=dtype, requires_grad=True)
    y = dropout(x, 1.0, True)
    y.sum().backward()
    assert x.grad is not None
    assert y.count_nonzero() == x.grad.count_nonzero() == 0


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_a_share_beyond_0_and_1_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="probability"):
        dropout(torch.ones(3), p, True)


@pytest.mark.parametrize("dtype", KERNEL)
def test_views_and_parameters(dtype: torch.dtype) -> None:
    x = torch.arange(1.0, 25.0).to(dtype).view(4, 6)
    torch.manual_seed(2)
    expected = dropout(x.t().contiguous(), 0.5, True)
    torch.manual_seed(2)
    assert torch.equal(dropout(x.t(), 0.5, True), expected)
    leaf = torch.nn.Parameter(x)
    y = dropout(leaf, 0.5, True)
    y.sum().backward()  # an expanded gradient
    assert leaf.grad is not None
    assert torch.equal(leaf.grad != 0, y != 0)


@pytest.mark.parametrize("dtype", TYPES)
def test_fake_and_meta_tensors_have_shapes_and_gradients(dtype: torch.dtype) -> None:
    x = torch.ones(3, 4, dtype=dtype, device="meta", requires_grad=True)
    assert dropout(x, 0.5, True).is_meta
    with FakeTensorMode():
        fake = torch.ones(3, 4, dtype=dtype, requires_grad=True)
        y = dropout(fake, 0.5, True)
        y.sum().backward()
        assert isinstance(y, FakeTensor)
        assert isinstance(fake.grad, FakeTensor)
        assert y.shape == fake.grad.shape == (3, 4)


def test_the_backward_pass_keeps_no_mask() -> None:
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        dropout(torch.ones(1000, requires_grad=True), 0.5, True)
    assert kept == [1]


def test_compiled_code_has_torchs_dropout() -> None:
    compiled = torch.compile(lambda x: dropout(x, 0.5, True) + 1, backend="eager", fullgraph=True)
    x = torch.ones(100)
    torch.manual_seed(3)
    found = compiled(x)
    torch.manual_seed(3)
    assert torch.equal(found, F.dropout(x, 0.5) + 1)
