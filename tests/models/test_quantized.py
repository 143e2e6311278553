"""Weights of 8 and 4 bits: error bounds, quantisation while loading, and bit-equal files."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import quantize

from neolm.core import device
from neolm.core.errors import InputError
from neolm.kernels import packing
from neolm.kernels.packing import GROUP, Packed, pack, unpack, widen
from neolm.models import quantized, stored_model
from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder
from neolm.models.hf import load_model, save_model
from neolm.models.quantized import QuantizedLinear

FAMILIES = ("gpt2", "gpt-neo", "gpt-neox")


def build(family: str, **fields: int) -> Decoder:
    sizes = {"vocab_size": 101, "hidden_size": 48, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 32}
    return Decoder(decoder_config(family, **{**sizes, **fields})).initialise(1).eval()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 200), st.sampled_from([4, 8]), st.integers(0, 5))
def test_the_error_is_within_the_bounds_of_the_group(outputs: int, inputs: int, bits: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator) * 10 ** float(seed - 3)
    packed = pack(weight, bits)
    restored = unpack(packed)
    assert restored.shape == weight.shape
    padded = torch.zeros(outputs, -(-inputs // GROUP) * GROUP)
    padded[:, :inputs] = weight
    largest = padded.view(outputs, -1, GROUP).abs().amax(-1).repeat_interleave(GROUP, 1)[:, :inputs]
    steps = {8: 127, 4: 7}[bits]
    # Half a step; at 4 bits, the largest can be clipped by a third if that reduces the total error. Scales are float16.
    allowed = largest * (0.5 / steps if bits == 8 else 0.35) * 1.01 + 128 * 2**-25
    assert ((restored - weight).abs() <= allowed).all()
    short = unpack(packed, dtype=torch.bfloat16)
    torch.testing.assert_close(short, restored.bfloat16(), rtol=2**-7, atol=0)


def test_four_bits_use_a_better_scale_than_that_of_the_largest_weight() -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    groups = weight.view(64, -1, GROUP)
    scale = groups.abs().amax(-1, keepdim=True) / 7
    plain = ((groups / scale).round() * scale - groups).square().sum()
    assert (unpack(pack(weight, 4)) - weight).square().sum() < 0.9 * plain


def test_zeros_and_parts_of_a_matrix() -> None:
    assert torch.equal(unpack(pack(torch.zeros(20, 70), 4)), torch.zeros(20, 70))
    packed = pack(torch.randn(50, 70), 8)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        assert torch.equal(widen(packed, 16, 40, dtype), unpack(packed, dtype)[16:40].t())
    assert isinstance(packed, Packed)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_layer_multiplies_by_its_unpacked_weights(bits: int) -> None:
    layer = QuantizedLinear(bits, 50, 70, torch.nn.Parameter(torch.randn(50)))
    layer.fill(torch.randn(50, 70), torch.device("cpu"))
    x = torch.randn(3, 5, 70, dtype=torch.float64)
    expected = torch.nn.functional.linear(x, unpack(layer.packed).double(), layer.bias.double())
    torch.testing.assert_close(layer(x), expected)
    assert layer(x.float()).dtype == torch.float32


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_are_packed_and_widened_in_parts(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = []
    weight, bias = torch.randn(50, 70), torch.nn.Parameter(torch.randn(50))
    for _ in range(2):
        layers.append(QuantizedLinear(bits, 50, 70, bias))
        layers[-1].fill(weight, torch.device("cpu"))
        monkeypatch.setattr(packing, "_MAX_FP32_ROWS", 16)
    whole, parts = layers
    assert torch.equal(whole.values, parts.values)
    assert torch.equal(whole.scales, parts.scales)
    x = torch.randn(9, 70, dtype=torch.float64)
    expected = whole(x)
    monkeypatch.setattr(quantized, "MAX_WIDENED_WEIGHTS", 16 * 70)
    torch.testing.assert_close(whole(x), expected)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_few_rows_are_multiplied_by_the_kernels_which_read_packed_weights(bits: int) -> None:
    layer = QuantizedLinear(bits, 50, 70, torch.nn.Parameter(torch.randn(50)))
    layer.fill(torch.randn(50, 70), torch.device("cpu"))
    x = torch.randn(2, 2, 70)
    torch.testing.assert_close(layer(x), layer(x.double()).float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rows", [2, 20])
def test_activations_get_gradients(rows: int) -> None:
    layer = QuantizedLinear(8, 32, 64)
    layer.fill(torch.randn(32, 64, generator=torch.Generator().manual_seed(0)), torch.device("cpu"))
    x = torch.ones(rows, 64, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, unpack(layer.packed).sum(0).expand(rows, 64), rtol=2e-2, atol=5e-2)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", ["int8", "int4"])
def test_quantising_while_loading_equals_quantising_the_loaded_model(family: str, form: str, tmp_path: Path) -> None:
    model = build(family)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model", "cpu", quantize=form)
    rounded = quantize(copy.deepcopy(model), form)
    for (name, ours), (other, theirs) in zip(loaded.state_dict().items(), rounded.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(ours, theirs), name
    ids = torch.randint(0, 101, (2, 20), generator=torch.Generator().manual_seed(2))
    error = (loaded(ids) - model(ids)).abs().max() / model(ids).abs().max()
    assert error < {"int8": 0.03, "int4": 0.3}[form]
    assert loaded.quantized == {"int8": 8, "int4": 4}[form]


@pytest.mark.parametrize("family", ["gpt2", "gpt-neox"])
def test_the_loss_of_a_quantised_model_is_that_of_its_logits(family: str) -> None:
    model = quantize(build(family), "int8")
    ids = torch.randint(0, model.config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(0))
    total, entropy = model(ids, labels=ids, z_loss=0.1)
    expected = torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten(), reduction="sum")
    torch.testing.assert_close(entropy, expected, atol=0, rtol=0.01)
    assert total > entropy


@pytest.mark.parametrize("family", FAMILIES)
def test_a_quantised_model_is_bit_equal_after_saving_and_loading(family: str, tmp_path: Path) -> None:
    model = quantize(build(family), "int4")
    save_model(model, tmp_path / "q")
    again = load_model(tmp_path / "q", "cpu")
    assert again.quantized == 4
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    ids = torch.tensor([[1, 2]])
    assert torch.equal(load_model(tmp_path / "q", "cpu", quantize="int4")(ids), again(ids))
    with pytest.raises(InputError, match="quantised to 4 bits, not 8"):
        load_model(tmp_path / "q", "cpu", quantize="int8")


def test_inconsistent_files_are_refused(tmp_path: Path) -> None:
    save_model(quantize(build("gpt2"), "int8"), tmp_path / "q")
    path = tmp_path / "q" / "config.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(raw | {"n_layer": 3}), encoding="utf-8")
    with pytest.raises(InputError, match=r"tensors are missing: blocks\.2"):
        load_model(tmp_path / "q", "cpu")
    raw["quantization_config"]["group_size"] = 32
    path.write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(InputError, match="is not supported by this version"):
        load_model(tmp_path / "q", "cpu")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="'int3' is not known; use int8 or int4"):
        load_model("nowhere", quantize="int3")


def test_a_model_that_does_not_fit_is_refused_before_its_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("gpt-neo")
    save_model(model, tmp_path / "model")
    need = stored_model.StoredModel(tmp_path / "model").size
    assert need == 4 * model.parameter_count()
    monkeypatch.setattr(stored_model, "free_memory", lambda name: need - 1)
    reads: list[str] = []
    monkeypatch.setattr(stored_model.WeightFiles, "read", lambda self, name: reads.append(name))
    with pytest.raises(InputError, match="the model takes 0 MiB of memory and 0 MiB are free; int4"):
        load_model(tmp_path / "model", "cpu")
    assert not reads
    monkeypatch.undo()
    monkeypatch.setattr(stored_model, "free_memory", lambda name: need - 1)
    assert load_model(tmp_path / "model", "cpu", quantize="int4").quantized == 4  # this fits
    assert device.free_memory() > 0


@pytest.mark.parametrize("form", [None, "int8"])
def test_weights_on_disk_give_the_same_logits_and_leave_no_files(
    form: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(build("gpt-neo"), tmp_path / "model")
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    ids = torch.tensor([[1, 2, 3]])
    expected = load_model(tmp_path / "model", "cpu", quantize=form)(ids)
    monkeypatch.setattr(stored_model, "free_memory", lambda *_: 0)
    model = load_model(tmp_path / "model", "cpu", quantize=form, offload="disk")
    assert torch.equal(model(ids), expected)
    assert not list(folder.glob("neolm*"))
    assert "MiB of memory are free, so every token reads the rest again" in capsys.readouterr().err
    mapped = Path("/proc/self/maps")
    if mapped.exists():
        assert str(folder) in mapped.read_text(encoding="utf-8")


def test_a_full_disk_is_an_error_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(build("gpt-neo"), tmp_path / "model")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0))  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="of disk and 0 MiB are free; set TMPDIR to a folder on another disk"):
        load_model(tmp_path / "model", "cpu", offload="disk")
    with pytest.raises(InputError, match="'gpu' is not known; the only choice is disk"):
        load_model(tmp_path / "model", "cpu", offload="gpu")
