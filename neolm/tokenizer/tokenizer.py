"""Byte-level BPE with the `tokenizers` library (Sennrich et al. 2016; byte alphabet of Radford et al. 2019).

Supported files: `tokenizer.json` (GPT-2, GPT-Neo, GPT-NeoX), or GPT-2's `vocab.json` with `merges.txt`, which OpenAI
also publishes as `encoder.json` with `vocab.bpe`. Text that spells a special token is encoded as plain text by default,
as in OpenAI's encoder, so that a document cannot contain an end of text.

`decode_bytes(encode_bytes(b)) == b` for every byte string. GPT-NeoX's tokenizer normalises text to NFC, so there this
holds for NFC text.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from neolm.core.errors import InputError, SettingError
from neolm.core.files import storage_errors, write_json, write_text
from neolm.core.model_files import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, listed_end_tokens, template_files
from neolm.core.progress import say
from neolm.tokenizer.byte_level import MAX_TOKEN_ID
from neolm.tokenizer.directory import TokenizerFiles, read_tokenizer_files

END_OF_TEXT = "<|endoftext|>"
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


def byte_characters() -> dict[int, str]:
    """GPT-2's printable character for each byte: the byte itself if it is printable Latin-1, else 256 + n in order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in table)
    return table | {byte: chr(256 + n) for n, byte in enumerate(others)}


class Tokenizer:
    """A lossless tokenizer. `tokenizer(text)` returns token ids, `len(tokenizer)` the size of the vocabulary.

    `backend` is the wrapped `tokenizers.Tokenizer`.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        eos_token: str = END_OF_TEXT,
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        """Wrap `backend`; `special_tokens` has special tokens by name, such as `pad_token`, for chat templates."""
        self.backend = backend
        self.eos_token = eos_token
        if special_tokens is None:
            special_tokens = dict.fromkeys(("bos_token", "eos_token", "unk_token"), eos_token)
        self.special_tokens = dict(special_tokens)
        eos_token_id = backend.token_to_id(eos_token)
        if eos_token_id is None:
            raise InputError(f"tokenizer: the end-of-text token '{eos_token}' is missing in its vocabulary")
        self.eos_token_id: int = eos_token_id
        backend.encode_special_tokens = True  # as plain text
        backend.no_truncation()
        backend.no_padding()

    @cached_property
    def _special_backend(self) -> tokenizers.Tokenizer:
        """A copy that reads special tokens in a text: that is a setting, which threads share, and no argument."""
        copy = tokenizers.Tokenizer.from_str(self.backend.to_str())
        copy.encode_special_tokens = False
        return copy

    @cached_property
    def size(self) -> int:
        """Number of tokens: the largest id plus one."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def text_size(self) -> int:
        """`size` without the special tokens at its end, which text becomes only where special tokens are read."""
        special = {number for number, token in self.backend.get_added_tokens_decoder().items() if token.special}
        return next((number + 1 for number in range(self.size - 1, -1, -1) if number not in special), 0)

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"Tokenizer({self.size} tokens, eos_token={self.eos_token!r})"

    def __call__(self, text: str, special: bool = False) -> list[int]:
        """Token ids of `text`. See `encode`."""
        return self.encode(text, special)

    def token_to_id(self, token: str) -> int:
        """The id of a token as it is spelled in the vocabulary, where `Ġ` is a space; `InputError` if there is none."""
        token_id = self.backend.token_to_id(token)
        if token_id is None:
            raise InputError(f"token {token!r} is not in the vocabulary; tokenizer.encode splits any text into tokens")
        return int(token_id)

    def id_to_token(self, token_id: int) -> str:
        """The token with this id as it is spelled in the vocabulary; `InputError` if there is none. See `decode`."""
        token = self.backend.id_to_token(token_id) if 0 <= token_id < self.size else None
        if token is None:
            raise self._unknown_id(token_id)
        return str(token)

    def _unknown_id(self, token_id: int) -> InputError:
        return InputError(f"token id {token_id} is not in the vocabulary (ids 0 to {self.size - 1})")

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Token ids of `text`. With `special`, text such as `<|endoftext|>` becomes the token that it spells."""
        return self.encode_batch([text], special)[0]

    def encode_batch(self, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        """Token ids of each text, computed on all cores. Lone surrogates become `?`, because UTF-8 cannot hold them.

        Thread-safe; threads do not wait for each other.
        """
        clean = [text if text.isascii() else text.encode("utf-8", "replace").decode() for text in texts]
        backend = self._special_backend if special else self.backend
        if not special and not backend.encode_special_tokens:  # set by a caller
            backend.encode_special_tokens = True
        with _library_errors("text", "the tokenizer cannot encode it"):
            encodings = backend.encode_batch_fast(clean, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def min_tokens(self, text: str) -> int:
        """A lower bound of the number of tokens of `text`, from its size, without encoding it."""
        longest = self._max_token_bytes
        size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        return -(-size // longest) if longest is not None else 0

    @cached_property
    def _max_token_bytes(self) -> int | None:
        """Most bytes of text that one token stands for; None if there is no limit."""
        added = self.backend.get_added_tokens_decoder().values()
        if any(token.lstrip or token.rstrip for token in added):  # they also stand for the spaces beside them
            return None
        if not {bytes([byte]) for byte in range(256)} <= set(self._token_bytes):  # other bytes are left out
            return None
        # NFC can make a text shorter, at most from 7 bytes to 2 (U+1FBE U+0308 U+0341 to U+0390).
        return max(map(len, self._token_bytes)) * (1 if self.backend.normalizer is None else 4)

    def encode_bytes(self, data: bytes) -> list[int]:
        """Token ids of any bytes. Bytes that are not UTF-8 become single-byte tokens."""
        ids: list[int] = []
        for number, part in enumerate(re.split("([\udc80-\udcff])", data.decode("utf-8", "surrogateescape"))):
            ids += [self._byte_id(ord(part) - 0xDC00)] if number % 2 else self.encode(part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`. Bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of `ids`. Ids of padding rows beyond the vocabulary are skipped, negative ones refused."""
        ids, table = list(ids), self._token_bytes
        if ids and min(ids) < 0:
            raise self._unknown_id(min(ids))
        return b"".join(table[token_id] for token_id in ids if token_id < len(table))

    @cached_property
    def _token_bytes(self) -> list[bytes]:
        """The bytes of each token, by id."""
        byte_of = {character: byte for byte, character in byte_characters().items()}
        added = {i: token.content for i, token in self.backend.get_added_tokens_decoder().items()}
        table = [b""] * self.size
        for token, i in self.backend.get_vocab(with_added_tokens=True).items():
            if i in added:
                table[i] = added[i].encode()
            else:
                table[i] = bytes(byte_of[c] for c in token) if all(c in byte_of for c in token) else token.encode()
        return table

    def _byte_id(self, byte: int) -> int:
        token_id = self.backend.token_to_id(byte_characters()[byte])
        if token_id is None:
            raise InputError(f"tokenizer: the vocabulary has no token for the byte 0x{byte:02x}, which is not UTF-8")
        return int(token_id)

    def save(self, directory: Path, config: Mapping[str, Any] | None = None) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which `transformers` can load.

        `config` has keys for `tokenizer_config.json`; the default names the special tokens.
        """
        with storage_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / TOKENIZER_FILE, self.backend.to_str(pretty=True))
        given = {**self.special_tokens, "eos_token": self.eos_token} if config is None else config
        kept = {"clean_up_tokenization_spaces": False, **given, "tokenizer_class": "PreTrainedTokenizerFast"}
        write_json(directory / TOKENIZER_CONFIG_FILE, kept)


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
    reached = backend.get_vocab_size()
    if reached < vocab_size:
        raise SettingError(
            "vocab_size",
            f"the corpus is too small for {vocab_size} tokens; set tokenizer.vocab_size={reached} or less, or add text",
        )
    return Tokenizer(backend)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Load a tokenizer from a model directory, a tokenizer directory, the output of a run or a `tokenizer.json`.

    Raises:
        NoTokenizerError: the directory has no tokenizer.
        InputError: the path does not exist, or its tokenizer is broken or of a kind that is not supported.
    """
    return _load(_located(Path(path)))[0]


def _load(place: Path) -> tuple[Tokenizer, TokenizerFiles]:
    directory, file = (place, None) if place.is_dir() else (place.parent, place)
    files = read_tokenizer_files(directory, file)
    with _library_errors(place / TOKENIZER_FILE if (place / TOKENIZER_FILE).exists() else place):
        backend = _backend(files.content)
        backend.add_tokens(files.added)
        if any(files.around):
            first, last = files.around
            backend.post_processor = processors.TemplateProcessing(
                single=[*([first] if first else []), "$A", *([last] if last else [])],
                special_tokens=[(token, backend.token_to_id(token)) for token in {*files.around} if token],
            )
    largest = max(backend.get_vocab(with_added_tokens=True).values(), default=0)
    if largest >= MAX_TOKEN_ID:
        raise InputError(f"{place}: the token id {largest} is not one of 0 to {MAX_TOKEN_ID - 1}")
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


@contextlib.contextmanager
def _library_errors(place: Path | str, problem: str = "not a tokenizer that can be read") -> Iterator[None]:
    """Errors of the library `tokenizers`, which are plain `Exception` or a panic, as `InputError`."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        raise InputError(f"{place}: {problem} ({reason[:300]})") from None


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
    with _library_errors(file):
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
