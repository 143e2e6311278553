"""The tokenizer in the files of a model directory, read as `transformers` 5 reads it for GPT-2, GPT-NeoX, BERT, ALBERT.

| File | What it adds |
| --- | --- |
| `tokenizer.json` | the vocabulary, the merges, the pipeline and added tokens |
| `vocab.json` and `merges.txt`, or `encoder.json` and `vocab.bpe` | the same, if there is no `tokenizer.json` |
| `spiece.model` of ALBERT, or `vocab.txt` of BERT | the same, if there are none of the above |
| `tokenizer_config.json` | the class, named special tokens, added tokens (`added_tokens_decoder`) |
| `special_tokens_map.json`, `added_tokens.json` | the same, if `added_tokens_decoder` is missing |
| `config.json` | the class, if `tokenizer_config.json` names none |

The classes `GPT2Tokenizer` and `GPTNeoXTokenizer` take vocabulary and merges and define the rest themselves;
`BertTokenizer` and `AlbertTokenizer` have options (`encoder_pipeline.py`); every other class takes `tokenizer.json` as
it is. A named token that is not in the vocabulary is added to a BPE, but not to an encoder's vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken

from neolm.core.errors import InputError
from neolm.core.files import read_json
from neolm.core.model_files import (
    ADDED_TOKENS_FILE,
    CONFIG_FILE,
    OTHER_TOKENIZERS,
    SENTENCEPIECE_FILE,
    SPECIAL_TOKENS_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    VOCABULARIES,
    WORDPIECE_FILE,
)
from neolm.core.progress import say
from neolm.tokenizer.byte_level import MAX_TOKEN_ID, READABLE, byte_level
from neolm.tokenizer.encoder_pipeline import (
    CLASSES,
    DEFAULT_TOKENS,
    KINDS,
    Kind,
    encoder_content,
    sentencepiece_content,
    vocabulary_content,
    with_options,
)
from neolm.tokenizer.sentencepiece import parse_sentencepiece

MAX_TOKENIZER_BYTES = 2**25
"""Size limit of a tokenizer.json, vocab.json or merges.txt."""
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_END = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
# Classes that define the pipeline and default tokens themselves: (normalizer, tokens).
_CLASSES: dict[str, tuple[dict[str, Any] | None, dict[str, str]]] = {
    "GPT2Tokenizer": (None, _END),
    "CodeGenTokenizer": (None, _END),
    "GPTNeoXTokenizer": ({"type": "NFC"}, {**_END, "pad_token": "<|padding|>"}),
}
# Classes that take a tokenizer.json as it is; transformers may define the pipeline of others itself.
_GENERAL = ("PreTrainedTokenizer", "TokenizersBackend", "PythonBackend", "BloomTokenizer", "LlamaTokenizer")
_FAMILIES = {
    "gpt2": "GPT2Tokenizer",
    "gpt_neo": "GPT2Tokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
    "bert": "BertTokenizer",
    "albert": "AlbertTokenizer",
}
_SURROGATE = re.compile("[\ud800-\udfff]")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class NoTokenizerError(InputError):
    """A directory has no file of a tokenizer."""


class TokenizerFiles(NamedTuple):
    """What the files of a directory say about its tokenizer."""

    kind: Kind
    content: dict[str, Any]  # of a tokenizer.json, without its added tokens
    added: list[AddedToken]  # tokens to add, in order
    special_tokens: dict[str, str]  # by name, such as eos_token
    extra_special_tokens: list[str]  # without a name
    config: dict[str, Any]  # tokenizer_config.json
    names_eos: bool  # a file names the end of text; otherwise it is the default of the class
    around: tuple[str | None, str | None]  # special tokens before and after a text; without a tokenizer.json only


def read_tokenizer_files(directory: Path, file: Path | None = None) -> TokenizerFiles:
    """Read the tokenizer of `directory`; `file` takes the place of its `tokenizer.json`.

    Raises:
        NoTokenizerError: there is none.
        InputError: a file is broken, or the tokenizer is of a kind that is not supported.
    """
    place = file or directory / TOKENIZER_FILE
    whole = place.exists()
    config = _optional(directory / TOKENIZER_CONFIG_FILE)
    content = read_json(place, MAX_TOKENIZER_BYTES) if whole else _vocabulary(directory, config)
    model = content.get("model")
    kind = KINDS.get(str(model.get("type")), "bpe") if isinstance(model, dict) else "bpe"
    content = (byte_level if kind == "bpe" else encoder_content)(content, place if whole else directory)
    name = _class_name(directory, config, whole, kind)
    defaults: dict[str, str] = {}
    if kind != "bpe":
        defaults = DEFAULT_TOKENS[content["model"]["type"]]
        content = with_options(content, config, name, directory)
    elif name in _CLASSES:
        normalizer, defaults = _CLASSES[name]
        content = _rebuilt(content, config, name, normalizer, directory)
    in_file = content.pop("added_tokens")
    tokens, listed = _listed_tokens(directory, config, in_file)
    named, extra = _special_tokens(tokens, defaults, directory)
    by_text = {str(token): token for token in listed}
    named = {key: by_text.get(str(token), token) for key, token in named.items()}
    added = [*([] if name in _CLASSES else [_added_token(token, place) for token in in_file]), *listed]
    known = {str(token) for token in added}
    if kind != "bpe":
        named = _in_vocabulary(named, content["model"]["vocab"], known, tokens, directory)
    for token in [*named.values(), *extra]:
        if str(token) not in known:
            known.add(str(token))
            added.append(token)
    texts = {str(token) for token in named.values()}
    for token in added:
        token.special = token.special or str(token) in texts
    special = {key: str(token) for key, token in named.items()}
    asked = [(f"add_{name}_token", special.get(f"{name}_token")) for name in ("bos", "eos")]
    first, last = (token if config.get(key) and not whole else None for key, token in asked)
    around = (first, last) if kind == "bpe" else (None, None)
    names_eos = tokens.get("eos_token") is not None
    return TokenizerFiles(kind, content, added, special, [str(token) for token in extra], config, names_eos, around)


def _in_vocabulary(
    named: dict[str, AddedToken], vocabulary: Any, known: set[str], stated: Mapping[str, Any], directory: Path
) -> dict[str, AddedToken]:
    """The named tokens that an encoder's vocabulary has: a model has no embedding for others."""
    texts = {*known, *(vocabulary if isinstance(vocabulary, dict) else (text for text, _ in vocabulary))}
    missing = {key: str(token) for key, token in named.items() if str(token) not in texts}
    if lost := [f"{key} {text[:40]}" for key, text in missing.items() if stated.get(key) is not None]:
        say(f"{directory}: the vocabulary has no {', '.join(lost)}; it is not added")
    return {key: token for key, token in named.items() if key not in missing}


def _vocabulary(directory: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a `tokenizer.json` for the vocabulary and merges of `directory`."""
    for vocabulary, merges in VOCABULARIES:
        if (directory / vocabulary).is_file() and (directory / merges).is_file():
            vocab = read_json(directory / vocabulary, MAX_TOKENIZER_BYTES)
            return {
                "pre_tokenizer": _BYTE_LEVEL,
                "model": {"type": "BPE", "vocab": vocab, "merges": list(_merges(directory / merges))},
            }
    pieces, words = directory / SENTENCEPIECE_FILE, directory / WORDPIECE_FILE
    if pieces.is_file():
        return sentencepiece_content(parse_sentencepiece(read_bytes(pieces, MAX_TOKENIZER_BYTES), pieces))
    if words.is_file():
        return vocabulary_content(read_text(words, MAX_TOKENIZER_BYTES), config, words)
    other = next((name for name in OTHER_TOKENIZERS if (directory / name).is_file()), None)
    if other is not None:
        raise InputError(f"{directory / other}: {OTHER_TOKENIZERS[other]}: {READABLE}")
    raise NoTokenizerError(f"{directory}: there is no tokenizer (tokenizer.json, or vocab.json with merges.txt)")


def _merges(path: Path) -> Iterator[tuple[str, str]]:
    """The pairs of tokens in a file of merges, one on each line."""
    for number, line in enumerate(read_text(path, MAX_TOKENIZER_BYTES).split("\n"), start=1):
        pair = line.rstrip("\r").split(" ")
        if line.startswith("#version") or pair == [""]:
            continue
        if len(pair) != 2:
            raise InputError(f"{path}: line {number} is not a merge, which is two tokens with a space between them")
        yield pair[0], pair[1]


def read_text(path: Path, limit: int) -> str:
    """The text of a UTF-8 file of at most `limit` bytes. Raises `InputError` if it cannot be read or has more."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except ValueError as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def read_bytes(path: Path, limit: int) -> bytes:
    """The bytes of a file of at most `limit` bytes. Raises `InputError` if it cannot be read or has more."""
    if not path.is_file():  # opening a pipe would wait for a writer
        raise InputError(f"{path}: not a file")
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(data) > limit:
        raise InputError(f"{path}: more than {limit:,} bytes, which is too large for a file of this kind")
    return data


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _class_name(directory: Path, config: Mapping[str, Any], whole: bool, kind: str) -> str | None:
    """The class that reads the files: `tokenizer_config.json` names it, or the model's `config.json`.

    Raises:
        InputError: the class has another kind of tokenizer than the files.
    """
    model = _optional(directory / CONFIG_FILE)
    stated = config.get("tokenizer_class") or model.get("tokenizer_class")
    name = stated or _FAMILIES.get(str(model.get("model_type")))
    kinds = dict.fromkeys(_CLASSES, "bpe") | {name: KINDS[model] for model, names in CLASSES.items() for name in names}
    if name is not None:
        name = str(name).removesuffix("Fast")
        if stated is None and kinds[name] != kind:  # a family with a tokenizer of another one
            name = None
    if name is not None and kinds.get(name, kind) != kind:
        raise InputError(f"{directory}: the class {name} has a tokenizer of the kind {kinds[name]}, the files {kind}")
    if name is not None and (whole or kind != "bpe") and name not in (*kinds, *_GENERAL):
        if not whole:
            raise InputError(f"{directory}: the tokenizer class {name[:60]} is not known: {READABLE}")
        say(f"{directory}: the tokenizer class {name[:60]} is not known; tokenizer.json is used as it is")
    # Only a tokenizer.json says what its pipeline is; other files are GPT-2's, BERT's or ALBERT's.
    return name if whole or name in kinds else next(known for known in kinds if kinds[known] == kind)


def _rebuilt(
    content: dict[str, Any], config: Mapping[str, Any], name: str, normalizer: Any, directory: Path
) -> dict[str, Any]:
    """`content` with the pipeline of the class `name` instead of its own."""
    if config.get("add_prefix_space"):
        raise InputError(
            f"{directory / TOKENIZER_CONFIG_FILE}: add_prefix_space: only a byte-level BPE without it can be read"
        )
    ours = {"normalizer": normalizer, "pre_tokenizer": _BYTE_LEVEL}
    for key, value in ours.items():
        kinds = [_kind(part) for part in (content[key], value)]
        if content[key] is not None and kinds[0] != kinds[1]:
            say(f"{directory}: {key} {kinds[0]} is ignored, because the class {name} has {kinds[1] or 'none'}")
    model = {**content["model"], "unk_token": None, "fuse_unk": False, "ignore_merges": False}
    after = content["post_processor"]
    if name == "GPTNeoXTokenizer" and _kind(after) != "ByteLevel":  # ByteLevel changes offsets only
        after = None
    return content | ours | {"model": model, "post_processor": after}


def _kind(part: Any) -> str:
    return str(part.get("type")) if isinstance(part, dict) else ""


def _listed_tokens(
    directory: Path, config: Mapping[str, Any], in_file: list[dict[str, Any]]
) -> tuple[dict[str, Any], list[AddedToken]]:
    """Entries for named special tokens, and the tokens that the files add, in the order of their ids."""
    path, entries = directory / TOKENIZER_CONFIG_FILE, dict(config)
    listed: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in config:
        decoder = config["added_tokens_decoder"]
        if not isinstance(decoder, dict):
            raise InputError(f"{path}: added_tokens_decoder must be an object")
        for number, token in decoder.items():
            listed[_token_id(number, path)] = _added_token(token, path)
        return entries, [listed[number] for number in sorted(listed)]
    entries |= _optional(directory / SPECIAL_TOKENS_FILE)
    path = directory / ADDED_TOKENS_FILE
    # As in transformers, additional_special_tokens of special_tokens_map.json do not make these tokens special.
    unnamed = [*_extra(config), *_extra({"extra_special_tokens": entries.get("extra_special_tokens")})]
    special = {_text(entries.get(key)) for key in NAMED_TOKENS} | {_text(token) for token in unnamed}
    for text, number in _optional(path).items():
        is_special = text in special
        flags = {"content": text, "special": is_special, "normalized": not is_special}
        listed[_token_id(number, path)] = _added_token(flags, path)
    for token in in_file:
        listed[_token_id(token.get("id"), directory / TOKENIZER_FILE)] = _added_token(token, directory / TOKENIZER_FILE)
    return entries, [listed[number] for number in sorted(listed)]


def _special_tokens(
    entries: Mapping[str, Any], defaults: Mapping[str, str], directory: Path
) -> tuple[dict[str, AddedToken], list[AddedToken]]:
    """Special tokens by name, and those without a name."""
    path = directory / TOKENIZER_CONFIG_FILE
    values = {**defaults, **{key: entries[key] for key in NAMED_TOKENS if key in entries}}
    extra = _extra(entries)
    if isinstance(extra, dict):
        values, extra = values | extra, []
    values |= {key: value for key, value in entries.items() if key.endswith("_token") and isinstance(value, str)}
    named = {key: _added_token(value, path, key) for key, value in values.items() if value is not None}
    order = [*(key for key in NAMED_TOKENS if key in named), *(key for key in named if key not in NAMED_TOKENS)]
    return {key: named[key] for key in order}, [_added_token(token, path, "extra_special_tokens") for token in extra]


def _extra(entries: Mapping[str, Any]) -> Any:
    """Special tokens without a name: a list, or an object that gives them names."""
    extra = entries.get("extra_special_tokens") or entries.get("additional_special_tokens") or []
    return extra if isinstance(extra, list | dict) else [extra]


def _text(entry: Any) -> str | None:
    """The text of a token, which is given as text or as an object; None if it is not text, or half a character."""
    text = entry.get("content") if isinstance(entry, dict) else entry
    return text if isinstance(text, str) and not _SURROGATE.search(text) else None


def _added_token(entry: Any, path: Path, key: str = "added_tokens") -> AddedToken:
    """A token of a file; one that is given as text, or for a name, is special."""
    text = _text(entry)
    if text is None:
        raise InputError(f"{path}: {key}: a token is a text, or an object with a content, not {str(entry)[:40]}")
    flags = {flag: bool(entry[flag]) for flag in _FLAGS if flag in entry} if isinstance(entry, dict) else {}
    return AddedToken(text, **({"special": True} if key != "added_tokens" else {}) | flags)


def _token_id(number: Any, path: Path) -> int:
    try:
        found = int(number)
    except (OverflowError, TypeError, ValueError):
        found = -1
    if not 0 <= found < MAX_TOKEN_ID:
        raise InputError(f"{path}: the token id {str(number)[:40]} is not one of 0 to {MAX_TOKEN_ID - 1}")
    return found
