"""Tokenizers of encoders that are trained: ids, options, unknown characters, the stage, loading by `transformers`."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from neolm.core.errors import SettingError
from neolm.corpus.build import build_corpus
from neolm.corpus.config import CorpusConfig
from neolm.tokenizer.build import build_tokenizer
from neolm.tokenizer.config import TokenizerConfig
from neolm.tokenizer.encoder_tokenizer import EncoderTokenizer
from neolm.tokenizer.tokenizer import load_tokenizer
from neolm.tokenizer.train_encoder import train_encoder_tokenizer

Kind = Literal["wordpiece", "unigram"]
KINDS: tuple[Kind, Kind] = ("wordpiece", "unigram")
EXTRA = ["Café au lait, naïve; it's 1,999 (or 2,000)!", "The \"sea\" — ``quoted'' ½ ﬁne", "Größe GRÖSSE 中文 字"]
PAGES = [Path(__file__).parents[2] / "docs" / name for name in ("corpus.md", "recipes.md", "models.md")]
TEXTS = [*(part for page in PAGES for part in page.read_text(encoding="utf-8").split("\n\n")), *EXTRA * 3]
UNSEEN = "🙂 the 한 sea"


def trained(kind: Kind, size: int = 400, **options: Any) -> EncoderTokenizer:
    key = f"{kind} {size} {options}"
    if key not in CACHE:
        CACHE[key] = train_encoder_tokenizer(lambda: iter(TEXTS), kind, size, **options)
    return CACHE[key]


CACHE: dict[str, EncoderTokenizer] = {}


@pytest.mark.parametrize("kind", KINDS)
def test_training_reaches_the_requested_size_with_the_published_special_ids(kind: Kind) -> None:
    tokenizer = trained(kind)
    assert (tokenizer.kind, tokenizer.size) == (kind, 400)
    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    spelled = names if kind == "wordpiece" else ("<pad>", "<unk>", *names[2:])
    assert [tokenizer.id_to_token(number) for number in range(5)] == list(spelled)
    ids = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id]
    assert [*ids, tokenizer.mask_token_id] == [0, 1, 2, 3, 4]
    assert tokenizer.special_ids.tolist() == [0, 1, 2, 3, 4]
    assert tokenizer.eos_token_id == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [250, 400, 700])
def test_the_same_text_gives_the_same_ids(kind: Kind, size: int) -> None:
    expected = trained(kind, size).backend.to_str()
    for _ in range(3):
        assert train_encoder_tokenizer(lambda: iter(TEXTS), kind, size).backend.to_str() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_frequent_words_are_one_token(kind: Kind) -> None:
    tokenizer = trained(kind, 700)
    [the] = tokenizer.encode("THE")
    assert tokenizer.id_to_token(the) == ("the" if kind == "wordpiece" else "▁the")
    assert len(tokenizer.encode(TEXTS[1])) < len(TEXTS[1]) / 2
    assert tokenizer.unk_token_id not in tokenizer.encode(TEXTS[1])


@pytest.mark.parametrize("kind", KINDS)
def test_case_and_accents(kind: Kind) -> None:
    def text(**options: Any) -> str:
        tokenizer = trained(kind, **options)
        return tokenizer.decode(tokenizer.encode("Café"))

    assert text() == "cafe"
    assert text(lowercase=False) == "Café"
    assert text(strip_accents=False) == "café"
    assert text(lowercase=False, strip_accents=True) == "Cafe"


def test_pieces_of_a_unigram_have_letters_digits_or_one_mark() -> None:
    tokenizer = trained("unigram", 700)
    for number in range(5, tokenizer.size):
        token = tokenizer.id_to_token(number).removeprefix("▁")
        assert token.isalpha() or token.isnumeric() or len(token) <= 1, token
    backend = json.loads(tokenizer.backend.to_str())
    assert [step["type"] for step in backend["pre_tokenizer"]["pretokenizers"]] == ["WhitespaceSplit", "Metaspace"]


def test_unknown_characters() -> None:
    """A word of WordPiece, a character of a Unigram; with byte fallback nothing is unknown."""
    wordpiece, unigram, fallback = trained("wordpiece"), trained("unigram"), trained("unigram", 650, byte_fallback=True)
    assert wordpiece.encode("🙂sea") == [1]
    assert [unigram.id_to_token(number) for number in unigram.encode("🙂")] == ["▁", "<unk>"]
    ids = fallback.encode(UNSEEN)
    assert fallback.unk_token_id not in ids
    assert fallback.decode(ids) == unicodedata.normalize("NFKD", UNSEEN)
    assert [fallback.id_to_token(number) for number in fallback.encode("🙂")[-4:]] == [
        f"<0x{byte:02X}>" for byte in "🙂".encode()
    ]
    assert fallback.token_to_id("<0x00>") == 5
    assert not fallback.word_starts[fallback.token_to_id("<0xF0>")]
    spelled = trained("unigram", 650, byte_fallback=True, lowercase=False).encode("<0x41>")
    assert len(spelled) > 3  # text that spells a byte is not that byte


@given(text=st.text(max_size=40))
def test_byte_fallback_keeps_every_character(text: str) -> None:
    tokenizer = trained("unigram", 650, byte_fallback=True, lowercase=False, strip_accents=False)
    spaced = " ".join("".join(text).split())
    if any(mark in spaced for mark in ("``", "''", "▁")) or spaced != spaced.encode("utf-8", "replace").decode():
        return
    assert "".join(tokenizer.decode(tokenizer.encode(spaced)).split()) == "".join(spaced.split())


def test_rare_characters_are_not_in_the_vocabulary() -> None:
    """At most a quarter of the vocabulary are characters, the most frequent ones."""
    texts = [*TEXTS, "".join(chr(number) for number in range(0x4E00, 0x5200))]
    for kind in KINDS:
        tokenizer = train_encoder_tokenizer(lambda: iter(texts), kind, 300)
        assert tokenizer.size == 300
        assert tokenizer.unk_token_id in tokenizer.encode("\u5100")
        assert tokenizer.unk_token_id not in tokenizer.encode("the sea")


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_that_is_too_large_for_the_text_is_refused(kind: Kind) -> None:
    with pytest.raises(SettingError, match=r"too small for 60000 tokens; set tokenizer\.vocab_size=(\d+)") as error:
        train_encoder_tokenizer(lambda: iter(TEXTS), kind, 60_000)
    reached = int(str(error.value).partition("vocab_size=")[2].split()[0])
    assert train_encoder_tokenizer(lambda: iter(TEXTS), kind, reached).size == reached
    with pytest.raises(SettingError, match="the corpus is too small"):
        train_encoder_tokenizer(lambda: iter([""]), kind, 300)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("wordpiece", {}),
        ("wordpiece", {"lowercase": False}),
        ("wordpiece", {"lowercase": False, "strip_accents": True}),
        ("unigram", {}),
        ("unigram", {"lowercase": False}),
        ("unigram", {"strip_accents": False}),
        ("unigram", {"byte_fallback": True}),
    ],
)
def test_transformers_loads_a_trained_tokenizer(
    tmp_path: Path, kind: Kind, options: dict[str, Any], named: bool
) -> None:
    """With and without the config.json of a model beside it."""
    tokenizer = trained(kind, 650, **options)
    tokenizer.save(tmp_path)
    if named:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert" if kind == "wordpiece" else "albert"}))
    theirs = [transformers.AutoTokenizer.from_pretrained(tmp_path)]
    if "byte_fallback" not in options:
        own = transformers.BertTokenizer if kind == "wordpiece" else transformers.AlbertTokenizer
        assert isinstance(theirs[0], own)
        theirs.append(own.from_pretrained(tmp_path))
    for one in theirs:
        plain = [text for text in TEXTS[::7] if not any(token in text for token in tokenizer.special_tokens.values())]
        for text in (*plain, *EXTRA, UNSEEN, "x" * 200):
            assert one(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
        pair = one("The sea", "a day", return_token_type_ids=True)
        assert (pair["input_ids"], pair["token_type_ids"]) == tokenizer.with_special(
            *tokenizer.encode_batch(["The sea", "a day"])
        )
        assert (one.mask_token_id, one.pad_token_id, len(one)) == (4, 0, tokenizer.size)
    loaded = load_tokenizer(tmp_path)
    assert loaded.kind == kind
    assert loaded.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_stage_trains_on_the_corpus(tmp_path: Path, kind: Kind) -> None:
    texts = CorpusConfig(source="files", path=str(PAGES[0].parent))
    total = build_corpus(tmp_path, texts).counts["train"]["bytes"]
    config = TokenizerConfig(kind=kind, vocab_size=300)
    assert build_tokenizer(tmp_path, config).counts == {"tokens": 300, "bytes": total}
    written = (tmp_path / "tokenizer" / "tokenizer.json").read_bytes()
    assert load_tokenizer(tmp_path).kind == kind
    part = build_tokenizer(tmp_path, TokenizerConfig(kind=kind, vocab_size=257, train_bytes=total // 2)).counts
    assert part["bytes"] == pytest.approx(total / 2, rel=0.1)
    build_tokenizer(tmp_path, config)
    assert (tmp_path / "tokenizer" / "tokenizer.json").read_bytes() == written


def test_a_tokenizer_that_was_built_before_these_settings_is_up_to_date(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_corpus(tmp_path, CorpusConfig(source="files", path=str(PAGES[0])))
    config = TokenizerConfig(vocab_size=300)
    build_tokenizer(tmp_path, config)
    path = tmp_path / "tokenizer" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["config"] = {"path": None, "vocab_size": 300, "train_bytes": 100_000_000}
    path.write_text(json.dumps(manifest))
    capsys.readouterr()
    build_tokenizer(tmp_path, config)
    assert capsys.readouterr().err == "tokenizer: up to date\n"
    build_tokenizer(tmp_path, TokenizerConfig(vocab_size=300, kind="wordpiece"))
    assert capsys.readouterr().err == "tokenizer: 300 tokens\n"


def test_settings_without_effect_are_named() -> None:
    assert TokenizerConfig(lowercase=False).ignored() == {"lowercase": "a byte-level BPE keeps the text as it is"}
    assert TokenizerConfig(kind="wordpiece", byte_fallback=True).ignored() == {
        "byte_fallback": "WordPiece has no tokens of bytes"
    }
    assert set(TokenizerConfig(path="x", kind="unigram", strip_accents=True).ignored()) == {"kind", "strip_accents"}


def test_a_decoder_is_not_trained_with_the_tokenizer_of_an_encoder(
    neolm_: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    sizes = ["model.hidden_size=16", "model.num_layers=1", "model.num_heads=2", "pretrain.steps=1"]
    code, _, said = neolm_(
        *("pretrain", "text", f"corpus.path={PAGES[0]}", f"output={tmp_path / 'run'}", *sizes),
        *("tokenizer.kind=wordpiece", "tokenizer.vocab_size=300", "pretrain.sequence_length=16"),
    )
    assert code == 2
    assert "gpt-neo is a decoder; a WordPiece tokenizer, as encoders have, does not keep a text as it is" in said
    assert not (tmp_path / "run").exists()  # refused before the corpus is built
    code, _, said = neolm_(
        *("pretrain", "text", f"corpus.path={PAGES[0]}", f"output={tmp_path / 'run'}", *sizes),
        *("model.family=bert", "tokenizer.vocab_size=300", "pretrain.sequence_length=16"),
    )
    assert code == 2
    assert "bert needs a tokenizer with [CLS], [SEP] and [MASK]" in said
    assert not (tmp_path / "run").exists()


def test_small_vocabularies() -> None:
    for kind in KINDS:
        # Below 20, the pruning of the trainers can end below the size, by the text.
        assert train_encoder_tokenizer(lambda: iter(TEXTS), kind, 40).size == 40
    for kind, byte_fallback, least in (("bpe", False, 257), ("unigram", True, 266), ("wordpiece", False, 10)):
        settings: dict[str, Any] = {"kind": kind, "byte_fallback": byte_fallback}
        TokenizerConfig(**settings, vocab_size=least)
        with pytest.raises(ValidationError, match="vocab_size"):
            TokenizerConfig(**settings, vocab_size=least - 1)
    TokenizerConfig(path="x", vocab_size=100)
