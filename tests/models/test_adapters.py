"""LoRA: outputs at first, gradients, merging, files in PEFT's layout, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_encoders import padded_batch, tiny_encoder
from tiny_models import quantize, tiny_decoder

import neolm
from neolm.core.errors import InputError, SettingError
from neolm.generation.kernel_runner import why_not
from neolm.models.adapter_files import load_adapter, save_adapter
from neolm.models.adapters import add_lora, full_modules, lora_layers, merge_lora, unmerge_lora
from neolm.models.decoder import Decoder
from neolm.models.encoder import Encoder
from neolm.models.hf import load_model, save_model
from neolm.tokenizer.tokenizer import train_tokenizer

ALL = ("qkv", "output", "expand", "contract")
MODELS: dict[str, dict[str, Any]] = {
    "bert": {"head": "sequence", "num_labels": 3, "labels": ("a", "b", "c")},
    "bert mean": {"head": "sequence", "num_labels": 3, "pooling": "mean", "pooler": False},
    "bert masked": {"head": "masked", "pooler": False},
    "albert": {"head": "token", "pooler": False, "num_labels": 4},
    "albert choice": {"head": "choice", "groups": 2, "blocks_per_group": 2},
    "gpt2": {"head": "sequence"},
    "gpt2 writes": {},
    "gpt-neo": {"head": "sequence", "window_size": 4},
    "gpt-neox": {"head": "sequence", "num_labels": 1},
    "gpt-neox writes": {},
}


def build(name: str, seed: int = 0, **fields: Any) -> Decoder | Encoder:
    family, given = name.split(" ", maxsplit=1)[0], {**MODELS[name], **fields}
    if family.startswith("gpt"):
        return tiny_decoder(family, 32, seed, vocab_size=97, **given)
    return tiny_encoder(family, seed, **given)


def batch_of(model: Decoder | Encoder, seed: int = 0) -> dict[str, torch.Tensor]:
    batch = padded_batch(97, [9, 4, 17], 20, seed)
    return batch if isinstance(model, Encoder) else {name: batch[name] for name in ("input_ids", "attention_mask")}


@torch.no_grad()
def logits(model: Decoder | Encoder, seed: int = 0) -> torch.Tensor:
    found = model(**batch_of(model, seed))
    assert isinstance(found, torch.Tensor)
    return found


def trained(name: str, seed: int = 1, **settings: Any) -> Decoder | Encoder:
    """A model whose adapters and head are random numbers, as after a training."""
    model = add_lora(build(name), **{"rank": 3, "alpha": 6.0, "targets": ALL, **settings})
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("name", MODELS)
def test_new_adapters_change_no_bit_and_freeze_all_but_the_head(name: str) -> None:
    model = build(name)
    expected, own = logits(model), {n: p.detach().clone() for n, p in model.named_parameters()}
    assert add_lora(model, 4, 8.0, 0.1, ALL) is model
    assert torch.equal(logits(model), expected)
    found = dict(model.named_parameters())
    assert all(torch.equal(found[n], value) for n, value in own.items())
    heads = {n for n in own if n.split(".")[0] in full_modules(model)}
    assert {n for n, p in found.items() if p.requires_grad} == heads | {n for n in found if "lora_" in n}
    head = model.config.head
    assert bool(heads) is (head in ("sequence", "token", "choice"))
    assert ("pooler.weight" in heads) is (name in ("bert", "albert choice"))
    loss = model(**batch_of(model)).square().mean()
    loss.backward()
    for n, parameter in found.items():  # of A, the gradient is zero as long as B is
        assert (parameter.grad is None) is not parameter.requires_grad, n
        if parameter.requires_grad and "lora_a" not in n:
            assert parameter.grad.abs().max() > 0, n


@pytest.mark.parametrize("targets", [ALL, ("qkv",), ("query", "value"), ("key",), ("contract", "output")])
@pytest.mark.parametrize("name", ["bert", "gpt-neo", "albert choice"])
def test_an_adapted_layer_computes_the_equation(name: str, targets: tuple[str, ...]) -> None:
    model = trained(name, targets=targets)
    layers = lora_layers(model)
    assert {key.partition(".")[2].partition(".")[2] for key in layers} == {
        f"mlp.{t}" if t in ("expand", "contract") else "attention.output" if t == "output" else "attention.qkv"
        for t in targets
    }
    for key, layer in layers.items():
        x = torch.randn(7, layer.in_features, generator=torch.Generator().manual_seed(2))
        updates = [torch.zeros(layer.out_features // layer.count, layer.in_features) for _ in range(layer.count)]
        for part, down, up in zip(layer.parts, layer.lora_a, layer.lora_b, strict=True):
            updates[part] = up @ down * 6.0 / 3
        expected = torch.nn.functional.linear(x, layer.weight + torch.cat(updates), layer.bias)
        assert torch.allclose(layer(x), expected, rtol=1e-5, atol=1e-5), key
    parts = {layer.parts for key, layer in layers.items() if key.endswith("qkv")}
    order = {"query": 0, "key": 1, "value": 2}
    wanted = (0, 1, 2) if "qkv" in targets else tuple(sorted(order[t] for t in targets if t in order))
    assert parts == ({wanted} if wanted else set())


def test_a_new_a_is_uniform_and_depends_on_the_seed() -> None:
    first, second, other = (add_lora(build("bert"), seed=seed) for seed in (3, 3, 4))
    a, b, c = (
        torch.cat([m.flatten() for x in lora_layers(model).values() for m in x.lora_a])
        for model in (first, second, other)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert 0.9 / math.sqrt(32) < a.abs().max() <= 1 / math.sqrt(32)
    assert abs(a.mean()) < 0.02


def test_dropout_is_on_the_input_of_the_adapters_in_training_only() -> None:
    model = trained("bert", dropout=0.5, targets=("output",))
    expected = logits(model)
    torch.manual_seed(0)
    assert not torch.allclose(logits(model.train()), expected)
    assert torch.equal(logits(model.eval()), expected)


@pytest.mark.parametrize("name", MODELS)
def test_merging_and_unmerging_keep_logits_and_weights(name: str) -> None:
    model = trained(name)
    weights = {key: layer.weight.clone() for key, layer in lora_layers(model).items()}
    expected, probe = logits(model), batch_of(model, seed=5)
    merge_lora(model, probe)
    size = max(1.0, expected.abs().max().item())
    assert (logits(model) - expected).abs().max() <= 1e-5 * size
    assert not any(torch.equal(layer.weight, weights[key]) for key, layer in lora_layers(model).items())
    with pytest.raises(InputError, match="merged already"):
        merge_lora(model)
    unmerge_lora(model)
    for key, layer in lora_layers(model).items():
        assert (layer.weight - weights[key]).abs().max() <= 1e-6, key
    assert (logits(model) - expected).abs().max() <= 1e-5 * size
    merge_lora(model)  # with rows of its own


@pytest.mark.parametrize("name", ["bert", "gpt-neox writes"])
def test_a_merged_model_is_saved_as_a_plain_one(name: str, tmp_path: Path) -> None:
    model = trained(name)
    expected = logits(model)
    with pytest.raises(InputError, match="merge them before it is saved"):
        save_model(model, tmp_path)
    merge_lora(model)
    save_model(model, tmp_path)
    again = load_model(tmp_path, device="cpu")
    assert not lora_layers(again)
    assert torch.allclose(logits(again), expected, rtol=1e-5, atol=1e-5)
    assert not any("lora" in tensor for tensor in load_file(tmp_path / "model.safetensors"))


def test_a_merge_that_changes_logits_is_refused_and_changes_nothing() -> None:
    model = trained("bert").bfloat16()
    expected, weights = logits(model), {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(InputError, match=r"logits on the probe rows differ by .*load the model in float32"):
        merge_lora(model)
    assert torch.equal(logits(model), expected)
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())
    model = trained("gpt2")
    with torch.no_grad():
        next(iter(lora_layers(model).values())).lora_b[0].fill_(math.nan)
    with pytest.raises(InputError, match="differ by nan"):
        merge_lora(model)
    model = trained("bert").train()
    merge_lora(model)
    assert model.training


@pytest.mark.parametrize("targets", [ALL, ("qkv",), ("value", "expand")])
@pytest.mark.parametrize("name", MODELS)
def test_an_adapter_in_files_gives_the_same_model(name: str, targets: tuple[str, ...], tmp_path: Path) -> None:
    if "value" in targets and name.startswith(("gpt2", "gpt-neox")):
        targets = ("expand",)
    model = trained(name, targets=targets, dropout=0.25)
    save_adapter(model, tmp_path, base="some/model")
    again = build(name)
    for module in full_modules(again):  # of another random start
        for parameter in again.get_submodule(module).parameters():
            parameter.data.normal_()
    load_adapter(again, tmp_path)
    assert torch.equal(logits(again), logits(model))
    expected = dict(model.named_parameters())
    assert all(
        torch.equal(p, expected[n]) and p.requires_grad == expected[n].requires_grad
        for n, p in again.named_parameters()
    )
    assert {layer.dropout for layer in lora_layers(again).values()} == {0.25}
    merge_lora(model)  # the adapter of a merged model is the same
    save_adapter(model, tmp_path / "merged")
    first, second = (load_file(place / "adapter_model.safetensors") for place in (tmp_path, tmp_path / "merged"))
    assert all(torch.equal(first[n], second[n]) for n in first.keys() | second.keys())


def test_the_names_in_the_files(tmp_path: Path) -> None:
    save_adapter(trained("bert", targets=("query", "value")), tmp_path, base="bert-base-uncased")
    raw = json.loads((tmp_path / "adapter_config.json").read_text())
    places = [f"bert.encoder.layer.{n}.attention.self.{part}" for n in (0, 1) for part in ("query", "value")]
    assert raw == {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": "bert-base-uncased",
        "r": 3,
        "lora_alpha": 6,
        "lora_dropout": 0.0,
        "target_modules": places,
        "modules_to_save": ["bert.pooler.dense", "classifier"],
        "fan_in_fan_out": False,
        "bias": "none",
        "inference_mode": True,
    }
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    whole = [f"{module}.{kind}" for module in raw["modules_to_save"] for kind in ("weight", "bias")]
    expected = {f"{place}.lora_{kind}.weight" for place in places for kind in "AB"} | {*whole}
    assert {*tensors} == {f"base_model.model.{name}" for name in expected}
    assert tensors[f"base_model.model.{places[0]}.lora_A.weight"].shape == (3, 32)
    assert tensors[f"base_model.model.{places[0]}.lora_B.weight"].shape == (32, 3)
    save_adapter(trained("gpt2 writes", targets=("qkv",)), tmp_path / "gpt2")
    raw = json.loads((tmp_path / "gpt2" / "adapter_config.json").read_text())
    assert (raw["task_type"], raw["fan_in_fan_out"], raw["modules_to_save"]) == ("CAUSAL_LM", True, None)
    assert raw["target_modules"] == ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"]


def test_adapters_as_older_versions_wrote_them_are_read(tmp_path: Path) -> None:
    model = trained("bert", targets=("query",))
    save_adapter(model, tmp_path)
    (tmp_path / "config.json").unlink()
    raw = {"peft_type": "LORA", "lora_alpha": 6, "target_modules": ["query"], "alpha_pattern": {}, "use_dora": False}
    (tmp_path / "adapter_config.json").write_text(json.dumps(raw))
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    old = {n.replace("classifier.", "classifier.modules_to_save.default."): tensor for n, tensor in tensors.items()}
    save_file(old, tmp_path / "adapter_model.safetensors")
    again = build("bert")
    load_adapter(again, tmp_path)
    assert torch.equal(logits(again), logits(model))


def rewrite(directory: Path, change: Any = None, **config: Any) -> None:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    if change is not None:
        tensors = load_file(directory / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, directory / "adapter_model.safetensors")


HEAD = "base_model.model.classifier.weight"
LAYER = "base_model.model.bert.encoder.layer.0.attention.self.query"


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (lambda t: t.pop(HEAD), {}, r"lacks classifier\.weight; a new classifier would be random"),
        (lambda t: t.update({HEAD: torch.ones(2, 32)}), {}, r"has the shape \[2, 32\] .* must be \[3, 32\]"),
        (lambda t: t.update({HEAD: torch.full((3, 32), math.nan)}), {}, "holds a NaN or an infinity"),
        (lambda t: t.pop(f"{LAYER}.lora_B.weight"), {}, "but not the other matrix"),
        (lambda t: t.update({f"{LAYER}.lora_B.weight": torch.ones(32, 2)}), {}, r"by the model it must be \[32, 3\]"),
        (lambda t: t.update({f"{LAYER}.lora_A.weight": torch.ones(3, 32, dtype=torch.int32)}), {}, "floating-point"),
        (
            lambda t: t.update({f"{LAYER}.lora_B.bias": torch.ones(32)}),
            {},
            r"query\.lora_B\.bias is not part of this bert",
        ),
        (lambda t: [t.pop(n) for n in list(t) if "lora" in n], {}, "no LoRA matrices for this bert"),
        (
            lambda t: t.update(
                {f"{LAYER}.lora_A.weight": torch.ones(2, 32), f"{LAYER}.lora_B.weight": torch.ones(32, 2)}
            ),
            {},
            r"has ranks \[2, 3\]; one rank is supported",
        ),
        (None, {"peft_type": "IA3"}, "peft_type 'IA3' is not supported, only LORA"),
        (None, {"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa' is not supported"),
        (None, {"use_dora": True}, "use_dora: True is not supported"),
        (None, {"use_rslora": True}, "use_rslora: True is not supported"),
        (None, {"bias": "all"}, "bias: 'all' is not supported"),
        (None, {"alpha_pattern": {"query": 4}}, "alpha_pattern: .* is not supported"),
        (None, {"lora_alpha": "8"}, "lora_alpha: '8' is not a possible number"),
        (None, {"lora_dropout": 1.5}, "lora_dropout: 1.5 is not a possible number"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(
    change: Any, config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_adapter(trained("bert", targets=("query", "output")), tmp_path)
    rewrite(tmp_path, change, **config)
    model = build("bert")
    expected = logits(model)
    with pytest.raises(InputError, match=message):
        load_adapter(model, tmp_path)
    assert not lora_layers(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(logits(model), expected)


def test_adapters_of_other_models_and_labels_are_refused(tmp_path: Path) -> None:
    save_adapter(trained("bert"), tmp_path)
    with pytest.raises(InputError, match=r"labels are \['a', 'b', 'c'\], the model's \['c', 'a', 'b'\]"):
        load_adapter(build("bert", labels=("c", "a", "b")), tmp_path)
    with pytest.raises(InputError, match="is not part of this gpt2"):
        load_adapter(build("gpt2"), tmp_path)
    with pytest.raises(InputError, match=r"has no adapter_config\.json"):
        load_adapter(build("bert"), tmp_path / "nothing")
    with pytest.raises(InputError, match="this is an adapter, which is loaded into the model that it was trained with"):
        load_model(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"1234567890")
    with pytest.raises(InputError, match="truncated or corrupt"):
        load_adapter(build("bert"), tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"adapter_model\.safetensors"):
        load_adapter(build("bert"), tmp_path)


def test_models_and_settings_that_are_not_possible_are_refused() -> None:
    with pytest.raises(InputError, match="has adapters already"):
        add_lora(trained("bert"))
    with pytest.raises(InputError, match="a quantised model cannot get adapters"):
        add_lora(quantize(tiny_decoder("gpt2", 32), "int8"))
    with pytest.raises(InputError, match="sharing 'attention' has no published form"):
        add_lora(tiny_encoder("albert", sharing="attention"))
    with pytest.raises(InputError, match="no LoRA adapters"):
        merge_lora(build("bert"))
    with pytest.raises(InputError, match="no LoRA adapters to save"):
        save_adapter(build("bert"), Path())
    cases = [
        ({"rank": 0}, "rank: 0 is not between 1 and the 32 channels"),
        ({"rank": 33}, "rank: 33 is not between"),
        ({"alpha": 0.0}, "alpha: alpha must be positive"),
        ({"dropout": 1.0}, r"dropout: 1\.0 is not in"),
        ({"targets": ("attention",)}, "targets: 'attention' is not one of qkv, query"),
        ({"targets": ()}, "targets: give a list of"),
        ({"targets": "qkv"}, "targets: give a list of"),
    ]
    for settings, message in cases:
        model = build("bert")
        with pytest.raises(SettingError, match=message):
            add_lora(model, **settings)
        assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(SettingError, match="gpt2 has one matrix for queries, keys and values; use qkv"):
        add_lora(build("gpt2"), targets=("query",))


def test_text_is_generated_with_the_adapters() -> None:
    tokenizer = train_tokenizer(iter(["the sea is water, and more water under it"] * 3), 280)
    model = add_lora(tiny_decoder("gpt-neo", 32), rank=4, targets=ALL)
    plain = neolm.generate(model, tokenizer, "the sea", max_new_tokens=8)
    assert why_not(model) == "blocks.0.attention.qkv has a LoRA adapter"
    generator = torch.Generator().manual_seed(0)
    for layer in lora_layers(model).values():
        for matrix in layer.lora_b:
            matrix.data.copy_(0.3 * torch.randn(matrix.shape, generator=generator))
    adapted = neolm.generate(model, tokenizer, "the sea", max_new_tokens=8)
    merge_lora(model)
    assert why_not(model) is None
    assert neolm.generate(model, tokenizer, "the sea", max_new_tokens=8) == adapted != plain
