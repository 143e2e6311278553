"""What NeoLM takes of the tokenizers of encoders: BERT's WordPiece, and ALBERT's Unigram of SentencePiece.

The pipelines and their options are those of `BertTokenizer` and `AlbertTokenizer` of `transformers` 5 (Devlin et al.
2019; Lan et al. 2020; Kudo 2018). What the files state counts; a class replaces only what they do not state.
ALBERT's code splits a piece that ends with a digit and a comma again; as in published files, such pieces have a score
that is lower by 100 instead, which gives the same tokens.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from neolm.core.errors import InputError
from neolm.core.progress import say
from neolm.tokenizer.byte_level import MAX_TOKEN_ID, READABLE, check_ids, shown, steps
from neolm.tokenizer.sentencepiece import SentencePiece

Kind = Literal["bpe", "wordpiece", "unigram"]
KINDS: dict[str, Kind] = {"BPE": "bpe", "WordPiece": "wordpiece", "Unigram": "unigram"}
"""Models of a tokenizer.json, and the kind of tokenizer that a recipe calls them."""
CLASSES = {"WordPiece": ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer"), "Unigram": ("AlbertTokenizer",)}
DEFAULT_TOKENS = {
    "WordPiece": {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
    "Unigram": {
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
        "unk_token": "<unk>",
        "sep_token": "[SEP]",
        "pad_token": "<pad>",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
}
MAX_WORD_CHARACTERS = 100
"""Longest word that WordPiece splits if the files state no limit, as in `transformers`; Google's code has 200."""
WORD_LIMIT = 1000  # of a stated limit; the time for a word grows with its square
PREFIX, SPACE = "##", "▁"

_NORMALIZERS = {
    "WordPiece": ("BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"),
    "Unigram": ("Precompiled", "Replace", "Nmt", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Strip"),
}
_SPLITS = {
    "WordPiece": ("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Punctuation", "Digits"),
    "Unigram": ("Metaspace", "Whitespace", "WhitespaceSplit", "Punctuation", "Digits"),
}
_DECODERS = {
    "WordPiece": ("WordPiece",),
    "Unigram": ("Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"),
}
_METASPACE = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
ALBERT_SPLITS = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, _METASPACE]}
_BERT_OPTIONS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
# Options that transformers 5 ignores, with the values that change nothing.
_IGNORED: dict[str, tuple[Any, ...]] = {
    "never_split": (None, []),
    "do_basic_tokenize": (True,),
    "remove_space": (True,),
    "sp_model_kwargs": (None, {}),
}


def encoder_content(content: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """The parts of `content`, read from the `tokenizer.json` at `place`, that encode text.

    Raises:
        InputError: it has steps that BERT's and ALBERT's tokenizers do not have, or its vocabulary is not one.
    """
    model, added = content["model"], content.get("added_tokens") or []
    kind = model["type"]
    for reason, refused in _refusals(content, model).items():
        if refused:
            raise InputError(f"{place}: {kind} with {reason}: {READABLE}")
    if not isinstance(added, list) or not all(isinstance(t, dict) and isinstance(t.get("content"), str) for t in added):
        raise InputError(f"{place}: added_tokens must be a list of objects with a content")
    checked = _wordpiece(model, place) if kind == "WordPiece" else _unigram(model, place)
    parts = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    kept = {part: content.get(part) for part in parts}
    decoder = kept["decoder"] or decoder_of(kind, checked.get("byte_fallback", False))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        **kept,
        "decoder": decoder,
        "model": checked,
    }


def _refusals(content: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, bool]:
    """Reasons not to take `content`, each with whether it holds."""
    kind = model["type"]
    normalizers, splits, decoders = (steps(content, key) for key in ("normalizer", "pre_tokenizer", "decoder"))
    metaspaces = [step for step in (*splits, *decoders) if step.get("type") == "Metaspace"]
    return {
        **{f"normalizer {shown(s.get('type'))}": s.get("type") not in _NORMALIZERS[kind] for s in normalizers},
        "normalizer Replace by an expression": any(not _is_plain(step) for step in normalizers),
        **{f"pre_tokenizer {shown(s.get('type'))}": s.get("type") not in _SPLITS[kind] for s in splits},
        "no pre_tokenizer": not splits,
        "no pre_tokenizer Metaspace": kind == "Unigram" and all(s.get("type") != "Metaspace" for s in splits),
        "another space than ▁": any(s.get("replacement") != SPACE for s in metaspaces),
        **{f"decoder {shown(s.get('type'))}": s.get("type") not in _DECODERS[kind] for s in decoders},
        "another prefix than ##": kind == "WordPiece" and model.get("continuing_subword_prefix", PREFIX) != PREFIX,
    }


def _is_plain(step: Mapping[str, Any]) -> bool:
    """Whether the time that a step takes is bounded by the length of the text."""
    pattern = step.get("pattern")
    is_text = isinstance(pattern, dict) and (isinstance(pattern.get("String"), str) or pattern == {"Regex": " {2,}"})
    return step.get("type") != "Replace" or is_text


def _wordpiece(model: Mapping[str, Any], place: Path) -> dict[str, Any]:
    vocab, unknown = model.get("vocab"), model.get("unk_token", "[UNK]")
    if not isinstance(vocab, dict):
        raise InputError(f"{place}: vocab must be an object")
    check_ids(vocab, place)
    if not isinstance(unknown, str) or unknown not in vocab:
        raise InputError(f"{place}: the vocabulary has no {shown(unknown)}, which WordPiece needs for unknown words")
    limit = model.get("max_input_chars_per_word", MAX_WORD_CHARACTERS)
    if type(limit) is not int or not 1 <= limit <= WORD_LIMIT:
        raise InputError(f"{place}: max_input_chars_per_word {shown(limit)} is not one of 1 to {WORD_LIMIT}")
    return {
        "type": "WordPiece",
        "unk_token": unknown,
        "continuing_subword_prefix": PREFIX,
        "max_input_chars_per_word": limit,
        "vocab": vocab,
    }


def _unigram(model: Mapping[str, Any], place: Path) -> dict[str, Any]:
    vocab, unk_id = model.get("vocab"), model.get("unk_id")
    if not isinstance(vocab, list) or not 0 < len(vocab) <= MAX_TOKEN_ID:
        raise InputError(f"{place}: vocab must be a list of 1 to {MAX_TOKEN_ID} pairs of a text and a score")
    ids: dict[str, int] = {}
    for number, entry in enumerate(vocab):
        if not _is_piece(entry):
            raise InputError(f"{place}: piece {number} is not a text and a finite score")
        ids.setdefault(entry[0], number)
        if ids[entry[0]] != number:
            raise InputError(f"{place}: the pieces {ids[entry[0]]} and {number} are the same, {entry[0][:40]!r}")
    if type(unk_id) is not int or not 0 <= unk_id < len(vocab):
        raise InputError(f"{place}: unk_id {shown(unk_id)} is not a piece, which Unigram needs for unknown characters")
    pieces = [(text, float(score)) for text, score in vocab]
    return {"type": "Unigram", "unk_id": unk_id, "vocab": pieces, "byte_fallback": bool(model.get("byte_fallback"))}


def _is_piece(entry: Any) -> bool:
    if not isinstance(entry, list | tuple) or len(entry) != 2:
        return False
    text, score = entry
    return isinstance(text, str) and text != "" and type(score) in (int, float) and math.isfinite(score)


def vocabulary_content(text: str, config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The content of a `tokenizer.json` for BERT's `vocab.txt`: a token on each line, its number is the id."""
    vocab = {token: number for number, line in enumerate(text.split("\n")) if (token := line.rstrip())}
    words = (token for token in vocab if not (token.startswith("[") and token.endswith("]")))
    cased = config.get("do_lower_case") is None and any(word.upper() == word != word.lower() for word in words)
    if cased:
        say(f"{path}: no file states do_lower_case; text keeps its case, because the vocabulary has capital letters")
    unknown = config.get("unk_token")
    unknown = unknown.get("content") if isinstance(unknown, dict) else unknown
    return {
        "normalizer": bert_normalizer(lowercase=not cased),
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "unk_token": unknown or "[UNK]", "vocab": vocab},
    }


def sentencepiece_content(model: SentencePiece) -> dict[str, Any]:
    """The content of a `tokenizer.json` for ALBERT's `spiece.model`."""
    pieces = [(text, score - 100 if _ends_with_number(text) else score) for text, score in model.pieces]
    return {
        "normalizer": albert_normalizer(charsmap=base64.b64encode(model.charsmap).decode()),
        "pre_tokenizer": ALBERT_SPLITS,
        "model": {
            "type": "Unigram",
            "unk_id": model.unk_id,
            "vocab": pieces,
            "byte_fallback": model.byte_fallback,
        },
        "added_tokens": [
            {"id": model.pieces.index(piece), "content": piece[0], "special": True}
            for piece in model.pieces
            if piece[0] in model.special
        ],
    }


def _ends_with_number(piece: str) -> bool:
    return len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit()


def bert_normalizer(lowercase: bool = True, strip_accents: bool | None = None) -> dict[str, Any]:
    """BERT's clean text, spaces around Chinese characters, lowercase and accents (None: as `lowercase`)."""
    return {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": strip_accents,
        "lowercase": lowercase,
    }


def albert_normalizer(lowercase: bool = True, keep_accents: bool = False, charsmap: str = "") -> dict[str, Any]:
    """ALBERT's quotes, accents and lowercase, then the characters of SentencePiece (`charsmap`, in base64)."""
    quotes = [{"type": "Replace", "pattern": {"String": quote}, "content": '"'} for quote in ("``", "''")]
    accents = [] if keep_accents else [{"type": "NFKD"}, {"type": "StripAccents"}]
    lower = [{"type": "Lowercase"}] if lowercase else []
    characters = [{"type": "Precompiled", "precompiled_charsmap": charsmap}] if charsmap else []
    return {"type": "Sequence", "normalizers": [*quotes, *accents, *lower, *characters]}


def with_options(
    content: dict[str, Any], config: Mapping[str, Any], name: str | None, directory: Path
) -> dict[str, Any]:
    """`content` with the options of `tokenizer_config.json` that the class `name` (None: not stated) reads."""
    kind = content["model"]["type"]
    is_own = name in CLASSES[kind]
    if name is not None and not is_own:
        return content
    for key, without_effect in _IGNORED.items():
        if key in config and config[key] not in without_effect:
            say(f"{directory}: {key} is ignored, as in transformers 5")
    if kind == "Unigram":
        return content | {"normalizer": _albert_options(content, config, directory)}
    parts: dict[str, Any] = {"normalizer": bert_normalizer(), "pre_tokenizer": {"type": "BertPreTokenizer"}}
    for part, value in parts.items():
        found = content[part]
        if isinstance(found, dict) and found.get("type") == value["type"]:
            parts[part] = found
        elif not is_own:
            return content
        else:
            say(f"{directory}: {part} is not {value['type']}, which the class {name} has, and is ignored")
    stated = {field: _option(config, key, directory) for key, field in _BERT_OPTIONS.items() if key in config}
    return content | parts | {"normalizer": {**parts["normalizer"], **stated}}


def _albert_options(content: Mapping[str, Any], config: Mapping[str, Any], directory: Path) -> Any:
    found = steps(content, "normalizer")
    types = [step.get("type") for step in found]
    own = {"lowercase": "Lowercase" in types, "keep_accents": "StripAccents" not in types}
    names = {"do_lower_case": "lowercase", "keep_accents": "keep_accents"}
    stated = {field: bool(_option(config, key, directory)) for key, field in names.items() if key in config}
    if own | stated == own:
        return content["normalizer"]
    charsmap = next((step.get("precompiled_charsmap") for step in found if step.get("type") == "Precompiled"), "")
    return albert_normalizer(**own | stated, charsmap=str(charsmap or ""))


def _option(config: Mapping[str, Any], key: str, directory: Path) -> bool | None:
    value = config[key]
    if isinstance(value, bool) or (value is None and key == "strip_accents"):
        return value
    raise InputError(f"{directory / 'tokenizer_config.json'}: {key} must be true or false, not {shown(value)}")


def decoder_of(kind: str, byte_fallback: bool = False) -> dict[str, Any]:
    """The step that joins the tokens of a model of this kind to text."""
    if kind == "WordPiece":
        return {"type": "WordPiece", "prefix": PREFIX, "cleanup": True}
    return {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, _METASPACE]} if byte_fallback else _METASPACE


def published_class(content: Mapping[str, Any]) -> dict[str, Any]:
    """Keys for `tokenizer_config.json` with which `transformers` makes the same tokenizer of a `tokenizer.json`.

    `BertTokenizer` and `AlbertTokenizer` make the pipeline themselves; any other pipeline has the general class.
    """
    model, types = content["model"], [step.get("type") for step in steps(content, "normalizer")]
    if model["type"] == "WordPiece":
        normalizer = content["normalizer"] or {}
        options = {key: normalizer.get(field) for key, field in _BERT_OPTIONS.items()}
        expected: Any = bert_normalizer() | {field: normalizer.get(field) for field in _BERT_OPTIONS.values()}
        same = normalizer == expected and content["pre_tokenizer"] == {"type": "BertPreTokenizer"}
        if same and model["max_input_chars_per_word"] == MAX_WORD_CHARACTERS:
            return {"tokenizer_class": "BertTokenizer", **options}
    else:
        lowercase, keep_accents = "Lowercase" in types, "StripAccents" not in types
        expected = steps({"normalizer": albert_normalizer(lowercase, keep_accents, "x")}, "normalizer")
        spaces = [step for step in steps(content, "normalizer") if step.get("pattern") != {"Regex": " {2,}"}]
        same = [s.get("type") for s in spaces] in ([s["type"] for s in expected], [s["type"] for s in expected[:-1]])
        splits = [step.get("type") for step in steps(content, "pre_tokenizer")]
        if same and splits == ["WhitespaceSplit", "Metaspace"] and model["unk_id"] == 1 and not model["byte_fallback"]:
            return {"tokenizer_class": "AlbertTokenizer", "do_lower_case": lowercase, "keep_accents": keep_accents}
    return {"tokenizer_class": "PreTrainedTokenizerFast"}
