"""Encoders: sizes, padding, sharing, heads and losses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_encoders import padded_batch, tiny_encoder

from neolm.core.errors import InputError, SettingError
from neolm.models.encoder import Encoder
from neolm.models.encoder_config import EncoderConfig, encoder_config
from neolm.models.encoder_heads import MaskedHead
from neolm.models.families import ENCODERS, PRESETS, preset
from neolm.models.hf import load_decoder, load_model, save_model
from neolm.models.token_layout import TokenLayout

# Counts of transformers' classes: the bare model with its pooler, both pretraining heads, the masked language model.
PUBLISHED = {
    "bert-base-uncased": (109_482_240, 110_106_428, 109_514_298),
    "bert-large-uncased": (335_141_888, 336_226_108, 335_174_458),
    "bert-base-cased": (108_310_272, 108_932_934, 108_340_804),
    "bert-large-cased": (333_579_264, 334_661_958, 333_610_308),
    "bert-base-multilingual-cased": (177_853_440, 178_566_653, 177_974_523),
    "bert-base-multilingual-uncased": (167_356_416, 168_055_961, 167_463_831),
    "bert-base-chinese": (102_267_648, 102_882_442, 102_290_312),
    "bert-tiny": (4_385_920, 4_433_468, 4_416_698),
    "bert-mini": (11_170_560, 11_267_900, 11_201_594),
    "bert-small": (28_763_648, 29_058_876, 28_795_194),
    "bert-medium": (41_373_184, 41_668_412, 41_404_730),
    "albert-base-v2": (11_683_584, 11_813_810, 11_221_680),
    "albert-large-v2": (17_683_968, 17_847_474, 16_795_824),
    "albert-xlarge-v2": (58_724_864, 59_021_490, 54_821_040),
    "albert-xxlarge-v2": (222_595_584, 223_158_450, 206_368_944),
}
ENCODER_PRESETS = [name for name, (family, _) in PRESETS.items() if family in ENCODERS]


def on_meta(name: str, **fields: Any) -> Encoder:
    with torch.device("meta"):
        given = preset(name) | fields
        return Encoder(encoder_config(given.pop("family"), **given))


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_of_the_published_models(name: str) -> None:
    heads: list[dict[str, Any]] = [{"head": "none"}, {"head": "pretraining"}, {"head": "masked", "pooler": False}]
    assert tuple(on_meta(name, **head).parameter_count() for head in heads) == PUBLISHED[name]


@pytest.mark.parametrize("name", ENCODER_PRESETS)
def test_every_preset_states_its_count(name: str) -> None:
    model = on_meta(name)
    assert model.parameter_count() == PRESETS[name][1].parameters
    E = model.config.embedding_width
    tables = (model.config.vocab_size + 514) * E
    assert model.parameter_count(embeddings=False) == model.parameter_count() - tables


def test_the_documentation_has_the_presets() -> None:
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `((?:al)?bert-[\w-]+)` \| (\d+) \| ([\d,]+) \| (\d+) \| ([\d,]+) \|$", text, re.MULTILINE)
    expected = [
        (name, str(size.num_layers), f"{size.hidden_size:,}", str(size.num_heads), f"{size.parameters:,}")
        for name, (family, size) in PRESETS.items()
        if family in ENCODERS and not re.fullmatch(r"bert-l\d+-h\d+", name)
    ]
    assert rows == expected


def test_there_is_a_preset_of_each_published_size() -> None:
    assert len([name for name in ENCODER_PRESETS if re.fullmatch(r"bert-l\d+-h\d+", name)]) == 24
    assert {name.removeprefix("albert-") for name in ENCODER_PRESETS if name.startswith("albert")} == {
        f"{size}-{version}" for size in ("base", "large", "xlarge", "xxlarge") for version in ("v1", "v2")
    }
    one = encoder_config("albert", **{k: v for k, v in preset("albert-base-v1").items() if k != "family"})
    assert (one.residual_dropout, one.activation) == (0.1, "gelu")


@pytest.mark.parametrize(
    ("fields", "blocks", "order"),
    [
        ({"groups": 1}, 1, [0, 0, 0, 0, 0, 0]),
        ({"groups": 2}, 2, [0, 0, 0, 1, 1, 1]),
        ({"groups": 4}, 4, [0, 0, 1, 2, 2, 3]),
        ({"groups": 2, "blocks_per_group": 2}, 4, [0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3]),
        ({"sharing": "none"}, 6, [0, 1, 2, 3, 4, 5]),
        ({"sharing": "attention"}, 6, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_layers_share_the_blocks_of_their_group(fields: dict[str, Any], blocks: int, order: list[int]) -> None:
    model = tiny_encoder("albert", num_layers=6, **fields)
    assert len(model.blocks) == blocks
    assert [block for layer in range(6) for block in model.config.blocks_of(layer)] == order


def test_partly_shared_layers_have_one_attention_or_one_mlp() -> None:
    def parts(sharing: str) -> tuple[int, int]:
        names = [name for name, _ in tiny_encoder("albert", num_layers=3, sharing=sharing).named_parameters()]
        return sum("attention.qkv.weight" in name for name in names), sum("mlp.expand.weight" in name for name in names)

    assert parts("all") == (1, 1)
    assert parts("attention") == (1, 3)
    assert parts("feed-forward") == (3, 1)
    assert parts("none") == (3, 3)


@pytest.mark.parametrize("family", ENCODERS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_text_has_the_same_logits_alone_and_in_a_padded_batch(family: str, data: st.DataObject) -> None:
    model = tiny_encoder(family)
    lengths = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=6))
    batch = padded_batch(97, lengths, max(lengths) + data.draw(st.integers(0, 4)), seed=data.draw(st.integers(0, 9)))
    with torch.no_grad():
        together, sentence = model(**batch), model.sentence_logits(**batch)
        for row, length in enumerate(lengths):
            alone = {name: value[row : row + 1, :length] for name, value in batch.items()}
            assert torch.allclose(model(**alone)[0], together[row, :length], rtol=0, atol=1e-5)
            assert torch.allclose(model.sentence_logits(**alone)[0], sentence[row], rtol=0, atol=1e-5)


def dense_sums(model: Encoder, batch: dict[str, torch.Tensor], labels: torch.Tensor, sentence: torch.Tensor) -> Any:
    """The losses from the logits of all positions, each text computed without padding."""
    losses, pairs = [], []
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        alone = {name: value[row : row + 1, :length] for name, value in batch.items()}
        logits = model(**alone)[0]
        losses.append(torch.nn.functional.cross_entropy(logits, labels[row, :length], reduction="sum"))
        pairs.append(torch.nn.functional.cross_entropy(model.sentence_logits(**alone), sentence[row : row + 1]))
    return torch.stack(losses).sum(), torch.stack(pairs).sum()


@pytest.mark.parametrize(("lengths", "filling"), [((12, 3, 7, 12, 5, 11), 0), ((30, 39, 17, 25, 38, 32), 3)])
@pytest.mark.parametrize("family", ENCODERS)
def test_losses_and_gradients_of_a_padded_batch_equal_those_of_its_texts(
    family: str, lengths: tuple[int, ...], filling: int
) -> None:
    model = tiny_encoder(family)
    batch = padded_batch(97, [*lengths], max(lengths) + 1)
    assert TokenLayout((6, max(lengths) + 1), batch["attention_mask"], model.device).filling == filling
    chosen = torch.rand(batch["input_ids"].shape, generator=torch.Generator().manual_seed(2)) < 0.4
    labels = torch.where(chosen, batch["input_ids"], -100)
    labels[batch["attention_mask"] == 0] = -100
    labels[1] = -100  # a text without a predicted token
    sentence = torch.tensor([0, 1, 1, 0, 1, 0])
    sums = model(**batch, labels=labels, sentence_labels=sentence)
    (sums.masked_loss + sums.sentence_loss).backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    masked, pairs = dense_sums(model, batch, labels, sentence)
    (masked + pairs).backward()
    assert sums.masked_loss.item() == pytest.approx(masked.item(), abs=1e-4)
    assert sums.sentence_loss.item() == pytest.approx(pairs.item(), abs=1e-5)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(found[name], parameter.grad, rtol=1e-5, atol=1e-5 * max(1, parameter.grad.abs().max())), (
            name
        )
        assert found[name].abs().max() > 0, name
    with torch.no_grad():
        logits = model(**batch)
    assert sums.masked_correct == ((logits.argmax(-1) == labels) & (labels >= 0)).sum()
    assert sums.sentence_correct == (model.sentence_logits(**batch).argmax(-1) == sentence).sum()


def test_few_numbers_of_rows_occur() -> None:
    masks = [(torch.arange(4096) < tokens)[None] for tokens in range(2048, 4096)]
    layouts = [TokenLayout((1, 4096), mask, torch.device("cpu")) for mask in masks[::31]]
    rows = {layout.spans[0].tokens + layout.filling for layout in layouts}
    assert len(rows) == 33
    assert all(layout.filling < layout.spans[0].tokens / 32 for layout in layouts)


def test_few_lengths_occur_in_a_padded_batch_with_a_gradient() -> None:
    lengths = torch.arange(512, 0, -1)
    mask = torch.arange(512) < lengths.unsqueeze(1)
    layout = TokenLayout((512, 512), mask, torch.device("cpu"))
    assert [span.shape[1] for span in layout.spans] == [*range(512, 256, -32), *range(256, 0, -16)]
    assert sum(span.shape[0] * span.shape[1] for span in layout.spans) < 1.06 * mask.sum()
    most = TokenLayout((2, 100), torch.arange(100) < torch.tensor([[99], [1]]), torch.device("cpu"))
    assert [span.shape for span in most.spans] == [(1, 100), (1, 16)]  # not longer than the batch
    with torch.no_grad():  # no padding
        layout = TokenLayout((512, 512), mask, torch.device("cpu"))
    assert [span.shape for span in layout.spans] == [(1, length) for length in lengths]


def test_few_numbers_of_predictions_occur(monkeypatch: pytest.MonkeyPatch) -> None:
    head, hidden, rows = tiny_encoder("bert").head, torch.randn(300, 32), set()
    logits, transformed = head(hidden), MaskedHead._transformed
    monkeypatch.setattr(MaskedHead, "_transformed", lambda head, x: rows.add(len(x)) or transformed(head, x))
    for predicted in range(129, 257):
        labels = torch.where(torch.arange(300) < predicted, 7, -100)
        loss, correct = head(hidden, labels)
        expected = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert correct == (logits[:predicted].argmax(-1) == 7).sum()
    assert rows == set(range(132, 257, 4))


@pytest.mark.parametrize("family", ENCODERS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_the_order_of_texts_in_a_batch_changes_nothing(family: str, data: st.DataObject) -> None:
    model = tiny_encoder(family)
    lengths = data.draw(st.lists(st.integers(0, 30), min_size=2, max_size=6).filter(any))
    order = data.draw(st.permutations(range(len(lengths))))
    batch = padded_batch(97, lengths, max(lengths), seed=data.draw(st.integers(0, 9)))
    chance = torch.rand(batch["input_ids"].shape, generator=torch.Generator().manual_seed(1))
    labels = {
        "labels": batch["input_ids"].masked_fill((chance > 0.3) | (batch["attention_mask"] == 0), -100),
        "sentence_labels": torch.arange(len(lengths)) % 2,
    }
    moved = {name: value[order] for name, value in batch.items()}
    with torch.no_grad():
        assert torch.allclose(model(**moved), model(**batch)[order], rtol=0, atol=1e-5)
        first, second = model(**batch, **labels), model(**moved, **{name: v[order] for name, v in labels.items()})
    assert [value.item() for value in second] == pytest.approx([value.item() for value in first], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("bert", {}),
        ("albert", {}),
        ("albert", {"groups": 2}),
        ("albert", {"blocks_per_group": 2}),
        ("albert", {"sharing": "attention"}),
        ("albert", {"sharing": "feed-forward"}),
        ("albert", {"sharing": "none"}),
    ],
)
def test_every_parameter_gets_a_gradient(family: str, fields: dict[str, Any]) -> None:
    model = tiny_encoder(family, num_layers=3, **fields)
    batch = padded_batch(97, [12, 40, 7], 40)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    sums = model(**batch, labels=labels, sentence_labels=torch.tensor([0, 1, 1]))
    (sums.masked_loss + sums.sentence_loss).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        rows = parameter.grad.flatten(1) if parameter.dim() > 1 else parameter.grad.view(1, -1)
        assert (rows.abs().amax(dim=1) > 0).all(), name  # each position, token type and output, too


def test_nothing_to_predict_gives_a_loss_of_zero() -> None:
    model = tiny_encoder("bert")
    batch = padded_batch(97, [4, 2], 4)
    sums = model(**batch, labels=torch.full((2, 4), -100), sentence_labels=torch.tensor([-100, -100]))
    (sums.masked_loss + sums.sentence_loss).backward()
    assert sums[:4] == (0, 0, 0, 0)
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("empty", [[0], [0, 0], [3, 0, 5]])
def test_empty_texts_have_no_hidden_states(empty: list[int]) -> None:
    model = tiny_encoder("albert")
    batch = padded_batch(97, empty, 5)
    with torch.no_grad():
        hidden = model.hidden_states(**batch)
    assert hidden.shape == (len(empty), 5, 32)
    assert (hidden[batch["attention_mask"] == 0] == 0).all()
    assert model.sentence_logits(**batch).isfinite().all()
    assert hidden[batch["attention_mask"] == 1].isfinite().all()


def test_a_text_beyond_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="41 tokens are more than the 40 positions of the model"):
        tiny_encoder("bert")(torch.zeros(1, 41, dtype=torch.int64))


@pytest.mark.parametrize("family", ENCODERS)
def test_new_weights_are_those_of_the_published_code(family: str) -> None:
    narrow = {"embedding_size": 64} if family == "albert" else {}
    fields = {"vocab_size": 500, "hidden_size": 128, "num_layers": 2, "num_heads": 2, **narrow}
    model = Encoder(encoder_config(family, **fields)).initialise(3)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif parameter.dim() == 1:
            assert (parameter == 1).all(), name
        else:
            assert parameter.abs().max() <= 0.04, name  # two standard deviations
            # 0.88 is the standard deviation of a normal distribution that is truncated there
            assert parameter.std().item() == pytest.approx(0.02 * 0.8796, rel=0.1), name
    again = Encoder(encoder_config(family, **fields)).initialise(3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("albert", {"embedding_size": 64}, "embedding_size: 64 is more than hidden_size 32"),
        ("albert", {"embedding_size": 16, "groups": 3}, "groups: 3 is more than num_layers 2"),
        ("albert", {"embedding_size": 16, "sharing": "attention", "groups": 2}, "sharing: 'attention' needs groups 1"),
        ("bert", {"num_heads": 5}, "hidden_size: 32 is not a multiple of num_heads 5"),
        ("bert", {"pooler": False}, "pooler: the head 'pretraining' needs it"),
        ("bert", {"head": "sequence", "labels": ("a",)}, "labels: there are 1 names for 2 outputs"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(family: str, fields: dict[str, Any], message: str) -> None:
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 50}
    with pytest.raises(SettingError) as caught:
        encoder_config(family, **{**sizes, **fields})
    assert message in str(caught.value)


def test_an_encoder_is_no_decoder(tmp_path: Path) -> None:
    save_model(tiny_encoder("bert"), tmp_path)
    with pytest.raises(InputError, match="this BERT is an encoder: it reads text and cannot write it"):
        load_decoder(tmp_path)


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_a_quantised_encoder_is_close_and_survives_saving(tmp_path: Path, quantize: str) -> None:
    model = tiny_encoder("albert", hidden_size=64, num_heads=4, spread=0.1)
    save_model(model, tmp_path / "full")
    rounded = load_model(tmp_path / "full", quantize=quantize)
    assert rounded.quantized == {"int8": 8, "int4": 4}[quantize]
    batch = padded_batch(97, [9, 4], 9)
    with torch.no_grad():
        found, expected = rounded.hidden_states(**batch), model.hidden_states(**batch)
        similarity = torch.nn.functional.cosine_similarity(found[0], expected[0], dim=-1).min().item()
        assert similarity > {"int8": 0.999, "int4": 0.97}[quantize]
        save_model(rounded, tmp_path / "rounded")
        assert torch.equal(load_model(tmp_path / "rounded").hidden_states(**batch), found)


def test_every_setting_of_an_encoder_is_used() -> None:
    """Each field changes the parameters, the output, or what is written."""
    from neolm.models.hf_config import hf_config

    base: dict[str, Any] = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 50, "embedding_size": 16}
    values: dict[str, Any] = {
        "vocab_size": 60, "hidden_size": 64, "embedding_size": 8, "num_layers": 3, "num_heads": 2,
        "intermediate_size": 40, "max_position_embeddings": 64, "type_vocab_size": 3, "groups": 2,
        "blocks_per_group": 2, "sharing": "attention", "activation": "relu", "norm_epsilon": 1e-3,
        "initializer_range": 0.1, "residual_dropout": 0.3, "attention_dropout": 0.3, "classifier_dropout": 0.3,
        "pad_token_id": 4,
        "bos_token_id": 5, "eos_token_id": 6, "head": "masked", "sentence_task": "nsp",
    }  # fmt: skip
    with_labels = {"num_labels", "labels", "problem"}  # of classifiers: tests/parity/test_encoder_logits.py
    with_labels |= {"pooling"}  # tests/models/test_mean_pooling.py
    of_new_weights = {"initialisation"}  # tests/models/test_neighbour_heads.py
    assert {*values, *with_labels, *of_new_weights, "pooler", "family"} == {*EncoderConfig.model_fields}
    written = hf_config(encoder_config("albert", **base))
    for name, value in values.items():
        assert hf_config(encoder_config("albert", **{**base, name: value})) != written, name
