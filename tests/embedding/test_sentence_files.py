"""The files of sentence-transformers: what they say, and mistakes in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_encoders import write_encoder, write_json

import neolm
from neolm.core.errors import InputError
from neolm.embedding.embedder import encode_texts, truncate
from neolm.embedding.sentence_files import read_sentence_config


def test_each_file_is_used(tmp_path: Path) -> None:
    directory = write_encoder(tmp_path / "bert")
    plain = neolm.load_embedder(directory, "cpu")
    expected = plain.embed("query: the sea is co")
    write_json(directory / "sentence_bert_config.json", {"max_seq_length": 8, "do_lower_case": True})
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    write_json(directory / "config_sentence_transformers.json", prompts)
    embedder = neolm.load_embedder(directory, "cpu")
    assert embedder.max_length == 8
    short = truncate(encode_texts(plain.tokenizer, plain.config, ["query: THE SEA is co"])[0], 8)
    assert len(short) == 8
    torch.testing.assert_close(embedder.embed("THE SEA is co"), plain.embed_batch([short]))
    write_json(directory / "sentence_bert_config.json", {"max_seq_length": 4096})
    embedder = neolm.load_embedder(directory, "cpu")
    assert embedder.max_length == 40  # the positions of the model
    torch.testing.assert_close(embedder.embed("the sea is co"), expected)


def test_the_length_of_the_tokenizer_counts_without_another(tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer_config.json", {"model_max_length": 128})
    assert read_sentence_config(tmp_path).max_length == 128
    write_json(tmp_path / "tokenizer_config.json", {"model_max_length": int(1e30)})  # transformers' "no limit"
    assert neolm.load_embedder(write_encoder(tmp_path)).max_length == 40


def test_a_pooling_folder_without_modules_counts(tmp_path: Path) -> None:
    write_json(tmp_path / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})
    config = read_sentence_config(tmp_path)
    assert (config.pooling, config.normalize, config.assumed) == ("cls", False, False)
    write_json(tmp_path / "1_Pooling" / "config.json", {"pooling_mode": "max"})
    assert read_sentence_config(tmp_path).pooling == "max"


def steps(*names: str, path: str = "1_Pooling") -> list[dict[str, Any]]:
    return [
        {"type": f"sentence_transformers.models.{name}", "path": path if name == "Pooling" else ""} for name in names
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "modules",
            steps("Transformer", "Pooling", "Dense"),
            "the steps Transformer, Pooling, Dense are not supported",
        ),
        ("modules", {"a": 1}, "the steps none are not supported"),
        ("modules", steps("Transformer", "Pooling", path="../.."), "'../..' is not the name of a folder"),
        (
            "modules",
            [{"type": "x.Transformer", "path": "0_BERT"}, *steps("Pooling")],
            "the model is in the folder 0_BERT",
        ),
        ("1_Pooling/config", {}, "no pooling is not supported"),
        (
            "1_Pooling/config",
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            "pooling_mode_cls_token and pooling_mode_mean_tokens is not supported",
        ),
        ("1_Pooling/config", {"pooling_mode_lasttoken": True}, "pooling_mode_lasttoken is not supported"),
        ("1_Pooling/config", [], "a JSON object is expected"),
        (
            "config_sentence_transformers",
            {"prompts": {}, "default_prompt_name": "query"},
            "default_prompt_name is 'query', which is not one of its prompts",
        ),
    ],
)
def test_what_is_not_supported_is_refused(name: str, content: Any, message: str, tmp_path: Path) -> None:
    directory = write_encoder(tmp_path / "bert")
    write_json(directory / f"{name}.json", content)
    with pytest.raises(InputError, match=message):
        neolm.load_embedder(directory)
