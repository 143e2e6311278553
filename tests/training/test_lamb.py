"""LAMB against the published update, written out in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder
from neolm.training import lamb
from neolm.training.lamb import Lamb
from neolm.training.optimiser import build_optimisers, kind_of_parameter
from neolm.training.pretrain_config import PretrainConfig

Array = NDArray[np.float64]
RATE, BETA1, BETA2, EPSILON, DECAY = 0.02, 0.9, 0.99, 1e-6, 0.3


class Published:
    """One variable of `lamb_optimizer.py`: `scaled` with decay and layer adaptation, else with neither."""

    def __init__(self, weight: Array, scaled: bool, corrected: bool) -> None:
        self.weight, self.scaled, self.corrected = weight, scaled, corrected
        self.m, self.v, self.steps = np.zeros_like(weight), np.zeros_like(weight), 0

    def step(self, gradient: Array) -> None:
        self.steps += 1
        self.m = BETA1 * self.m + (1 - BETA1) * gradient
        self.v = BETA2 * self.v + (1 - BETA2) * gradient**2
        m, v = self.m, self.v
        if self.corrected:
            m, v = m / (1 - BETA1**self.steps), v / (1 - BETA2**self.steps)
        update = m / (np.sqrt(v) + EPSILON)
        ratio = 1.0
        if self.scaled:
            update = update + DECAY * self.weight
            weight_norm, update_norm = np.sqrt((self.weight**2).sum()), np.sqrt((update**2).sum())
            ratio = weight_norm / update_norm if weight_norm > 0 and update_norm > 0 else 1.0
        self.weight = self.weight - RATE * ratio * update


def decoder(**settings: Any) -> Decoder:
    sizes = {"vocab_size": 40, "hidden_size": 8, "num_layers": 2, "num_heads": 2, "max_position_embeddings": 8}
    return Decoder(decoder_config("gpt-neo", **{**sizes, "qkv_bias": True, **settings})).initialise(0)


def settings(**changes: Any) -> PretrainConfig:
    defaults = {"learning_rate": RATE, "beta1": BETA1, "beta2": BETA2, "epsilon": EPSILON, "weight_decay": DECAY}
    return PretrainConfig(**{"steps": 1, "optimiser": "lamb", "no_decay": ("norm", "bias"), **defaults, **changes})


def float64(tensor: torch.Tensor) -> Array:
    return tensor.detach().double().numpy()


def parts(name: str, value: Array) -> list[Array]:
    """The layers that published models have apart."""
    return np.split(value, 3) if ".qkv." in name else [value]


def gradients(seed: int, step: int, model: torch.nn.Module) -> list[torch.Tensor]:
    """Of sizes far apart; that of every third parameter is zero in the first two steps."""
    generator = torch.Generator().manual_seed(100 * seed + step)
    found = [torch.randn(p.shape, generator=generator) * 10.0 ** (n % 5 - 3) for n, p in enumerate(model.parameters())]
    return [grad * 0 if n % 3 == 0 and step < 2 else grad for n, grad in enumerate(found)]


@given(st.integers(0, 1000), st.booleans(), st.sampled_from([(), ("norm", "bias"), ("norm", "bias", "embedding")]))
def test_it_updates_as_the_published_code(seed: int, corrected: bool, no_decay: tuple[str, ...]) -> None:
    hidden = 4 * (1 + seed % 5)
    model = decoder(hidden_size=hidden, vocab_size=11 + seed % 23)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for number, parameter in enumerate(parameters.values()):
            if number % 4 == 1:
                parameter.zero_()
    expected = {
        name: [
            Published(part, kind_of_parameter(name, p) not in no_decay, corrected) for part in parts(name, float64(p))
        ]
        for name, p in parameters.items()
    }
    (optimiser,) = build_optimisers(model, settings(bias_correction=corrected, no_decay=no_decay))
    start = {name: float64(p) for name, p in parameters.items()}
    for step in range(5):
        for (name, p), grad in zip(parameters.items(), gradients(seed, step, model), strict=True):
            p.grad = grad
            for published, part in zip(expected[name], parts(name, float64(grad)), strict=True):
                published.step(part)
        optimiser.step()
    for name, p in parameters.items():
        moved = np.concatenate([part.weight for part in expected[name]]) - start[name]
        np.testing.assert_allclose(float64(p) - start[name], moved, rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_reference_has_the_step_of_the_paper_by_hand() -> None:
    one = Published(np.array([3.0, 4.0]), scaled=True, corrected=False)
    one.step(np.array([1.0, 0.0]))
    # m / sqrt(v) = 0.1 / sqrt(0.01) = 1; with the decay, u = (1.9, 1.2) of norm 2.2472, and |w| = 5
    assert one.weight == pytest.approx([3 - 0.02 * 5 / 2.2472 * 1.9, 4 - 0.02 * 5 / 2.2472 * 1.2], abs=1e-5)


def test_queries_keys_and_values_are_scaled_apart() -> None:
    model = decoder()
    weight = model.blocks[0].attention.qkv.weight
    with torch.no_grad():
        weight[:8] *= 100
    before = weight.detach().clone()
    (optimiser,) = build_optimisers(model, settings(weight_decay=0.0))
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    optimiser.step()
    for new, old in zip(weight.detach().chunk(3), before.chunk(3), strict=True):
        assert (new - old).norm().item() == pytest.approx(RATE * old.norm().item(), rel=1e-4)


@pytest.mark.parametrize("most", [1, 100, 2**22])
def test_parameters_that_are_updated_together_change_nothing(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    results = []
    for limit in (most, 10**9):
        monkeypatch.setattr(lamb, "MAX_ELEMENTS", limit)
        model = decoder()
        (optimiser,) = build_optimisers(model, settings())
        for step in range(3):
            for p, grad in zip(model.parameters(), gradients(0, step, model), strict=True):
                p.grad = grad
            optimiser.step()
        results.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("corrected", [True, False])
def test_a_failed_step_changes_nothing(corrected: bool) -> None:
    model, other = decoder(), decoder()
    optimisers = [build_optimisers(each, settings(bias_correction=corrected))[0] for each in (model, other)]
    failed = torch.zeros(())
    optimisers[0].found_inf = failed
    for step in (0, 1, 2):
        before = [p.detach().clone() for p in model.parameters()]
        for p, grad in zip(model.parameters(), gradients(0, step, model), strict=True):
            p.grad = grad * float("nan") if step == 1 else grad
        failed.fill_(step == 1)
        optimisers[0].step()
        if step == 1:
            assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
            continue
        for p, grad in zip(other.parameters(), gradients(0, step, other), strict=True):
            p.grad = grad
        optimisers[1].step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_the_norm_of_a_large_matrix_is_exact() -> None:
    weight = torch.nn.Parameter(torch.full((4096, 1024), 0.1))
    weight.grad = torch.ones_like(weight)
    Lamb([{"params": [weight], "weight_decay": 0.0}], lr=1.0, betas=(0.0, 0.0)).step()
    # |u| = |g| and |w| = 0.1 |g|, so that w - lr * |w| / |u| * u = 0; an ordinary float32 norm is off by 1e-4
    assert weight.abs().max() < 1e-6
