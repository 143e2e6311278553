"""The decoder: causality, gradients, windows, initialisation, and published sizes."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch.nn import functional as F

from neolm.core.errors import InputError
from neolm.models import decoder, trunk
from neolm.models.attention import attend, causal_mask
from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder, count_parameters
from neolm.models.families import DECODERS, PRESETS, preset

FAMILIES = ["gpt2", "gpt3", "gpt-neo", "gpt-neox"]
# Parameters without embeddings and head, computed from the published code on `meta`.
WITHOUT_EMBEDDINGS = {
    "gpt2": 85_056_000,
    "gpt2-medium": 302_311_424,
    "gpt2-large": 708_390_400,
    "gpt2-xl": 1_475_561_600,
    "gpt3-small": 85_056_000,
    "gpt3-medium": 302_311_424,
    "gpt3-large": 679_959_552,
    "gpt3-xl": 1_208_602_624,
    "gpt3-2.7b": 2_517_652_480,
    "gpt3-6.7b": 6_444_163_072,
    "gpt3-13b": 12_585_584_640,
    "gpt3-175b": 173_961_535_488,
    "gpt-neo-125m": 85_028_352,
    "gpt-neo-350m": 302_237_696,
    "gpt-neo-1.3b": 1_208_455_168,
    "gpt-neo-2.7b": 2_517_406_720,
    "gpt-neox-20b": 19_934_859_264,
    "pythia-14m": 1_189_888,
    "pythia-31m": 4_739_072,
    "pythia-70m": 18_915_328,
    "pythia-160m": 85_056_000,
    "pythia-410m": 302_311_424,
    "pythia-1b": 805_736_448,
    "pythia-1.4b": 1_208_602_624,
    "pythia-2.8b": 2_517_652_480,
    "pythia-6.9b": 6_444_163_072,
    "pythia-12b": 11_327_027_200,
}


def make(family, **fields):
    sizes = {"vocab_size": 40, "hidden_size": 32, "num_layers": 3, "num_heads": 4, "max_position_embeddings": 24}
    sizes |= {"window_size": 5} if family == "gpt-neo" else {}
    model = Decoder(decoder_config(family, **sizes | fields)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + (parameter.dim() == 1))
    return model


def ids_of(B, T):
    return torch.randint(40, (B, T), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_changing_a_token_changes_its_logits_and_none_before(family, padded):
    model, ids = make(family), ids_of(2, 24)
    mask = torch.ones_like(ids) if padded else None
    with torch.no_grad():
        before = model(ids, mask)
        for t in range(24):
            changed = ids.clone()
            changed[:, t] = (changed[:, t] + 1) % 40
            after = model(changed, mask)
            assert torch.equal(before[:, :t], after[:, :t]), t
            assert not torch.equal(before[:, t], after[:, t]), t


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_gets_a_gradient(family):
    model, ids = make(family).train(), ids_of(4, 24)
    F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("kind", ["embedding_dropout", "residual_dropout", "attention_dropout"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_dropout_has_an_effect_in_training_only(family, padded, kind):
    model, ids = make(family, **{kind: 0.5}), ids_of(2, 24)
    mask = torch.ones_like(ids) if padded else None
    expected = make(family)(ids, mask)
    assert torch.equal(model(ids, mask), expected)
    assert not torch.equal(model.train()(ids, mask), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_residual_dropout_applies_to_attention_and_mlp(family, monkeypatch):
    model, ids = make(family, residual_dropout=0.5).train(), ids_of(2, 24)
    monkeypatch.setattr(trunk, "dropout", lambda x, p, training: x * 0 if p else x)
    embedded = model.embedding(ids) + (model.positions.weight if model.positions else 0)
    assert torch.equal(model(ids), model.head(model.norm(embedded)))


@pytest.mark.parametrize("window", [1, 2, 3, 5, 8, 64, None])
@pytest.mark.parametrize("T", [1, 2, 5, 6, 8, 10, 16, 23])
def test_attention_follows_its_definition(T, window):
    B, H, D, scale = 2, 3, 4, 0.7
    generator = torch.Generator().manual_seed(T)
    # Views of (B, T, 3, H, D), as in the fused projection.
    fused = torch.randn(B, T, 3, H, D, generator=generator, dtype=torch.float64, requires_grad=True)
    q, k, v = fused.permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) * scale
    for i in range(T):
        for j in range(T):
            if j > i or (window is not None and j <= i - window):
                scores[..., i, j] = -math.inf
    expected = scores.softmax(-1) @ v
    got = attend(q, k, v, window, scale)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    visible = causal_mask(torch.ones(B, T), window)
    masked = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=scale)
    torch.testing.assert_close(masked, expected, rtol=0, atol=1e-12)
    weights = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((got * weights).sum(), fused, retain_graph=True)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), fused)
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_turns_hidden_states_into_logits(family):
    model, ids = make(family), ids_of(2, 9)
    with torch.no_grad():
        assert torch.equal(model.head(model(ids, logits=False)), model(ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_gives_finite_logits_and_does_not_change_other_rows(family):
    model, ids = make(family), ids_of(3, 12)
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    mask[1] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(ids, mask, positions)
        alone = model(ids[:1, 7:])
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits[0, 7:], alone[0], rtol=0, atol=1e-4)


def test_the_layers_share_the_masks_of_a_padded_batch(monkeypatch):
    model, ids = make("gpt-neo", num_layers=6), ids_of(2, 9)
    windows = []
    monkeypatch.setattr(
        decoder, "causal_mask", lambda mask, window: windows.append(window) or causal_mask(mask, window)
    )
    model(ids, torch.ones_like(ids))
    assert sorted(windows, key=str) == [5, None]


class NoCache:
    def update(self, layer, keys, values, window):
        raise AssertionError("the arguments are checked first")


@pytest.mark.parametrize(
    "arguments",
    [{"attention_mask": torch.ones(2, 3)}, {}, {"attention_mask": torch.ones(2, 3), "positions": torch.arange(3)}],
)
def test_a_cache_with_a_mask_or_without_positions_is_refused(arguments):
    with pytest.raises(ValueError, match="cache: give the positions of the new tokens and no attention_mask"):
        make("gpt2")(ids_of(2, 3), cache=NoCache(), **arguments)


def test_repr_is_one_short_line():
    assert repr(make("gpt-neo").bfloat16()) == (
        "Decoder(gpt-neo, 3 layers, 32 channels, 4 heads, vocabulary 40, context 24, 39,936 parameters, bfloat16, cpu)"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_initialisation_follows_the_family(family):
    h, L = 256, 8
    sizes = {"vocab_size": 600, "hidden_size": h, "num_heads": 4, "num_layers": L, "max_position_embeddings": 600}
    model = Decoder(decoder_config(family, **sizes)).initialise(3)
    small = math.sqrt(2 / (5 * h))
    documented = {  # embedding, positions, qkv and expand, attention output, MLP output
        "gpt2": (0.02, 0.01, 0.02, 0.02 / math.sqrt(2 * L), 0.02 / math.sqrt(2 * L)),
        "gpt3": (0.02, 0.01, 0.02, 0.02 / math.sqrt(2 * L), 0.02 / math.sqrt(2 * L)),
        "gpt-neo": (0.02, 0.01, 0.02, 0.02, 0.02 / math.sqrt(L)),
        "gpt-neox": (small, None, small, 2 / (L * math.sqrt(h)), 2 / (L * math.sqrt(h))),
    }[family]
    embedding, positions, inner, attention_output, mlp_output = documented
    expected = {"embedding": embedding, "head": embedding, "positions": positions, "qkv": inner, "expand": inner}
    expected |= {"attention.output": attention_output, "contract": mlp_output}
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif parameter.dim() == 1:
            assert (parameter == 1).all(), name
        else:
            std = next(value for key, value in expected.items() if f"{key}.weight" in name)
            assert parameter.std().item() == pytest.approx(std, rel=0.03), name
            assert abs(parameter.mean().item()) < 5 * std / math.sqrt(parameter.numel()), name
    again = Decoder(decoder_config(family, **sizes)).initialise(3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    other = Decoder(decoder_config(family, **sizes)).initialise(4)
    assert not torch.equal(model.embedding.weight, other.embedding.weight)


def test_every_preset_has_its_counts():
    assert {name for name, (family, _) in PRESETS.items() if family in DECODERS} == WITHOUT_EMBEDDINGS.keys()


@pytest.mark.parametrize("name", WITHOUT_EMBEDDINGS)
def test_published_parameter_counts(name):
    fields = preset(name)
    with torch.device("meta"):
        model = Decoder(decoder_config(fields.pop("family"), **fields))
    assert model.parameter_count() == PRESETS[name][1].parameters
    assert model.parameter_count(embeddings=False) == WITHOUT_EMBEDDINGS[name]
    assert count_parameters(model.config, embeddings=False) == WITHOUT_EMBEDDINGS[name]
    assert count_parameters(model.config) == model.parameter_count()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("gpt2-smal", "did you mean 'gpt2' or 'gpt2-medium' or 'gpt2-large' or 'gpt2-xl'?"),
        ("gpt-neo-125", "did you mean 'gpt-neo-125m'?"),
        ("GTP3-13B", "did you mean 'gpt3-13b'?"),
        ("llama", "there are gpt2, "),
    ],
)
def test_an_unknown_preset_names_the_nearest(name, hint):
    with pytest.raises(InputError, match=re.escape(f"unknown preset '{name}'; {hint}")):
        preset(name)
