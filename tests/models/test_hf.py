"""Model directories: errors of one line, and failed saves leave the old model."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import warnings
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file, save_file

from neolm.core.artifact import Stage
from neolm.core.errors import InputError
from neolm.models import hf_files
from neolm.models.config import decoder_config
from neolm.models.decoder import Decoder
from neolm.models.hf import convert, load_model, model_directory, save_model, state_tensors
from neolm.models.hf_names import published_tensors

FAMILIES = ["gpt2", "gpt-neo", "gpt-neox"]


def make(family="gpt2", **fields):
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "max_position_embeddings": 16}
    return Decoder(decoder_config(family, **sizes | fields)).initialise(1)


@pytest.fixture
def directory(tmp_path):
    save_model(make(), tmp_path / "model")
    return tmp_path / "model"


def refused(directory, match):
    with pytest.raises(InputError, match=match) as caught:
        load_model(directory, device="cpu")
    assert "\n" not in str(caught.value)


def rewrite(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, directory / "model.safetensors")


@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip(family, tmp_path):
    model = make(family, activation="quick_gelu", attention_dropout=0.1)
    save_model(model, tmp_path / "a")
    again = load_model(tmp_path / "a", device="cpu")
    assert again.config == model.config
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert (again.head.weight is again.embedding.weight) == model.config.tie_embeddings
    assert all(parameter.requires_grad for parameter in again.parameters())
    assert convert(str(tmp_path / "a"), tmp_path / "b").config == model.config
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_of_a_checkpoint_get_their_published_names(family):
    model = make(family)
    named = dict(published_tensors(model.config, model.state_dict()))
    streamed = dict(state_tensors(model))
    assert named.keys() == streamed.keys()
    assert all(torch.equal(named[name], streamed[name]) for name in named)


def test_device_and_dtype(directory):
    model = load_model(directory, device="cpu", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    with pytest.raises(InputError, match="dtype: int8"):
        load_model(directory, dtype="int8")
    with pytest.raises(InputError, match="device"):
        load_model(directory, device="cuda:99")


def test_float16_is_loaded_as_float32_on_a_cpu_but_stays_float16_in_files(directory, tmp_path):
    convert(directory, tmp_path / "half", dtype="float16")
    assert load_model(tmp_path / "half", device="cpu").embedding.weight.dtype == torch.float32
    convert(tmp_path / "half", tmp_path / "again")
    assert (tmp_path / "half" / "model.safetensors").read_bytes() == (
        tmp_path / "again" / "model.safetensors"
    ).read_bytes()


def test_a_mask_of_another_type_does_not_widen_the_weights(directory, tmp_path):
    convert(directory, tmp_path / "half", dtype="bfloat16")
    rewrite(tmp_path / "half", lambda tensors: tensors.update({"transformer.h.0.attn.bias": torch.ones(1, 1, 16, 16)}))
    assert load_model(tmp_path / "half", device="cpu").embedding.weight.dtype == torch.bfloat16


def test_no_such_directory(tmp_path, monkeypatch):
    refused(tmp_path / "nothing", "no such model directory")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "this is a file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"it has no config\.json")
    refused("~no-such-user/model", "no such")  # a file name, as in a shell
    refused("a" * 300, r"a: cannot be read \(File name too long\)")


def test_a_hub_id_without_a_network(monkeypatch):
    import huggingface_hub

    def offline(*arguments, **keywords):
        raise ConnectionError("there is no network\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    refused("some-organisation/some-model", "no such directory, and it cannot be downloaded as a hub id: there is no")


def test_a_hub_id_downloads_safetensors_before_pickles(directory, tmp_path, monkeypatch):
    import huggingface_hub

    requested = []

    def download(name, allow_patterns):
        requested.append(allow_patterns)
        return str(directory)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert model_directory("some-organisation/some-model") == directory
    assert "model.safetensors" in requested[0]
    for small in (
        *(
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
        ),
        *("added_tokens.json", "vocab.json", "merges.txt", "encoder.json", "vocab.bpe", "chat_template.jinja"),
        *("chat_template.json", "additional_chat_templates/rag.jinja", "tokenizer.model"),
    ):
        assert any(fnmatch.fnmatch(small, pattern) for pattern in requested[0]), small
    assert not any(pattern.endswith(".bin") for pattern in requested[0])
    (directory / "model.safetensors").unlink()
    model_directory("some-organisation/some-model")
    assert {"pytorch_model.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json"} <= set(requested[-1])


def test_the_output_directory_of_a_run_stands_for_its_model(directory, tmp_path):
    shutil.copytree(directory, tmp_path / "run" / "model")
    assert model_directory(tmp_path / "run") == tmp_path / "run" / "model"
    assert model_directory(tmp_path / "run" / "model") == tmp_path / "run" / "model"
    shutil.copytree(directory, tmp_path / "run" / "model" / "model")  # a model directory is never searched
    assert model_directory(tmp_path / "run" / "model") == tmp_path / "run" / "model"


def test_a_directory_near_a_model_is_named_with_the_model(directory, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(directory, run / "model")
    Stage("shards", "models", run / "shards", {}, {"a": 1}).build(lambda folder: {})
    refused(run / "shards", rf"model_type None .*the output of the stage 'shards'; give {run}/model$")
    (run / "pretrain" / "checkpoints").mkdir(parents=True)
    refused(run / "pretrain" / "checkpoints", rf"has no config\.json; give {run}/model$")
    refused(run / "nodel", rf"no such model directory; give {run}/model$")
    refused(run / "model" / "model", rf"no such model directory; give {run}/model$")
    refused(run / "model" / "model.safetensors", rf"this is a file, not a model directory; give {run}/model$")
    shutil.rmtree(run / "model")
    refused(run, r"has no config\.json; this is the output of a run that has no model yet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copytree(directory, run / "model")
    refused("run/nodel", r"cannot be downloaded as a hub id: .*; give run/model$")


def test_no_weights(directory):
    (directory / "model.safetensors").rename(directory / "model.ckpt")
    refused(directory, r"no weights here .*model\.ckpt cannot be read")


@pytest.mark.parametrize("size", [0, 5, 100, 3000, -1])
def test_a_truncated_file(directory, size):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    refused(directory, r"model\.safetensors: truncated or corrupt")


def test_a_corrupt_file(directory):
    (directory / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    refused(directory, r"model\.safetensors: truncated or corrupt")


def test_missing_tensors(directory):
    rewrite(directory, lambda tensors: [tensors.pop(name) for name in list(tensors) if ".mlp." in name])
    refused(directory, r"8 tensors are missing: transformer\.h\.0\.mlp\.c_fc\.weight, .*\(and 5 more\)")


def test_unexpected_tensors(directory):
    rewrite(directory, lambda tensors: tensors.update({"score.weight": torch.ones(2, 16)}))
    refused(directory, r"1 tensor is not part of the gpt2 that config\.json describes: score\.weight")


def test_misshapen_tensors(directory):
    rewrite(directory, lambda tensors: tensors.update({"transformer.wpe.weight": torch.ones(9, 16)}))
    refused(directory, r"transformer\.wpe\.weight has the shape \[9, 16\], but by config\.json it must be \[16, 16\]")


def test_a_duplicate_tensor(directory):
    rewrite(directory, lambda tensors: tensors.update({"wpe.weight": torch.ones(16, 16)}))
    refused(directory, "are the same tensor of the model")


def test_integer_weights(directory):
    rewrite(directory, lambda tensors: tensors.update({"transformer.wpe.weight": torch.ones(16, 16, dtype=torch.int8)}))
    refused(directory, r"the type of transformer\.wpe\.weight is not one of float32")


def test_missing_shards_and_wrong_indices(tmp_path):
    save_model(make(), tmp_path, max_shard_bytes=8000)
    index = tmp_path / "model.safetensors.index.json"
    original = json.loads(index.read_text())
    shards = sorted(set(original["weight_map"].values()))
    for place, match in (("../model.safetensors", "is not the name of"), (3, "weight_map must name")):
        index.write_text(json.dumps({"weight_map": original["weight_map"] | {"transformer.wte.weight": place}}))
        refused(tmp_path, match)
    index.write_text(json.dumps({"weight_map": original["weight_map"] | {"transformer.wte.weight": shards[-1]}}))
    refused(tmp_path, r"transformer\.wte\.weight is missing, which the index lists")
    index.write_text("{")
    refused(tmp_path, "not valid JSON")
    index.write_text(json.dumps(original))
    load_model(tmp_path)
    (tmp_path / shards[1]).unlink()
    refused(tmp_path, f"shards are missing: {shards[1]}")


class Evil:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        from pathlib import Path

        return Path.touch, (self.path,)


def test_a_pickle_that_needs_more_than_tensors_is_refused(directory, tmp_path):
    (directory / "model.safetensors").unlink()
    file = directory / "pytorch_model.bin"
    for legacy in (False, True):
        torch.save({"x": Evil(tmp_path / "owned")}, file, _use_new_zipfile_serialization=not legacy)
        refused(directory, r"refused, .*weights_only=True.* any code")
        assert not (tmp_path / "owned").exists()
    torch.save([torch.ones(2)], file)
    refused(directory, "not a mapping of names to tensors")
    torch.save({"x": torch.ones(2000)}, file)
    file.write_bytes(file.read_bytes()[:3000])
    refused(directory, "refused, ")
    file.write_bytes(b"")
    refused(directory, "refused, ")


def test_saving_leaves_no_stale_shards(tmp_path):
    save_model(make(), tmp_path, max_shard_bytes=8000)
    (tmp_path / "model_notes.safetensors").write_bytes(b"mine")
    save_model(make(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "model_notes.safetensors",
    ]
    save_model(make(), tmp_path, max_shard_bytes=8000)
    assert not (tmp_path / "model.safetensors").exists()
    load_model(tmp_path)


def test_a_failed_save_leaves_the_old_model(directory, monkeypatch):
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    real = hf_files.write_tensors

    def fail_late(path, tensors, metadata):
        if path.name.endswith(".1.tmp"):
            raise KeyboardInterrupt
        real(path, tensors, metadata=metadata)

    monkeypatch.setattr(hf_files, "write_tensors", fail_late)
    with pytest.raises(KeyboardInterrupt):
        save_model(make(), directory, max_shard_bytes=8000)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_model(make(), tmp_path / "file" / "model")


def test_a_model_loaded_from_a_directory_can_be_saved_into_it(directory):
    before = (directory / "model.safetensors").read_bytes()
    model = load_model(directory)
    save_model(model, directory)
    assert (directory / "model.safetensors").read_bytes() == before
    shutil.rmtree(directory)
    assert torch.isfinite(model(torch.tensor([[1, 2, 3]]))).all()  # nothing is left mapped to the file


@pytest.mark.parametrize("quantized", [None, "int8"])
def test_more_layers_than_tensors_are_refused_before_they_are_built(quantized, directory, tmp_path, monkeypatch):
    convert(directory, tmp_path / "copy", quantize=quantized)
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config | {"n_layer": 1000}))
    monkeypatch.setattr("neolm.models.stored_model.Decoder", None)
    refused(tmp_path / "copy", r"config.json describes num_layers 1000, but the weight files hold only \d\d tensors")


def plain_bin(directory, tensors=None, legacy=False):
    """Replace the weights of `directory` by a `pytorch_model.bin`."""
    whole = directory / "model.safetensors"
    tensors = load_file(whole) if tensors is None else tensors
    whole.unlink(missing_ok=True)
    torch.save(tensors, directory / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_plain_pickle_is_read(legacy, directory):
    expected = load_model(directory, device="cpu").state_dict()
    tensors = {name: torch.nn.Parameter(tensor) for name, tensor in load_file(directory / "model.safetensors").items()}
    tensors["transformer.wpe.weight"] = tensors["transformer.wpe.weight"].detach().t().contiguous().t()
    plain_bin(directory, OrderedDict(tensors), legacy)
    found = load_model(directory, device="cpu").state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert load_model(directory, device="cpu", quantize="int8").quantized == 8


class OtherTensor(torch.Tensor):
    pass


ODD_TENSORS = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "compressed": lambda: torch.eye(3).to_sparse_csr(),
    "meta": lambda: torch.ones(3, device="meta"),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "subclass": lambda: torch.ones(3).as_subclass(OtherTensor),
    "expanded": lambda: torch.ones(1).expand(10**9),
    "no tensor": lambda: 1,
    "bytes": lambda: bytearray(3),
    "dictionary": lambda: {"x": torch.ones(3)},
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # of torch, about old kinds
@pytest.mark.parametrize("kind", ODD_TENSORS)
@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_with_other_tensors_are_refused(kind, legacy, directory):
    odd = ODD_TENSORS[kind]()
    tensors = load_file(directory / "model.safetensors") | {"x": odd}
    try:
        plain_bin(directory, tensors, legacy)
    except (RuntimeError, AttributeError, NotImplementedError):
        assert legacy  # torch cannot write some of them in the old format
        return
    refused(directory, r"pytorch_model\.bin: refused, because ")


@pytest.mark.parametrize("name", [3, None, ("a",), 2.5])
def test_pickles_with_other_names_are_refused(name, directory):
    plain_bin(directory, load_file(directory / "model.safetensors") | {name: torch.ones(2)})
    refused(directory, "refused, because it is not a mapping of names to tensors")


def rewritten_zip(file, change, compression=zipfile.ZIP_STORED):
    """Write the entries of a zip again, with the content that `change` returns for each."""
    with zipfile.ZipFile(file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, change(name, content))


def with_pickle(content):
    return lambda name, old: content if name.endswith("data.pkl") else old


BOMBS = {
    "a long bytearray": b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x10\x85R.",
    "nested tuples": b"\x80\x02}K\x01" + b"\x85" * 200_000 + b"K\x02s.",
    "many values": b"\x80\x02]" + b"N0" * 2**22 + b".",
    "another class": b"\x80\x02cos\nsystem\n.",
    "a name in pieces": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "damage": b"\x80\x02}q\x00(X",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_pickles_that_are_more_than_a_list_of_tensors_are_refused_before_torch_reads_them(bomb, directory, monkeypatch):
    plain_bin(directory)
    rewritten_zip(directory / "pytorch_model.bin", with_pickle(BOMBS[bomb]))
    monkeypatch.setattr(torch, "load", None)
    refused(directory, r"refused, .*weights_only=True")
    (directory / "pytorch_model.bin").write_bytes(BOMBS[bomb])
    refused(directory, r"refused, .*weights_only=True")


def test_zips_that_torch_does_not_write_are_refused_before_they_are_unpacked(directory, monkeypatch):
    plain_bin(directory)
    file = directory / "pytorch_model.bin"
    content = file.read_bytes()
    monkeypatch.setattr(torch, "load", None)
    rewritten_zip(file, with_pickle(bytes(10**8)), zipfile.ZIP_DEFLATED)
    assert file.stat().st_size < 10**6
    refused(directory, "its zip entries are compressed")
    file.write_bytes(content)
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "a") as archive:
        archive.writestr("pytorch_model/DATA.PKL", b"\x80\x02}.")
    refused(directory, "its zip entries are not those of one data.pkl")
    file.write_bytes(content * 2)  # readers differ in which of the two they take
    refused(directory, "its zip entries are not those of one data.pkl")


@pytest.mark.parametrize("length", [2**20, 2**40, 2**64 - 1])
def test_a_header_longer_than_the_file_is_refused(length, directory):
    file = directory / "model.safetensors"
    file.write_bytes(length.to_bytes(8, "little") + file.read_bytes()[8:])
    refused(directory, r"truncated or corrupt, or not a safetensors file \(its header has")


def test_a_long_header_is_refused(directory, monkeypatch):
    monkeypatch.setattr(hf_files, "MAX_HEADER_BYTES", 1000)
    refused(directory, r"its header has \d,\d\d\d bytes")


def test_overlapping_tensors_are_refused(directory):
    header = {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in ("a", "b")}
    text = json.dumps(header).encode()
    (directory / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    refused(directory, "truncated or corrupt, or not a safetensors file")


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "../../x", "x" * 10_000])
def test_odd_names_of_tensors_are_one_short_line(name, directory):
    rewrite(directory, lambda tensors: tensors.update({name: torch.ones(2)}))
    with pytest.raises(InputError, match="1 tensor is not part of the gpt2") as caught:
        load_model(directory, device="cpu")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "name", ["x" * 300 + ".safetensors", "../model.safetensors", "/model.safetensors", "a\0.safetensors"]
)
def test_odd_names_of_shards(name, directory):
    (directory / "model.safetensors").unlink()
    index = {"weight_map": {"transformer.wte.weight": name}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(directory, "shards are missing|is not the name of a .safetensors file")


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("_orig_mod.", "_orig_mod."),
        ("module.", "module."),
        ("module._orig_mod.", "module._orig_mod."),
        ("_fsdp_wrapped_module.", "_fsdp_wrapped_module."),
        ("model.", "model."),
    ],
)
@pytest.mark.parametrize("bare", [False, True])
def test_prefixes_of_wrapped_models_are_ignored_and_named(prefix, said, bare, directory, capsys):
    def wrap(tensors):
        for name in list(tensors):
            tensors[prefix + (name.removeprefix("transformer.") if bare else name)] = tensors.pop(name)

    expected = load_model(directory, device="cpu").state_dict()
    rewrite(directory, wrap)
    capsys.readouterr()
    found = load_model(directory, device="cpu").state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert f"{said} is ignored in the names of the tensors" in capsys.readouterr().err


def test_prefixes_of_wrapped_blocks_are_ignored(directory):
    def wrap(tensors):
        for name in list(tensors):
            tensors[name.replace("h.1.", "h.1._orig_mod._checkpoint_wrapped_module.")] = tensors.pop(name)

    rewrite(directory, wrap)
    load_model(directory, device="cpu")


def test_a_tied_copy_with_nan_is_damaged_and_not_different(directory):
    def copy(tensors):
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
        tensors["lm_head.weight"][3, 5] = torch.nan

    rewrite(directory, copy)
    refused(directory, r"its weights are damaged: lm_head\.weight holds a NaN or an infinity")
    rewrite(directory, lambda tensors: tensors.update({"lm_head.weight": torch.ones(50, 16)}))
    refused(directory, r"lm_head\.weight differs from transformer\.wte\.weight")
    rewrite(directory, lambda tensors: tensors.update({"lm_head.weight": torch.ones(50, 16, dtype=torch.int64)}))
    refused(directory, r"the type of lm_head\.weight is not one of float32, bfloat16, float16, float64")


NAMES = {"gpt2": "transformer.h.1.mlp.c_fc.weight", "gpt-neo": "transformer.h.1.attn.attention.k_proj.weight"}


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(family, value, tmp_path):
    name = NAMES[family]
    for place in (name, "transformer.ln_f.bias"):
        save_model(make(family), tmp_path / "model")
        rewrite(tmp_path / "model", lambda tensors, place=place: tensors[place].view(-1).__setitem__(5, value))
        message = rf"its weights are damaged: {re.escape(place)} holds a NaN or an infinity"
        for quantize in ("int8", "int4"):
            with pytest.raises(InputError, match=message):
                load_model(tmp_path / "model", device="cpu", quantize=quantize)
        with pytest.raises(InputError, match=message):
            convert(tmp_path / "model", tmp_path / "copy")
        assert not (tmp_path / "copy").exists()


def test_weights_too_large_for_the_requested_type_are_refused(directory, tmp_path):
    rewrite(directory, lambda tensors: tensors[NAMES["gpt2"]].__setitem__((3, 5), -1e6))
    message = rf"{re.escape(NAMES['gpt2'])} has a weight of -1e\+06, .*: it holds numbers up to "
    with pytest.raises(InputError, match=f"{message}524,032"):
        load_model(directory, device="cpu", quantize="int4")
    with pytest.raises(InputError, match=f"{message}65,504"):
        convert(directory, tmp_path / "copy", "float16")
    model = load_model(directory, device="cpu", quantize="int8")
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_damaged_quantised_files_are_refused(quantize, directory, tmp_path):
    convert(directory, tmp_path / "copy", quantize=quantize)
    name = "blocks.1.mlp.expand"
    good = load_file(tmp_path / "copy" / "model.safetensors")
    for key, tensor, message in (
        ("values", good[f"{name}.values"].float(), "is not one of uint8"),
        ("scales", good[f"{name}.scales"].float(), "is not one of float16"),
        ("scales", good[f"{name}.scales"].view(torch.uint8), "is not one of float16|has the shape"),
        ("scales", good[f"{name}.scales"] * torch.nan, "holds a NaN or an infinity"),
    ):
        save_file(good | {f"{name}.{key}": tensor}, tmp_path / "copy" / "model.safetensors")
        refused(tmp_path / "copy", message)
