"""Model directories: errors of one line, and failed saves leave the old model."""

from __future__ import annotations

import fnmatch
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

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
    assert convert(str(tmp_path / "a"), tmp_path / "b") == model.config
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
