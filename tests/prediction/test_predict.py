"""Masks filled by a masked language model: equal to transformers, whatever the batch; mistakes are one line."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_encoders import tiny_encoder
from tiny_models import tiny_decoder

import neolm
from neolm.core.errors import InputError, NonFiniteError
from neolm.models.encoder import Encoder
from neolm.models.hf import save_model
from neolm.prediction.fill_mask import FillMask
from neolm.prediction.masked_text import MaskedText, masked_text
from neolm.tables.journal import SHOWN
from neolm.tables.table import open_table
from neolm.tokenizer.tokenizer import copy_tokenizer, load_tokenizer

Call = Callable[..., tuple[int, str, str]]
TEXTS = [
    "The river went [MASK] to town.",
    "[MASK] small boat",
    "Old men sat [MASK] of rain and [MASK] stones [MASK]",
    "bread, light, stones: " * 6 + "[MASK].",
]


def test_alternatives_equal_those_of_transformers(masked_model: Path) -> None:
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(masked_model).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(masked_model)
    for text, result in zip(TEXTS, neolm.predict(masked_model, TEXTS, top_k=7), strict=True):
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            logits = theirs(**inputs).logits[0][inputs["input_ids"][0] == tokenizer.mask_token_id]
        best = logits.softmax(dim=-1).topk(7)
        assert [[a["id"] for a in mask] for mask in result["masks"]] == best.indices.tolist()
        found = torch.tensor([[a["probability"] for a in mask] for mask in result["masks"]])
        assert torch.allclose(found, best.values, atol=1e-6)
        assert [[a["token"] for a in mask] for mask in result["masks"]] == [
            tokenizer.convert_ids_to_tokens(row) for row in best.indices.tolist()
        ]


def test_results_do_not_depend_on_the_batch_and_keep_their_order(masked_model: Path) -> None:
    together, alone = (neolm.predict(masked_model, TEXTS, batch_size=size) for size in (32, 1))
    assert [row["text"] for row in together] == TEXTS
    for one, other in zip(together, alone, strict=True):
        assert one["filled"] == other["filled"]
        pairs = zip(one["masks"], other["masks"], strict=True)
        assert [[a["id"] for a in mask] for mask in one["masks"]] == [[a["id"] for a in m] for _, m in pairs]


def test_a_loaded_model_takes_its_tokenizer(masked_model: Path) -> None:
    model, tokenizer = neolm.load_model(masked_model), neolm.load_tokenizer(masked_model)
    assert isinstance(model, Encoder)
    found = neolm.predict(model.train(), TEXTS[0], tokenizer)  # dropout is off, and on again after it
    assert found == neolm.predict(masked_model, TEXTS[0])
    assert model.training
    with pytest.raises(InputError, match="a loaded model needs its tokenizer"):
        neolm.predict(model, TEXTS[0])


@pytest.mark.parametrize(
    ("parts", "token", "filled"),
    [
        (("Paris is the ", " of France."), "capital", "Paris is the capital of France."),
        (("the walk ", " home"), "##ing", "the walking home"),
        (("a ", "."), "##", "a ##."),
        (("Paris is the ", "."), "▁capital", "Paris is the capital."),
        (("Paris is the", "."), "▁capital", "Paris is the capital."),
        (("the walk", " home"), "ing", "the walking home"),
        (("", " home"), "▁going", "going home"),
    ],
)
def test_filled_texts_are_readable(parts: tuple[str, str], token: str, filled: str) -> None:
    assert MaskedText(parts, [], []).filled([token]) == filled


def test_only_the_mask_is_read_as_a_special_token(vocabulary: Path) -> None:
    tokenizer = load_tokenizer(vocabulary)
    row = masked_text(tokenizer, "the [SEP] went [MASK] [MASK]", 64)
    assert list(row.ids).count(tokenizer.require_token("sep")) == 1
    assert [row.ids[place] for place in row.masks] == [tokenizer.mask_token_id] * 2
    assert row.parts == ["the [SEP] went ", " ", ""]


def test_a_unigram_has_no_space_behind_a_mask_where_the_text_has_none(shared_data: Path) -> None:
    tokenizer = load_tokenizer(shared_data / "tok_albert")

    def tokens(text: str) -> list[str]:
        return [tokenizer.id_to_token(number) for number in masked_text(tokenizer, text, 64).ids[1:-1]]

    assert tokens("It is [MASK].") == ["▁it", "▁is", "[MASK]", "."]
    assert tokens("The [MASK] of") == ["▁the", "[MASK]", "▁of"]
    assert tokens("walk[MASK]ing, [MASK]") == ["▁walk", "[MASK]", "ing", ",", "[MASK]"]


def test_the_tokenizer_s_own_spelling_is_a_mask(vocabulary: Path, tmp_path: Path) -> None:
    own = (vocabulary / "vocab.txt").read_text().replace("[MASK]", "<mask>")
    (tmp_path / "vocab.txt").write_text(own)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"mask_token": "<mask>"}))
    tokenizer = load_tokenizer(tmp_path)
    rows = [masked_text(tokenizer, f"the {mask} went", 64).ids for mask in ("<mask>", "[MASK]")]
    assert rows[0] == rows[1]
    assert tokenizer.mask_token_id in rows[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "text: the text is empty"),
        (" \n", "text: the text is empty"),
        ("The river", "text: there is no [MASK] in 'The river'; write it in place of a word"),
        ("[MASK]" + " river" * 100_000, "text: 100,003 tokens are more than the 40 that the model reads"),
    ],
)
def test_a_text_that_cannot_be_used_is_one_line(neolm_: Call, masked_model: Path, text: str, message: str) -> None:
    code, out, err = neolm_("predict", masked_model, text)
    assert (code, out) == (2, "")
    assert err.strip().count("\n") == 0
    assert message in err


def test_a_refused_text_among_several_is_named(masked_model: Path) -> None:
    with pytest.raises(InputError, match="text 2: there is no"):
        neolm.predict(masked_model, [TEXTS[0], "none"])


@pytest.mark.parametrize("head", ["none", "sentence"])
def test_another_head_is_one_line(neolm_: Call, tmp_path: Path, vocabulary: Path, head: str) -> None:
    save_model(tiny_encoder("bert", vocab_size=300, head=head), tmp_path)
    copy_tokenizer(vocabulary, tmp_path)
    code, _, err = neolm_("predict", tmp_path, TEXTS[0])
    assert code == 2
    assert f"the encoder has the head '{head}', which predicts nothing; heads that do are pretraining" in err


def test_a_decoder_is_one_line(neolm_: Call, tmp_path: Path) -> None:
    save_model(tiny_decoder("gpt2", 16, num_heads=2), tmp_path)
    code, _, err = neolm_("predict", tmp_path, TEXTS[0])
    assert code == 2
    assert "gpt2 is a decoder, which continues texts: use neolm generate" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give texts such as"),
        (["a [MASK]", "--input", "in.txt"], "give texts such as"),
        (["a [MASK]", "--output", "out.jsonl"], "--output is for --input"),
        (["--input", "missing.txt"], "missing.txt: there is no such file"),
        (["--input", "in.md"], "in.md: tables are .csv, .tsv, .jsonl, .json, .parquet and .txt files"),
        (["--input", "in.txt", "--output", "in.txt"], "in.txt: tables are written to .csv, .tsv, .jsonl and .parquet"),
        (["--input", "in.csv", "--output", "in.csv"], "in.csv: input and output are the same file"),
        (
            ["--input", "in.txt", "--output", "in.csv"],
            "in.csv: this file has no column 'filled', so it",
        ),
        (["a [MASK]", "--top-k", "0"], "top_k: 0 is not between 1 and the"),
        (["a [MASK]", "--top-k", "1000"], "top_k: 1000 is not between 1 and the"),
    ],
)
def test_wrong_arguments_are_one_line(
    neolm_: Call,
    masked_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in.txt", "in.md", "in.csv"):
        (tmp_path / name).write_text("text\nthe [MASK]\n")
    code, out, err = neolm_("predict", masked_model, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert (tmp_path / "in.csv").read_text() == "text\nthe [MASK]\n"


def test_the_terminal_shows_alternatives_and_json_has_all(neolm_: Call, masked_model: Path) -> None:
    code, out, _ = neolm_("predict", masked_model, *TEXTS[1:3], "--top-k", 2)
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == 6  # two texts, and a line for each of their four masks
    assert lines[1].startswith("  [MASK]  ")
    assert lines[4].startswith("  [MASK] 2  ")
    code, out, _ = neolm_("predict", masked_model, *TEXTS, "--top-k", 2, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert rows == neolm.predict(masked_model, TEXTS, top_k=2)


def test_a_table_keeps_its_rows_and_names_the_bad_ones(neolm_: Call, masked_model: Path, tmp_path: Path) -> None:
    given = [json.dumps({"content": text, "n": 1}).encode() for text in TEXTS]
    given[1:1] = [b'{"content": "none"}', b"{", b'"text"', b'{"content": 1}', b"\xff", b"", b'{"content": ""}']
    (tmp_path / "in.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join(given))  # with a byte order mark
    arguments = ["--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl", "--text-column", "content"]
    code, out, err = neolm_("predict", masked_model, *arguments, "--batch-size", 3)
    assert (code, out) == (2, "")  # the bad rows
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    good = [row for row in rows if "error" not in row]
    assert [(row["content"], row["n"], row["filled"]) for row in good] == [
        (row["text"], 1, row["filled"]) for row in neolm.predict(masked_model, TEXTS)
    ]
    assert [list(row) for row in good] == [["content", "n", "filled", "masks"]] * 4
    assert [row for row in rows if "error" in row] == [
        {"content": "none", "error": "there is no [MASK] in 'none'; write it in place of a word"},
        {"error": "not a JSON object"},
        {"error": "not a JSON object"},
        {"content": 1, "error": "the value under 'content' is not text (int)"},
        {"error": "not UTF-8"},
        {"content": "", "error": "the text is empty"},
    ]
    assert "4 of 10 rows done; line 2: there is no [MASK]" in err
    assert f"and {6 - SHOWN} more" in err
    (tmp_path / "in.txt").write_text(TEXTS[0] + "\n")
    code, out, _ = neolm_("predict", masked_model, "--input", tmp_path / "in.txt")
    assert code == 0
    assert json.loads(out) == neolm.predict(masked_model, TEXTS[0])[0]


def test_a_csv_becomes_a_csv_and_a_parquet_file(neolm_: Call, masked_model: Path, tmp_path: Path) -> None:
    with (tmp_path / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([(text, number) for number, text in enumerate(TEXTS)])
    for suffix in ("csv", "parquet"):
        arguments = ["--input", tmp_path / "in.csv", "--output", tmp_path / f"out.{suffix}", "--text-column", 1]
        code, _, err = neolm_("predict", masked_model, *arguments)
        assert code == 0
        assert "in.csv: 2 columns, comma-separated, no header: column 1, 2" in err
        rows = [row.values for row in open_table(tmp_path / f"out.{suffix}").rows()]
        for number, (row, expected) in enumerate(zip(rows, neolm.predict(masked_model, TEXTS), strict=True)):
            assert (row["column_1"], row["column_2"]) == (TEXTS[number], str(number))
            assert row["filled"] == expected["filled"]
            assert json.loads(row["masks"]) == expected["masks"]
            assert not row["error"]
    code, _, err = neolm_("predict", masked_model, *arguments[:-1], "text")
    assert code == 2
    assert "there is no column 'text'; the file has no header, and its columns are numbered 1 to 2" in err


def test_other_weights_start_a_killed_prediction_anew(
    neolm_: Call, masked_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    shutil.copytree(masked_model, model)
    (tmp_path / "in.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    arguments = ["--input", tmp_path / "in.txt", "--output", tmp_path / "out.jsonl", "--batch-size", 1]

    def interrupted() -> None:
        predict, calls = FillMask.predict, []

        def stopping(self: FillMask, rows: Any) -> Any:
            calls.append(rows)
            if len(calls) == 3:
                raise RuntimeError("stopped")
            return predict(self, rows)

        with monkeypatch.context() as patch:
            patch.setattr(FillMask, "predict", stopping)
            with pytest.raises(RuntimeError, match="stopped"):
                neolm_("predict", model, *arguments)

    interrupted()
    assert "2 rows were done before; resuming at row 3" in neolm_("predict", model, *arguments)[2]
    interrupted()
    (model / "model.safetensors").touch()
    assert "a setting has changed since it was begun; starting anew" in neolm_("predict", model, *arguments)[2]


def test_damaged_weights_are_named(masked_model: Path) -> None:
    model, tokenizer = neolm.load_model(masked_model), neolm.load_tokenizer(masked_model)
    assert isinstance(model, Encoder)
    with torch.no_grad():
        model.blocks[0].mlp_norm.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="the weights are damaged"):
        neolm.predict(model, TEXTS[0], tokenizer)


def test_the_tokenizer_of_another_model_is_refused(masked_model: Path, vocabulary: Path) -> None:
    small = tiny_encoder("bert", vocab_size=20, head="masked", pooler=False)
    with pytest.raises(InputError, match="they do not belong together"):
        neolm.predict(small, TEXTS[0], load_tokenizer(vocabulary))
