"""Tokenizers of encoders: ids equal to those of `transformers` and of SentencePiece, special tokens, odd files."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from neolm.core.errors import InputError
from neolm.tokenizer.encoder_pipeline import albert_normalizer, bert_normalizer
from neolm.tokenizer.tokenizer import Tokenizer, copy_tokenizer, load_tokenizer, train_tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "sea", "##s", "day", "un", "##known", "caf", "##e", "##é", "A", "海", ",", ".", "[", "]", "mask", "1"]
PIECES = ["▁", "▁the", "s", "e", "a", "▁sea", "d", "y", "k", "n", "u", "m", "<", ">", ",", "(", "▁1,", "1", "t", "h"]
TEXTS = (
    "",
    " ",
    "The sea, the unknown day.",
    "Café CAFE\u0301 ﬁne Ǆ ß İ I",
    "海 the海day 한국 ｱ",
    "\x00\x01a\x1bb\x7f\u200b\ufeff c\td\r\n\u00a0e\u2028f",
    "🙂 👩\u200d👩\u200d👧 ❤\ufe0f",
    "a" * 100 + " " + "a" * 101 + " the",
    "x" * 200 + " the " + "y" * 201,
    "[MASK] [mask] <pad> <UNK> ＜unk＞ [CLS]",
    "``quoted'' 1,000, 2,",
    "(a) - .. £ €",
    "##s ▁the",
)
ANY_TEXT = st.text(max_size=60) | st.lists(st.sampled_from([*TEXTS, *WORDS, *PIECES, " "]), max_size=8).map("".join)


def unpack(path: Path, target: Path) -> None:
    target.write_bytes(zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes()))


def write(directory: Path, vocab: list[str] | None = None, **files: Any) -> Path:
    directory.mkdir(exist_ok=True)
    if vocab is not None:
        (directory / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    for name, value in files.items():
        (directory / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return directory


def unigram(**model: Any) -> dict[str, Any]:
    """The content of a tokenizer.json as ALBERT has it, without a map of characters."""
    vocab = [[text, 0.0] for text in ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]]
    vocab += [[text, -3.0 - number / 7] for number, text in enumerate(PIECES)]
    flags = {"special": True, **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return {
        "version": "1.0",
        "added_tokens": [{**flags, "id": n, "content": text} for n, (text, _) in enumerate(vocab[:5])],
        "normalizer": albert_normalizer(),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 1, "vocab": vocab, "byte_fallback": False, **model},
    }


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published vocabularies: bert (vocab.txt), bert-json, cased (tokenizer.json) and albert (spiece.model)."""
    root = tmp_path_factory.mktemp("real")
    for name in ("bert", "bert-json", "cased", "albert"):
        (root / name).mkdir()
    bert = shared_data / "tok_bert"
    unpack(bert / "vocab.txt.zst", root / "bert" / "vocab.txt")
    unpack(bert / "tokenizer.json.zst", root / "bert-json" / "tokenizer.json")
    for name in ("bert", "bert-json"):
        config = (bert / "tokenizer_config.json").read_text()
        (root / name / "tokenizer_config.json").write_text(config)
    unpack(shared_data / "tok_bert_cased" / "tokenizer.json.zst", root / "cased" / "tokenizer.json")
    (root / "albert" / "spiece.model").write_bytes((shared_data / "tok_albert" / "spiece.model").read_bytes())
    return root


@pytest.fixture(scope="module")
def loaded(real: Path) -> dict[str, Tokenizer]:
    return {path.name: load_tokenizer(path) for path in real.iterdir()}


def oracle(directory: Path) -> Callable[[str], list[int]]:
    """Ids by `transformers`, which reads special tokens in a text as plain text too."""
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    theirs.model_max_length = 10**9
    return lambda text: list(theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


@pytest.fixture(scope="module")
def oracles(real: Path, loaded: dict[str, Tokenizer]) -> dict[str, Callable[[str], list[int]]]:
    found = {name: oracle(real / name) for name in ("bert", "bert-json", "cased")}
    copy_tokenizer(real / "albert", real / "albert-copy")
    return found | {"albert": oracle(real / "albert-copy")}


@pytest.mark.parametrize("name", ["bert", "bert-json", "cased", "albert"])
def test_ids_of_published_vocabularies_equal_those_of_transformers(
    name: str, loaded: dict[str, Tokenizer], oracles: dict[str, Callable[[str], list[int]]]
) -> None:
    odd = [f"a{chr(c)}b {chr(c)}" for c in [*range(0x3100), *range(0xFE00, 0xFFFF, 3), *range(0x1F300, 0x1FAFF, 7)]]
    for text in (*TEXTS, *odd, "word " * 100_000):
        if name == "albert" and any(mark in text.lower() for mark in ("<pad>", "unk>", "unk＞")):
            continue  # transformers finds special tokens among the pieces; tested below
        assert loaded[name].encode(text) == oracles[name](text), text[:40]


@pytest.mark.parametrize("name", ["bert", "cased", "albert"])
@given(text=ANY_TEXT.filter(lambda text: not ("unk" in text.lower() or "pad" in text)))
def test_ids_of_any_text_equal_those_of_transformers(
    name: str, loaded: dict[str, Tokenizer], oracles: dict[str, Callable[[str], list[int]]], text: str
) -> None:
    assert loaded[name].encode(text) == oracles[name](text)


def test_published_vocabularies_have_the_published_special_ids(loaded: dict[str, Tokenizer]) -> None:
    def ids(name: str) -> list[int | None]:
        one = loaded[name]
        return [one.pad_token_id, one.unk_token_id, one.cls_token_id, one.sep_token_id, one.mask_token_id]

    assert ids("bert") == ids("bert-json") == ids("cased") == [0, 100, 101, 102, 103]
    assert ids("albert") == [0, 1, 2, 3, 4]
    assert {name: one.size for name, one in loaded.items()} == {
        "bert": 30522,
        "bert-json": 30522,
        "cased": 28996,
        "albert": 30000,
    }
    assert [loaded[name].kind for name in ("bert", "cased", "albert")] == ["wordpiece", "wordpiece", "unigram"]
    assert all(one.eos_token_id == one.sep_token_id for one in loaded.values())
    assert loaded["bert"].encode("hello world") == [7592, 2088]
    assert loaded["bert"].encode_batch(TEXTS) == loaded["bert-json"].encode_batch(TEXTS)


def google_ids(processor: Any, text: str) -> list[int]:
    """ALBERT's code: clean text, SentencePiece, and pieces with a digit and a comma at the end split once more."""
    text = " ".join(text.split()).replace("``", '"').replace("''", '"')
    plain = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    ids: list[int] = []
    for piece in processor.encode("".join(plain).lower(), out_type=str):
        if len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit():
            parts = processor.encode(piece[:-1].replace("▁", ""), out_type=str)
            if piece[0] != "▁":
                parts[0] = parts[0].removeprefix("▁")
            ids += [processor.piece_to_id(part) for part in (*parts, ",") if part]
        else:
            ids.append(processor.piece_to_id(piece))
    return ids


def test_albert_ids_equal_those_of_sentencepiece(
    real: Path, loaded: dict[str, Tokenizer], shared_data: Path, tmp_path: Path
) -> None:
    sentencepiece = pytest.importorskip("sentencepiece", reason="the library of Google is the oracle")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(real / "albert" / "spiece.model"))
    unpack(shared_data / "tinyshakespeare" / "input.txt.zst", tmp_path / "text")
    lines = (tmp_path / "text").read_text(encoding="utf-8").split("\n\n")[:2000]
    numbers = ["In 1999, 2,000, and 3,14 of 10,000,000 (see 5,)", "“Quoted” — £5 – €6: a-b.c", "naïve ﬁne №"]
    marks = ["[MASK] <PAD> ＜unk＞ <unk>", "x" * 200, "\x00a\x7f", "海の水 한국어 🙂🙂"]
    for text in (*lines, *numbers, *marks):
        assert loaded["albert"].encode(text) == google_ids(processor, text), text


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """Small vocabularies of both kinds, lowercased and not."""
    root = tmp_path_factory.mktemp("small")
    vocab = [*SPECIAL, *WORDS]
    keeps = {"do_lower_case": False}
    return {
        "bert": load_tokenizer(write(root / "bert", vocab, tokenizer_config={"do_lower_case": True})),
        "bert cased": load_tokenizer(write(root / "cased", vocab, tokenizer_config=keeps)),
        "albert": load_tokenizer(write(root / "albert", tokenizer=unigram())),
        "albert cased": load_tokenizer(write(root / "albert-cased", tokenizer=unigram(), tokenizer_config=keeps)),
    }


SPELLED = [*SPECIAL, "<pad>", "<unk>", "<UNK>", "＜unk＞", " ", "the", "海"]


@given(text=st.lists(st.sampled_from(SPELLED), max_size=8).map("".join))
def test_text_that_spells_a_special_token_is_plain_text(small: dict[str, Tokenizer], text: str) -> None:
    for tokenizer in small.values():
        assert not set(tokenizer.encode(text)) & (set(tokenizer.special_ids.tolist()) - {tokenizer.unk_token_id})
    for name in ("bert", "bert cased"):  # brackets and the word are in this vocabulary
        assert small[name].encode("[mask]") == [small[name].token_to_id(token) for token in ("[", "mask", "]")]
    known = [small["albert"].token_to_id(token) for token in ("▁", "<", "u", "n", "k", ">")]
    assert small["albert"].encode("<UNK>") == known


def test_special_tokens_in_a_text_are_read_if_asked(small: dict[str, Tokenizer]) -> None:
    for tokenizer in small.values():
        the = tokenizer.encode("the")
        assert tokenizer.encode("the [MASK][SEP]", special=True) == [
            *the,
            tokenizer.mask_token_id,
            tokenizer.sep_token_id,
        ]
        assert tokenizer.mask_token_id not in tokenizer.encode("the [MASK][SEP]")


def test_threads_encode_with_and_without_special_tokens_at_the_same_time(small: dict[str, Tokenizer]) -> None:
    for tokenizer in small.values():
        text = "the sea [MASK] <unk>"
        expected = {special: tokenizer.encode(text, special) for special in (False, True)}
        assert expected[False] != expected[True]
        with ThreadPoolExecutor(4) as pool:
            encoded = list(pool.map(tokenizer.encode, [text] * 100, [False, True] * 50))
        assert encoded == [expected[False], expected[True]] * 50


def test_one_text_or_two_between_special_tokens(real: Path, loaded: dict[str, Tokenizer]) -> None:
    for name in ("bert", "albert"):
        tokenizer = loaded[name]
        source = real / "bert-json" if name == "bert" else real / "albert"
        copy_tokenizer(source, real.parent / f"{name}-pairs")
        theirs = transformers.AutoTokenizer.from_pretrained(real.parent / f"{name}-pairs")
        a, b = "Paris is", "the capital of France."
        for second in (None, b):
            expected = theirs(a, second, truncation=False, padding=False, return_token_type_ids=True)
            ids = tokenizer.with_special(*tokenizer.encode_batch([a] if second is None else [a, second]))
            assert ids == (expected["input_ids"], expected["token_type_ids"])
        assert tokenizer.with_special([], []) == (
            [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.sep_token_id],
            [0, 0, 1],
        )


@pytest.mark.parametrize("name", ["bert-json", "albert"])
def test_decoded_text_is_that_of_transformers(name: str, real: Path, loaded: dict[str, Tokenizer]) -> None:
    copy_tokenizer(real / name, real.parent / f"{name}-decoded")
    theirs = transformers.AutoTokenizer.from_pretrained(real.parent / f"{name}-decoded")
    tokenizer = loaded[name]
    for text in ("Hello, the unbelievable world's day!", "(a) 海 1,000", ""):
        ids = tokenizer.with_special(tokenizer.encode(text))[0]
        assert tokenizer.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False)
    assert tokenizer.decode([*tokenizer.encode("unbelievable"), tokenizer.size + 5]) == "unbelievable"
    with pytest.raises(InputError, match=r"token id -1 is not in the vocabulary"):
        tokenizer.decode([-1])


def test_tokens_that_begin_a_word(small: dict[str, Tokenizer], loaded: dict[str, Tokenizer]) -> None:
    def continuations(tokenizer: Tokenizer) -> set[str]:
        assert tokenizer.word_starts.shape == (tokenizer.size,)
        assert tokenizer.word_starts[tokenizer.special_ids].all()
        return {tokenizer.id_to_token(int(number)) for number in np.flatnonzero(~tokenizer.word_starts)}

    assert continuations(small["bert"]) == {word for word in WORDS if word.startswith("##")}
    # ALBERT's code: marks, digits and other scripts begin a word; letters without a space continue one.
    assert continuations(small["albert"]) == set("seadyknumth")
    albert = loaded["albert"]
    known = {token: bool(albert.word_starts[albert.token_to_id(token)]) for token in ("▁the", "ing", ",", "s", "(")}
    assert known == {"▁the": True, "ing": False, ",": True, "s": False, "(": True}
    bpe = train_tokenizer(iter(["the sea\n the sea"]), 262)
    starts = {bpe.id_to_token(int(number)) for number in np.flatnonzero(bpe.word_starts)}
    assert {"Ġ", "Ċ", "Ġsea", "<|endoftext|>"} <= starts
    assert not {"sea", "a", "e"} & starts


def test_a_vocabulary_without_mask_says_who_needs_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without = [token for token in (*SPECIAL, *WORDS) if token != "[MASK]"]
    tokenizer = load_tokenizer(write(tmp_path, without, tokenizer_config={"mask_token": "[MASK]"}))
    assert "the vocabulary has no mask_token [MASK]; it is not added" in capsys.readouterr().err
    assert (tokenizer.size, tokenizer.mask_token_id) == (len(without), None)
    assert tokenizer.require_token("sep") == tokenizer.sep_token_id == 3
    with pytest.raises(InputError, match=r"the vocabulary has no \[MASK\], which masked language modelling needs"):
        tokenizer.require_token("mask")
    write(tmp_path, [token for token in without if token != "[SEP]"])
    with pytest.raises(InputError, match=r"the vocabulary has no \[SEP\], which the input of an encoder needs"):
        load_tokenizer(tmp_path)
    write(tmp_path, [token for token in without if token != "[UNK]"])
    with pytest.raises(InputError, match=r"the vocabulary has no \[UNK\], which WordPiece needs"):
        load_tokenizer(tmp_path)


def test_a_byte_level_tokenizer_has_no_tokens_of_an_encoder() -> None:
    tokenizer = train_tokenizer(iter(["the sea, the sea"]), 258)
    assert (tokenizer.kind, tokenizer.mask_token_id, tokenizer.cls_token_id) == ("bpe", None, None)
    assert tokenizer.special_ids.tolist() == [0]
    with pytest.raises(InputError, match=r"no \[CLS\], which the input of an encoder needs"):
        tokenizer.with_special([5])


@pytest.mark.parametrize(
    "options", [{}, {"strip_accents": True}, {"strip_accents": False}, {"tokenize_chinese_chars": False}]
)
@pytest.mark.parametrize("lowercase", [True, False])
def test_options_of_bert_are_those_of_transformers(tmp_path: Path, lowercase: bool, options: dict[str, Any]) -> None:
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": lowercase, **options}
    write(tmp_path, [*SPECIAL, *WORDS], tokenizer_config=config)
    ours, theirs = load_tokenizer(tmp_path), oracle(tmp_path)
    assert [ours.encode(text) for text in TEXTS] == [theirs(text) for text in TEXTS]
    copy_tokenizer(tmp_path, tmp_path / "copy")
    copied = json.loads((tmp_path / "copy" / "tokenizer_config.json").read_text())
    assert {"tokenizer_class": "BertTokenizer", "do_lower_case": lowercase}.items() <= copied.items()
    for reader in (load_tokenizer(tmp_path / "copy").encode, oracle(tmp_path / "copy")):
        assert [reader(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]
    # A tokenizer.json that states something else is overruled by tokenizer_config.json, as in transformers.
    file = json.loads((tmp_path / "copy" / "tokenizer.json").read_text())
    file["normalizer"] = bert_normalizer(not lowercase)
    write(tmp_path / "copy", tokenizer=file)
    assert load_tokenizer(tmp_path / "copy").encode("Café A") == oracle(tmp_path / "copy")("Café A")


@pytest.mark.parametrize("options", [{}, {"do_lower_case": False}, {"keep_accents": True}, {"do_lower_case": True}])
def test_options_of_albert_are_those_of_transformers(tmp_path: Path, options: dict[str, Any]) -> None:
    write(tmp_path, tokenizer=unigram(), tokenizer_config={"tokenizer_class": "AlbertTokenizer", **options})
    ours = load_tokenizer(tmp_path)
    theirs = oracle(tmp_path)
    texts = [text for text in TEXTS if "<" not in text and "[" not in text]
    assert [ours.encode(text) for text in texts] == [theirs(text) for text in texts]
    copy_tokenizer(tmp_path, tmp_path / "copy")
    assert [oracle(tmp_path / "copy")(text) for text in texts] == [ours.encode(text) for text in texts]


def test_the_longest_word_is_that_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, [*SPECIAL, "a", "##a"])
    assert load_tokenizer(tmp_path).encode("a" * 100 + " " + "a" * 101) == [5, *[6] * 99, 1]
    copy_tokenizer(tmp_path, tmp_path / "copy")
    file = json.loads((tmp_path / "copy" / "tokenizer.json").read_text())
    file["model"]["max_input_chars_per_word"] = 200
    write(tmp_path / "copy", tokenizer=file)
    assert load_tokenizer(tmp_path / "copy").encode("a" * 200 + " " + "a" * 201) == [5, *[6] * 199, 1]
    copy_tokenizer(tmp_path / "copy", tmp_path / "again")  # BertTokenizer has 100 always, so the class is another one
    assert oracle(tmp_path / "again")("a" * 200) == [5, *[6] * 199]


def test_what_no_file_states_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, [*SPECIAL, *WORDS], config={"model_type": "albert"})  # a WordPiece vocabulary of an ALBERT
    assert load_tokenizer(tmp_path).encode("A") == [5 + WORDS.index("A")]
    assert "no file states do_lower_case; text keeps its case" in capsys.readouterr().err
    write(tmp_path, tokenizer_config={"do_lower_case": True, "never_split": ["a"], "do_basic_tokenize": False})
    load_tokenizer(tmp_path)
    said = capsys.readouterr().err
    assert "never_split is ignored, as in transformers 5" in said
    assert "do_basic_tokenize is ignored" in said
    assert "do_lower_case" not in said


def test_a_tokenizer_json_alone_is_used_as_it_is(tmp_path: Path) -> None:
    """Also beside the config.json of a BERT, where transformers would lowercase a cased vocabulary."""
    write(tmp_path, [*SPECIAL, *WORDS], tokenizer_config={"do_lower_case": False})
    copy_tokenizer(tmp_path, tmp_path / "copy")
    (tmp_path / "copy" / "tokenizer_config.json").unlink()
    write(tmp_path / "copy", config={"model_type": "bert"})
    assert load_tokenizer(tmp_path / "copy").encode("A") == load_tokenizer(tmp_path).encode("A")
    assert load_tokenizer(tmp_path / "copy").mask_token_id == 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"normalizer": {"type": "Prepend", "prepend": "_"}}, "normalizer Prepend"),
        (
            {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}},
            "Replace by an expression",
        ),
        ({"pre_tokenizer": None}, "no pre_tokenizer"),
        ({"pre_tokenizer": {"type": "WhitespaceSplit"}}, "no pre_tokenizer Metaspace"),
        ({"pre_tokenizer": {"type": "Metaspace", "replacement": "_"}}, "another space than ▁"),
        ({"pre_tokenizer": {"type": "ByteLevel"}}, "pre_tokenizer ByteLevel"),
        ({"decoder": {"type": "BPEDecoder"}}, "decoder BPEDecoder"),
    ],
)
def test_steps_that_are_not_those_of_encoders_are_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=rf"tokenizer\.json: Unigram with .*{reason}: only a byte-level BPE"):
        load_tokenizer(write(tmp_path, tokenizer={**unigram(), **change}))


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ({"vocab": []}, "vocab must be a list"),
        ({"vocab": [["a", 0.0], ["a", 1.0]]}, "pieces 0 and 1 are the same"),
        ({"vocab": [["a", float("nan")]]}, "piece 0 is not a text and a finite score"),
        ({"vocab": [["", 0.0]]}, "piece 0 is not"),
        ({"unk_id": None}, "unk_id None is not a piece"),
        ({"unk_id": 99}, "unk_id 99 is not a piece"),
        ({"type": "WordPiece"}, "another prefix|vocab must be an object|WordPiece with"),
    ],
)
def test_broken_models_are_refused(tmp_path: Path, model: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        load_tokenizer(write(tmp_path, tokenizer=unigram(**model)))


def test_a_class_of_another_kind_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [*SPECIAL, *WORDS], tokenizer_config={"tokenizer_class": "AlbertTokenizer"})
    with pytest.raises(InputError, match="the class AlbertTokenizer has a tokenizer of the kind unigram, the files"):
        load_tokenizer(tmp_path)
    write(tmp_path, tokenizer_config={"tokenizer_class": "BertJapaneseTokenizer"})
    with pytest.raises(InputError, match="the tokenizer class BertJapaneseTokenizer is not known"):
        load_tokenizer(tmp_path)


def test_a_damaged_sentencepiece_file_is_one_error(real: Path, tmp_path: Path) -> None:
    data = (real / "albert" / "spiece.model").read_bytes()
    path = tmp_path / "spiece.model"
    for damaged in (b"", b"x", data[:1000], data[:-3], data.replace(b"<unk>", b"<\xffnk>")):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"spiece\.model: (not a SentencePiece model|a SentencePiece model with)"):
            load_tokenizer(tmp_path)


@settings(max_examples=20)
@given(place=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_changed_byte_of_a_sentencepiece_file_is_one_error_at_most(
    real: Path, tmp_path_factory: pytest.TempPathFactory, place: int, byte: int
) -> None:
    data = bytearray((real / "albert" / "spiece.model").read_bytes())
    data[place % len(data)] = byte
    directory = tmp_path_factory.mktemp("changed")
    (directory / "spiece.model").write_bytes(data)
    try:
        load_tokenizer(directory).encode("Naïve “text” of 1,000 words, ﬁne")
    except InputError as error:
        assert "\n" not in str(error)


def test_programs_that_write_refuse_the_tokenizer_of_an_encoder(small: dict[str, Tokenizer], tmp_path: Path) -> None:
    write(tmp_path, [*SPECIAL, *WORDS], tokenizer_config={"do_lower_case": True})
    refusal = "a WordPiece tokenizer, as encoders have, does not keep a text as it is"
    with pytest.raises(InputError, match=refusal):
        load_tokenizer(tmp_path, lossless=True)
    with pytest.raises(InputError, match=refusal):
        small["bert"].decode_bytes([5])
    assert small["bert"].min_tokens("x" * 1000) == 0
    assert small["bert"].encode_bytes(b"the\xff") == small["bert"].encode("the\ufffd")


def test_encode_prints_the_tokens(neolm_: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    write(tmp_path, [*SPECIAL, *WORDS], tokenizer_config={"do_lower_case": True})
    assert neolm_("tokenizer", "encode", tmp_path, "unknown") == (0, '9\t"un"\n10\t"##known"\n', "")
