"""Train, load and copy tokenizers with the library `tokenizers`.

A trained one is a byte-level BPE. Loaded ones are byte-level BPE (`tokenizer.json`, or GPT-2's `vocab.json` with
`merges.txt`, which OpenAI also publishes as `encoder.json` with `vocab.bpe`), BERT's WordPiece (`tokenizer.json` or
`vocab.txt`) and ALBERT's Unigram (`tokenizer.json` or `spiece.model`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from neolm.core.errors import InputError, SettingError
from neolm.core.files import storage_errors
from neolm.core.model_files import TOKENIZER_FILE, listed_end_tokens, template_files
from neolm.core.progress import say
from neolm.tokenizer.byte_level import MAX_TOKEN_ID
from neolm.tokenizer.byte_level_tokenizer import END_OF_TEXT, Tokenizer, byte_characters, library_errors
from neolm.tokenizer.directory import TokenizerFiles, read_tokenizer_files
from neolm.tokenizer.encoder_tokenizer import LOSSY, EncoderTokenizer, pair_template

__all__ = ["END_OF_TEXT", "Tokenizer", "byte_characters", "copy_tokenizer", "load_tokenizer", "train_tokenizer"]

_UTF8_BYTES = (*range(0xC0), *range(0xC2, 0xF5))  # the other bytes are never part of a character
# Keys of tokenizer_config.json that say how the original files are read; the copy is one tokenizer.json.
_NOT_COPIED = (
    "tokenizer_class",
    "auto_map",
    "added_tokens_decoder",
    "add_prefix_space",
    "init_inputs",
    "tokenizer_file",
    "fast_tokenizer_files",
    "vocab_file",
    "merges_file",
    "additional_special_tokens",
    "extra_special_tokens",
)


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE of exactly `vocab_size` tokens on `texts`. Id 0 is the end of text.

    Raises:
        SettingError: the text has too few repeated pairs for a vocabulary of this size.
    """
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[AddedToken(END_OF_TEXT, special=True, normalized=False)],
    )
    backend.train_from_iterator(texts, trainer=trainer)
    check_reached_size(backend.get_vocab_size(), vocab_size)
    return Tokenizer(backend)


def check_reached_size(reached: int, vocab_size: int) -> None:
    """Raise a `SettingError` if a training on too little text has `reached` fewer tokens than it was to have."""
    if reached < vocab_size:
        raise SettingError(
            "vocab_size",
            f"the corpus is too small for {vocab_size} tokens; set tokenizer.vocab_size={reached} or less, or add text",
        )


def load_tokenizer(path: str | Path, lossless: bool = False) -> Tokenizer:
    """Load a tokenizer from a model directory, a tokenizer directory, the output of a run or a `tokenizer.json`.

    Raises:
        NoTokenizerError: the directory has no tokenizer.
        InputError: the path does not exist, or its tokenizer is broken or of a kind that is not supported; with
            `lossless`, also if it is an encoder's, which cannot give back a text as it was.
    """
    place = _located(Path(path))
    tokenizer = _load(place)[0]
    if lossless and tokenizer.kind != "bpe":
        raise InputError(f"{place}: {LOSSY[tokenizer.kind]}")
    return tokenizer


def _load(place: Path) -> tuple[Tokenizer, TokenizerFiles]:
    directory, file = (place, None) if place.is_dir() else (place.parent, place)
    files = read_tokenizer_files(directory, file)
    with library_errors(place / TOKENIZER_FILE if (place / TOKENIZER_FILE).exists() else place):
        backend = _backend(files.content)
        backend.add_tokens(files.added)
        if files.kind != "bpe":
            backend.post_processor = backend.post_processor or pair_template(backend, files.special_tokens)
        elif any(files.around):
            first, last = files.around
            backend.post_processor = processors.TemplateProcessing(
                single=[*([first] if first else []), "$A", *([last] if last else [])],
                special_tokens=[(token, backend.token_to_id(token)) for token in {*files.around} if token],
            )
    largest = max(backend.get_vocab(with_added_tokens=True).values(), default=0)
    if largest >= MAX_TOKEN_ID:
        raise InputError(f"{place}: the token id {largest} is not one of 0 to {MAX_TOKEN_ID - 1}")
    if files.kind != "bpe":
        return EncoderTokenizer(backend, files.kind, files.special_tokens), files
    characters = byte_characters()
    missing = [byte for byte in _UTF8_BYTES if backend.token_to_id(characters[byte]) is None]
    if missing:
        say(f"{place}: bytes of UTF-8 without a token: {len(missing)}; characters with them are left out of a text")
    if backend.num_special_tokens_to_add(is_pair=False):
        say(f"{place}: its post_processor puts special tokens around a text, which is not done here")
    eos, special = _end_token(directory, backend, files), files.special_tokens
    if special.get("eos_token", eos) != eos:  # a token of the vocabulary stands for a missing default
        special["eos_token"] = eos
        backend.add_special_tokens([eos])
    return Tokenizer(backend, eos, special), files


def _backend(content: dict[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer of a `tokenizer.json`. Its vocabulary, which is large, does not become text again."""
    model = content["model"]
    small = {**content, "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}
    backend = tokenizers.Tokenizer.from_str(json.dumps(small))
    if model["type"] == "WordPiece":
        backend.model = models.WordPiece(**{key: value for key, value in model.items() if key != "type"})
        return backend
    if model["type"] == "Unigram":
        backend.model = models.Unigram(model["vocab"], model["unk_id"], model["byte_fallback"])
        return backend
    options = ("unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "ignore_merges")
    given = {option: model[option] for option in options if model.get(option) is not None}
    backend.model = models.BPE(vocab=model["vocab"], merges=model["merges"], **given)
    return backend


def _end_token(directory: Path, backend: tokenizers.Tokenizer, files: TokenizerFiles) -> str:
    """The end of text: `eos_token`. If no file names it, the model's first special end token, else `<|endoftext|>`.

    The default of a class may be missing in the vocabulary. Then it is the model's first end token.
    """
    vocabulary = files.content["model"]["vocab"]
    named = files.special_tokens.get("eos_token")
    if named is not None and (files.names_eos or named in vocabulary):
        return named
    special = {number: token.content for number, token in backend.get_added_tokens_decoder().items() if token.special}
    known = {number: token for token, number in vocabulary.items()} if named is not None else special
    return next((known[number] for number in listed_end_tokens(directory) if number in known), named or END_OF_TEXT)


def copy_tokenizer(source: Path, target: Path, name_eos: bool = True) -> None:
    """Write the tokenizer of the directory `source`, with its chat templates, to the directory `target`.

    It is written as `tokenizer.json`, which holds all tokens, and `tokenizer_config.json`, whatever files it came from.
    A `tokenizer.json` that holds all of it is copied byte by byte. With `name_eos` the copy names its end of text, also
    if the source does not; without, it is a copy for a model whose files list the end tokens.
    """
    place = _located(source)
    tokenizer, files = _load(place)
    config = {key: value for key, value in files.config.items() if key not in _NOT_COPIED}
    if files.extra_special_tokens:
        config["extra_special_tokens"] = files.extra_special_tokens
    config |= tokenizer.special_tokens | ({"eos_token": tokenizer.eos_token} if name_eos else {})
    tokenizer.save(target, config)
    if not place.is_dir():
        return
    copied = [*template_files(place)]
    if (place / TOKENIZER_FILE).is_file() and _is_complete(place / TOKENIZER_FILE, tokenizer):
        copied.append(place / TOKENIZER_FILE)
    for file in copied:
        copy = target / file.relative_to(place)
        with storage_errors(copy):
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)


def _is_complete(file: Path, tokenizer: Tokenizer) -> bool:
    """Whether the `tokenizer.json` alone is the same tokenizer, so that its bytes can be copied."""
    with library_errors(file):
        alone = tokenizers.Tokenizer.from_file(str(file))
        alone.no_truncation()
        alone.no_padding()
        return bool(alone.to_str() == tokenizer.backend.to_str())


def _located(path: Path) -> Path:
    """`path`, or the tokenizer in it if `path` is the output of a run."""
    if not path.exists():
        raise InputError(f"{path}: there is no such tokenizer file or directory")
    inside = (path / "tokenizer" / TOKENIZER_FILE).is_file() and not (path / TOKENIZER_FILE).is_file()
    return path / "tokenizer" if inside else path
