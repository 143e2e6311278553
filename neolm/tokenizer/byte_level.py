"""What NeoLM takes of a `tokenizer.json` with BPE: a byte-level one, whose tokens are bytes of a text and lose nothing.

Steps that change the text before it is split or that do not work on bytes (Metaspace, Lowercase, a space in front) are
refused by name. `encoder_pipeline.py` has the other models, WordPiece and Unigram.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neolm.core.errors import InputError
from neolm.core.progress import say

READABLE = "only a byte-level BPE, as GPT-2 and GPT-NeoX have, BERT's WordPiece and ALBERT's Unigram can be read"
MAX_TOKEN_ID = 2**22
"""Limit of a token's id; the largest published vocabularies have about 260,000 tokens."""

# Expressions of a Split that are taken. Any other can take time without limit on an ordinary text.
_ONE_CLASS = re.compile(r"(\\[dsw]|\\p\{\w+\}|\[[^][\\]+\])(\{\d(,\d)?\})?")
_EXPRESSIONS = (  # of GPT-2, GPT-4 and Llama 3, and Qwen 2
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_SPLITS = ("ByteLevel", "Split", "Digits", "Punctuation")
_DECODERS = ("ByteLevel", "Fuse")
_DECODER = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
_WHOLE_TEXT = ("continuing_subword_prefix", "end_of_word_suffix")


def byte_level(content: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """The parts of `content`, read from the `tokenizer.json` at `place`, that encode text; without BPE dropout.

    Raises:
        InputError: it is not a byte-level BPE, or its vocabulary is not a vocabulary.
    """
    model, added = content.get("model"), content.get("added_tokens") or []
    if not isinstance(model, dict):
        raise InputError(f"{place}: not a tokenizer.json, it has no model")
    for reason, refused in _refusals(content, model).items():
        if refused:
            raise InputError(f"{place}: {reason}: {READABLE}")
    merges = _checked_merges(model, place)
    if not isinstance(added, list) or not all(isinstance(t, dict) and isinstance(t.get("content"), str) for t in added):
        raise InputError(f"{place}: added_tokens must be a list of objects with a content")
    if model.get("dropout"):
        say(f"{place}: BPE dropout of {model['dropout']} is turned off, so that a text always has the same tokens")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": content.get("normalizer"),
        "pre_tokenizer": content.get("pre_tokenizer"),
        "post_processor": content.get("post_processor"),
        "decoder": content.get("decoder") or _DECODER,
        "model": {**model, "type": "BPE", "dropout": None, "byte_fallback": False, "merges": merges},
    }


def _refusals(content: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Reasons not to take `content`, each with whether it holds."""
    normalizers, splits, decoders = (steps(content, key) for key in ("normalizer", "pre_tokenizer", "decoder"))
    unknown, vocab = model.get("unk_token"), model.get("vocab")
    return {
        f"model {shown(model.get('type'))}": model.get("type", "BPE") != "BPE",
        "model without merges": "merges" not in model,
        "model with byte_fallback": model.get("byte_fallback"),
        **{f"model with {key}": model.get(key) for key in _WHOLE_TEXT},
        "model with an unk_token that is not in its vocabulary": unknown is not None
        and isinstance(vocab, dict)
        and str(unknown) not in vocab,
        **{f"normalizer {shown(step.get('type'))}": step.get("type") != "NFC" for step in normalizers},
        "no pre_tokenizer ByteLevel": not any(step.get("type") == "ByteLevel" for step in splits)
        and all(step.get("type") in _SPLITS for step in splits),
        **{f"pre_tokenizer {shown(step.get('type'))}": step.get("type") not in _SPLITS for step in splits},
        **{f"pre_tokenizer {shown(step.get('type'))} that removes text": True for step in splits if _removes(step)},
        **{f"pre_tokenizer Split by {shown(step.get('pattern'))}": True for step in splits if not _is_bounded(step)},
        "pre_tokenizer with add_prefix_space": any(step.get("add_prefix_space") for step in splits),
        **{f"decoder {shown(step.get('type'))}": step.get("type") not in _DECODERS for step in decoders},
    }


def steps(content: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The steps of a part of the pipeline: one, or those of a Sequence."""
    part = content.get(key)
    if isinstance(part, dict) and part.get("type") == "Sequence":
        names = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}
        part = part.get(names[key])
    steps = part if isinstance(part, list) else [] if part is None else [part]
    return [step if isinstance(step, dict) else {"type": step} for step in steps]


def _removes(step: Mapping[str, Any]) -> bool:
    return step.get("type") in ("Split", "Punctuation") and str(step.get("behavior")) == "Removed"


def _is_bounded(step: Mapping[str, Any]) -> bool:
    """Whether the time that a step takes is bounded by the length of the text: text, or a known expression."""
    pattern = step.get("pattern")
    expression = pattern.get("Regex") if isinstance(pattern, dict) else None
    if step.get("type") != "Split" or expression is None:
        return True
    return expression in _EXPRESSIONS or _ONE_CLASS.fullmatch(str(expression)) is not None


def shown(value: Any) -> str:
    """A value of a file, short enough for a message."""
    return str(value)[:40]


def _checked_merges(model: Mapping[str, Any], place: Path) -> list[tuple[str, str]]:
    """The merges of a vocabulary, which is checked too."""
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        raise InputError(f"{place}: vocab must be an object, and merges a list")
    check_ids(vocab, place)
    return list(_pairs(merges, vocab, place))


def check_ids(vocab: Mapping[str, Any], place: Path) -> None:
    """Raise `InputError` if the ids of a vocabulary are not distinct numbers within the limit."""
    tokens: dict[int, str] = {}
    for token, number in vocab.items():
        if type(number) is not int or not 0 <= number < MAX_TOKEN_ID:
            raise InputError(
                f"{place}: the id of {token[:40]!r} is {shown(number)}, not one of 0 to {MAX_TOKEN_ID - 1}"
            )
        if number in tokens:
            raise InputError(f"{place}: {tokens[number][:40]!r} and {token[:40]!r} have the same id {number}")
        tokens[number] = token


def _pairs(merges: list[Any], vocab: Mapping[str, int], place: Path) -> Iterator[tuple[str, str]]:
    """Merges as pairs of tokens. They must be in the vocabulary, together too, or the library can stop the process."""
    for merge in merges:
        try:
            first, second = merge.split(" ") if isinstance(merge, str) else merge
            known = first in vocab and second in vocab and first + second in vocab
        except (TypeError, ValueError):
            known = False
        if not known:
            raise InputError(f"{place}: the merge {shown(merge)} is not of two tokens, or out of vocabulary")
        yield first, second
