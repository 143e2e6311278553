"""The files of a tokenizer directory: what is refused, what is said, and hostile content."""

from __future__ import annotations

import copy
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from neolm.core.errors import InputError
from neolm.tokenizer import directory as directory_module
from neolm.tokenizer.chat_files import load_chat_template
from neolm.tokenizer.directory import NoTokenizerError
from neolm.tokenizer.encoder_pipeline import bert_normalizer
from neolm.tokenizer.tokenizer import Tokenizer, copy_tokenizer, load_tokenizer, train_tokenizer

TEXT = "The sea, the day and the water of April; be brief and say what it is, 12345 times over. "
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    """The content of a tokenizer.json."""
    trained = train_tokenizer(iter([TEXT * 3]), 300)
    trained.backend.add_special_tokens([AddedToken("<|user|>", special=True)])
    return json.loads(trained.backend.to_str())  # type: ignore[no-any-return]


def write(directory: Path, **files: Any) -> Path:
    directory.mkdir(exist_ok=True)
    for name, value in files.items():
        (directory / f"{name}.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return directory


def sequence(key: str, *steps: Any) -> dict[str, Any]:
    return {"type": "Sequence", key: list(steps)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}, "Unigram with pre_tokenizer ByteLevel"),
        ({"model": {"type": "WordPiece", "vocab": {"a": 0}}}, "WordPiece with pre_tokenizer ByteLevel"),
        ({"model": {"type": "WordLevel", "vocab": {"a": 0}}}, "model WordLevel"),
        ({"model+": {"byte_fallback": True}}, "model with byte_fallback"),
        ({"model+": {"end_of_word_suffix": "</w>"}}, "model with end_of_word_suffix"),
        ({"model+": {"continuing_subword_prefix": "##"}}, "model with continuing_subword_prefix"),
        ({"model+": {"unk_token": "<unk>"}}, "unk_token that is not in its vocabulary"),
        ({"pre_tokenizer": None}, "no pre_tokenizer ByteLevel"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "pre_tokenizer Metaspace"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer Whitespace"),
        ({"pre_tokenizer": {"type": "BertPreTokenizer"}}, "pre_tokenizer BertPreTokenizer"),
        ({"pre_tokenizer": {**BYTE_LEVEL, "add_prefix_space": True}}, "pre_tokenizer with add_prefix_space"),
        ({"pre_tokenizer": sequence("pretokenizers", {"type": "Whitespace"}, BYTE_LEVEL)}, "pre_tokenizer Whitespace"),
        (
            {
                "pre_tokenizer": sequence(
                    "pretokenizers",
                    {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False},
                    BYTE_LEVEL,
                )
            },
            "pre_tokenizer Split that removes text",
        ),
        (
            {
                "pre_tokenizer": sequence(
                    "pretokenizers",
                    {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
                    BYTE_LEVEL,
                )
            },
            "pre_tokenizer Split by .*",
        ),
        ({"normalizer": {"type": "Lowercase"}}, "normalizer Lowercase"),
        ({"normalizer": {"type": "NFKC"}}, "normalizer NFKC"),
        ({"normalizer": sequence("normalizers", {"type": "NFC"}, {"type": "StripAccents"})}, "normalizer StripAccents"),
        ({"normalizer": {"type": "Prepend", "prepend": "_"}}, "normalizer Prepend"),
        ({"decoder": {"type": "Metaspace"}}, "decoder Metaspace"),
    ],
)
def test_other_kinds_of_tokenizers_are_refused_by_name(
    content: dict[str, Any], tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    changed = copy.deepcopy(content)
    changed["model"] |= change.pop("model+", {})
    write(tmp_path, tokenizer={**changed, **change})
    with pytest.raises(InputError, match=rf"tokenizer\.json: .*{reason}: only a byte-level BPE") as error:
        load_tokenizer(tmp_path)
    assert not isinstance(error.value, NoTokenizerError)


@pytest.mark.parametrize("name", ["tokenizer.model", "sentencepiece.bpe.model"])
def test_files_of_other_tokenizers_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x0a")
    with pytest.raises(InputError, match=f"{name}: a .*: only a byte-level BPE") as error:
        load_tokenizer(tmp_path)
    assert not isinstance(error.value, NoTokenizerError)


def test_splits_that_keep_all_text_are_taken(content: dict[str, Any], tmp_path: Path) -> None:
    digits = {"type": "Split", "pattern": {"Regex": r"\d"}, "behavior": "Isolated", "invert": False}
    splits = sequence("pretokenizers", digits, {"type": "Digits", "individual_digits": True}, BYTE_LEVEL)
    write(tmp_path, tokenizer={**content, "pre_tokenizer": splits})
    loaded = load_tokenizer(tmp_path)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "say 12345 times\u00e9 "
    assert loaded.encode(text) == library.encode(text, add_special_tokens=False).ids
    assert loaded.decode(loaded.encode(text)) == text


def test_dropout_is_turned_off(content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, tokenizer={**content, "model": {**content["model"], "dropout": 0.5}})
    loaded = load_tokenizer(tmp_path)
    assert len({tuple(loaded.encode(TEXT)) for _ in range(20)}) == 1
    assert "BPE dropout of 0.5 is turned off" in capsys.readouterr().err
    copy_tokenizer(tmp_path, tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "tokenizer.json").read_text())["model"]["dropout"] is None


def test_truncation_and_padding_are_ignored(content: dict[str, Any], tmp_path: Path) -> None:
    limit = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    write(tmp_path, tokenizer={**content, "truncation": limit})
    assert len(load_tokenizer(tmp_path).encode(TEXT)) > 2


def test_what_changes_a_text_is_said(
    content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = copy.deepcopy(content)
    del small["model"]["vocab"]["\u0100"]  # the character of the byte 0x00
    write(
        tmp_path,
        tokenizer={**small, "normalizer": {"type": "NFC"}},
        tokenizer_config={"tokenizer_class": "GPT2Tokenizer"},
    )
    load_tokenizer(tmp_path)
    write(tmp_path, tokenizer_config={"tokenizer_class": "Qwen2Tokenizer"})
    load_tokenizer(tmp_path)
    said = capsys.readouterr().err
    assert "the tokenizer class Qwen2Tokenizer is not known; tokenizer.json is used as it is" in said
    assert "bytes of UTF-8 without a token: 1;" in said
    assert "normalizer NFC is ignored, because the class GPT2Tokenizer has none" in said


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"tokenizer_config": "["}, "tokenizer_config.json: not valid JSON"),
        ({"tokenizer_config": "[]"}, "tokenizer_config.json: a JSON object is expected"),
        ({"tokenizer_config": "[" * 100_000}, "tokenizer_config.json: not valid JSON"),
        ({"tokenizer": '{"model":' * 100_000}, "tokenizer.json: not valid JSON"),
        ({"tokenizer_config": {"eos_token": 3}}, "eos_token: a token is a text"),
        ({"tokenizer_config": {"added_tokens_decoder": []}}, "added_tokens_decoder must be an object"),
        ({"tokenizer_config": {"added_tokens_decoder": {"9999999999": "a"}}}, "the token id 9999999999 is not"),
        ({"tokenizer_config": {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}}, "add_prefix_space"),
        ({"added_tokens": {"a": "b"}}, "added_tokens.json: the token id b is not one of"),
        ({"special_tokens_map": "{}}"}, "special_tokens_map.json: not valid JSON"),
        ({"config": '{"model_type": '}, "config.json: not valid JSON"),
    ],
)
def test_broken_files_are_one_error(
    content: dict[str, Any], tmp_path: Path, files: dict[str, Any], problem: str
) -> None:
    write(tmp_path, **{"tokenizer": content, **files})
    with pytest.raises(InputError, match=problem) as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"vocab": {"a": -1}}, "the id of 'a' is -1"),
        ({"vocab": {"a": 4_000_000_000}}, "the id of 'a' is 4000000000"),
        ({"vocab": {"a": 0, "b": 0}}, "'a' and 'b' have the same id 0"),
        ({"vocab": {"a": "0"}}, "the id of 'a' is 0, not one"),
        ({"merges": [["a", "b"]] * 2}, "is not of two tokens, or out of vocabulary"),
        ({"merges": ["a"]}, "is not of two tokens"),
        ({"merges": [["a"] * 3]}, "is not of two tokens"),
    ],
)
def test_broken_vocabularies_are_refused(
    content: dict[str, Any], tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    model = {**content["model"], "merges": [], "vocab": {"a": 0, "b": 1}, **change}
    write(tmp_path, tokenizer={**content, "model": model})
    with pytest.raises(InputError, match=rf"tokenizer\.json: .*{problem}"):
        load_tokenizer(tmp_path)


def test_large_files_are_refused(content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "MAX_TOKENIZER_BYTES", 1000)
    write(tmp_path, tokenizer=content)
    with pytest.raises(InputError, match="more than 1,000 bytes"):
        load_tokenizer(tmp_path)
    model = tokenizers.Tokenizer.from_str(json.dumps(content)).model
    model.save(str(tmp_path))
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"vocab\.json: more than 1,000 bytes"):
        load_tokenizer(tmp_path)


def test_a_pipe_in_place_of_a_template_is_not_opened(content: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, tokenizer=content)
    os.mkfifo(tmp_path / "chat_template.jinja")
    with pytest.raises(InputError, match=r"chat_template\.jinja: not a file"):
        load_chat_template(tmp_path, load_tokenizer(tmp_path))


def test_tokens_around_a_text_are_kept_in_a_copy_and_said(
    content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizers.Tokenizer.from_str(json.dumps(content)).model.save(str(tmp_path))
    write(tmp_path, tokenizer_config={"add_bos_token": True})
    assert load_tokenizer(tmp_path).encode("it", special=True)[0] != 0
    assert "its post_processor puts special tokens around a text, which is not done here" in capsys.readouterr().err
    copy_tokenizer(tmp_path, tmp_path / "copy")
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "copy" / "tokenizer.json")).encode("it").ids[0] == 0


def test_the_end_token_of_the_model_is_that_of_a_tokenizer_without_one(content: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, tokenizer=content, generation_config={"eos_token_id": [300, 4]})
    assert load_tokenizer(tmp_path).eos_token == "<|user|>"
    write(tmp_path, generation_config={"eos_token_id": 12345})
    assert load_tokenizer(tmp_path).eos_token == "<|endoftext|>"
    write(tmp_path, generation_config={"eos_token_id": ["a"]})
    with pytest.raises(InputError, match=r"generation_config\.json: eos_token_id: 'a' is not the id of a token"):
        load_tokenizer(tmp_path)


def test_a_vocabulary_with_another_end_of_text(content: dict[str, Any], tmp_path: Path) -> None:
    """`vocab.json` without `<|endoftext|>`: the end of text is the named token, or the one that the model lists."""
    tokenizers.Tokenizer.from_str(json.dumps(content)).model.save(str(tmp_path))
    vocab = json.loads((tmp_path / "vocab.json").read_text())
    vocab = {"</s>" if token == "<|endoftext|>" else token: number for token, number in vocab.items()}
    write(tmp_path, vocab=vocab, config={"model_type": "gpt2", "eos_token_id": 0})
    loaded = load_tokenizer(tmp_path)
    assert (loaded.eos_token, loaded.eos_token_id, loaded.text_size) == ("</s>", 0, 300)
    assert loaded.encode("it</s>", special=True)[-1] == 0
    assert 0 not in loaded.encode("it</s>")
    copy_tokenizer(tmp_path, tmp_path / "copy")
    copied = load_tokenizer(tmp_path / "copy")
    assert (copied.eos_token, copied.size) == ("</s>", loaded.size)
    write(tmp_path, special_tokens_map={"eos_token": "</s>"}, config={"model_type": "gpt2"})
    assert load_tokenizer(tmp_path).eos_token_id == 0
    write(tmp_path, special_tokens_map={})
    assert load_tokenizer(tmp_path).eos_token_id == 300  # added, as transformers does


@pytest.mark.parametrize(
    ("template", "problem"),
    [(3, "chat_template must be"), ([1], "must be"), ([{"name": "default"}], "must be"), ({"default": 1}, "must be")],
)
def test_templates_of_another_type_are_refused(
    content: dict[str, Any], tmp_path: Path, template: Any, problem: str
) -> None:
    write(tmp_path, tokenizer=content, tokenizer_config={"chat_template": template})
    with pytest.raises(InputError, match=problem):
        load_chat_template(tmp_path, load_tokenizer(tmp_path))


def test_the_places_of_a_template(content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rendered() -> str:
        template = load_chat_template(tmp_path, load_tokenizer(tmp_path))
        return "".join(text for text, _ in template.render([])) if template.kind == "own" else "plain"

    write(tmp_path, tokenizer=content)
    assert rendered() == "plain"
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("rag")
    assert rendered() == "plain"
    assert "it has the chat templates rag, but none named default" in capsys.readouterr().err
    write(tmp_path, chat_template={"chat_template": "legacy"})
    assert rendered() == "legacy"
    write(tmp_path, tokenizer_config={"chat_template": [{"name": "default", "template": "listed"}]})
    assert rendered() == "listed"
    (tmp_path / "chat_template.jinja").write_text("file")
    assert rendered() == "file"
    copy_tokenizer(tmp_path, tmp_path / "copy")
    names = {
        path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*") if path.is_file()
    }
    assert names == {
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "chat_template.json",
        "additional_chat_templates/rag.jinja",
    }


ODD = [
    *(None, True, 0, -1, 2**31, 2**32, 10**30, 1.5, float("nan"), "", "\x00", "\ud800", "a" * 5000, "é🙂"),
    *([], {}, [[]], [None], ["a", "b"], {"type": "NFC"}, {"type": "Sequence"}, {"content": "z"}, {"content": ""}),
    *("ByteLevel", "GPT2Tokenizer", "GPTNeoXTokenizer", "(?:a+)+$", "(", "<|endoftext|>"),
]
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
ENCODERS: list[dict[str, Any]] = [
    {
        "added_tokens": [{"id": 2, "content": "[MASK]", "special": True}],
        "normalizer": bert_normalizer(),
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "[SEP]": 1, "[MASK]": 2, "the": 3, "sea": 4, "##a": 5}},
    },
    {
        "added_tokens": [{"id": 2, "content": "[MASK]", "special": True}],
        "normalizer": sequence("normalizers", {"type": "NFKD"}, {"type": "Lowercase"}),
        "pre_tokenizer": sequence("pretokenizers", {"type": "WhitespaceSplit"}, METASPACE),
        "decoder": METASPACE,
        "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["[SEP]", 0], ["[MASK]", 0], ["▁the", -2]]},
    },
]
OTHERS: dict[str, Any] = {
    "tokenizer_config": {
        "tokenizer_class": "X",
        "eos_token": "<|endoftext|>",
        "added_tokens_decoder": {"0": {"content": "<|endoftext|>", "special": True}},
        "extra_special_tokens": ["<|user|>"],
        "pad_token": {"__type": "AddedToken", "content": "<|user|>"},
        "add_prefix_space": False,
    },
    "special_tokens_map": {"eos_token": {"content": "<|endoftext|>"}, "additional_special_tokens": ["<|user|>"]},
    "added_tokens": {"<|tool|>": 301},
    "config": {"model_type": "gpt2", "eos_token_id": [1, 2]},
    "generation_config": {"eos_token_id": 3},
}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), file=st.sampled_from(["tokenizer", "tokenizer", "tokenizer", *OTHERS]))
def test_odd_values_anywhere_are_one_error(content: dict[str, Any], tmp_path: Path, seed: int, file: str) -> None:
    _load_mutated(content, tmp_path, seed, file)


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), file=st.sampled_from(["tokenizer", "tokenizer", "tokenizer", *OTHERS]))
def test_many_odd_values_anywhere_are_one_error(content: dict[str, Any], tmp_path: Path, seed: int, file: str) -> None:
    _load_mutated(content, tmp_path, seed, file)


def _load_mutated(content: dict[str, Any], directory: Path, seed: int, file: str) -> None:
    """Replace one to three values of a file, and load; any error is an `InputError` of one line."""
    chosen = random.Random(seed)
    content = chosen.choice([content, *ENCODERS])
    files = {"tokenizer": content, **{name: value for name, value in OTHERS.items() if chosen.random() < 0.6}}
    files = copy.deepcopy(files | {file: content if file == "tokenizer" else OTHERS[file]})
    for _ in range(chosen.choice([1, 1, 1, 3])):
        _mutate(files[file], chosen)
    for path in directory.glob("*.json"):
        path.unlink()
    write(directory, **files)
    try:
        loaded = load_tokenizer(directory)
        loaded.decode(loaded.encode("The sea 12 é\u0301🙂 <|user|> " + "a" * 30 + "b", special=chosen.random() < 0.5))
        copy_tokenizer(directory, directory / "copy")
        assert isinstance(load_tokenizer(directory / "copy"), Tokenizer)
    except InputError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 600


def _mutate(value: Any, chosen: random.Random) -> None:
    """Replace, remove or add one value somewhere in `value`."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = chosen.choice(keys)
        if isinstance(value[key], dict | list) and value[key] and chosen.random() < 0.7:
            value = value[key]
            continue
        if chosen.random() < 0.2:
            del value[key]
        elif isinstance(value, dict) and chosen.random() < 0.2:
            value[chosen.choice(["type", "id", "content", "x"])] = copy.deepcopy(chosen.choice(ODD))
        else:
            value[key] = copy.deepcopy(chosen.choice(ODD))
        return
