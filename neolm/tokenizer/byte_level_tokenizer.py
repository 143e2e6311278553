"""The class of a tokenizer: byte-level BPE (Sennrich et al. 2016; byte alphabet of Radford et al. 2019).

Text that spells a special token is encoded as plain text by default, as in OpenAI's encoder, so that a document cannot
contain an end of text. `decode_bytes(encode_bytes(b)) == b` for every byte string. GPT-NeoX's tokenizer normalises
text to NFC, so there this holds for NFC text.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers
from numpy.typing import NDArray

from neolm.core.errors import InputError, NeoLMError
from neolm.core.files import storage_errors, write_json, write_text
from neolm.core.model_files import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE

END_OF_TEXT = "<|endoftext|>"
_SPACES = ("Ġ", "Ċ", "ĉ", "č")  # a space, a line feed, a tab and a carriage return as byte_characters spells them
_NEEDS = {
    "pad": "a batch of texts",
    "unk": "a text with unknown characters",
    "cls": "the input of an encoder",
    "sep": "the input of an encoder",
    "mask": "masked language modelling",
}


def byte_characters() -> dict[int, str]:
    """GPT-2's printable character for each byte: the byte itself if it is printable Latin-1, else 256 + n in order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in table)
    return table | {byte: chr(256 + n) for n, byte in enumerate(others)}


class Tokenizer:
    """A tokenizer. `tokenizer(text)` returns token ids, `len(tokenizer)` the size of the vocabulary.

    A byte-level BPE (`kind` is "bpe") is lossless; its subclass `EncoderTokenizer` ("wordpiece", "unigram") is not.
    `backend` is the wrapped `tokenizers.Tokenizer`.
    """

    kind: Literal["bpe", "wordpiece", "unigram"] = "bpe"

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

    @property
    def _text_backend(self) -> tokenizers.Tokenizer:
        """The backend for plain text, which never becomes a special token."""
        return self.backend

    @cached_property
    def size(self) -> int:
        """Number of tokens: the largest id plus one."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def text_size(self) -> int:
        """`size` without the special tokens at its end, which text becomes only where special tokens are read."""
        special = {number for number, token in self.backend.get_added_tokens_decoder().items() if token.special}
        return next((number + 1 for number in range(self.size - 1, -1, -1) if number not in special), 0)

    @property
    def pad_token_id(self) -> int | None:
        """Id of the token that fills rows of a batch; None, as for the tokens below, if the vocabulary has none."""
        return self._named_id("pad")

    @property
    def unk_token_id(self) -> int | None:
        """Id of the token for what the vocabulary does not have."""
        return self._named_id("unk")

    @property
    def cls_token_id(self) -> int | None:
        """Id of the token in front of an encoder's input."""
        return self._named_id("cls")

    @property
    def sep_token_id(self) -> int | None:
        """Id of the token behind each text of an encoder's input."""
        return self._named_id("sep")

    @property
    def mask_token_id(self) -> int | None:
        """Id of the token that masked language modelling puts in place of others."""
        return self._named_id("mask")

    def _named_id(self, name: str) -> int | None:
        token = self.special_tokens.get(f"{name}_token")
        return None if token is None else self.backend.token_to_id(token)

    def require_token(self, name: str) -> int:
        """The id of the special token `name` (pad, unk, cls, sep or mask); `InputError` if there is none."""
        token_id = self._named_id(name)
        if token_id is None:
            raise InputError(
                f"tokenizer: the vocabulary has no [{name.upper()}], which {_NEEDS[name]} needs "
                "(use the tokenizer of an encoder, or train one: tokenizer.kind=wordpiece or unigram)"
            )
        return token_id

    @cached_property
    def special_ids(self) -> NDArray[np.int64]:
        """Sorted ids of special tokens, and ids without a token: never masked, nor drawn as a random token."""
        special = {number for number, token in self.backend.get_added_tokens_decoder().items() if token.special}
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        special |= {vocabulary[token] for token in self.special_tokens.values() if token in vocabulary}
        absent = set(range(self.size)) - set(vocabulary.values())
        return np.array(sorted(special | absent | {self.eos_token_id}), np.int64)

    @cached_property
    def word_starts(self) -> NDArray[np.bool_]:
        """Whether a token begins a word, by id (V,); special tokens do. The first token of a text always does."""
        starts = np.ones(self.size, np.bool_)
        for token, number in self.backend.get_vocab(with_added_tokens=True).items():
            starts[number] = self._starts_word(token)
        starts[self.special_ids] = True
        return starts

    def _starts_word(self, token: str) -> bool:
        return token.startswith(_SPACES)

    def with_special(self, a: Sequence[int], b: Sequence[int] | None = None) -> tuple[list[int], list[int]]:
        """An encoder's input of one text or two: ids of `[CLS] A [SEP] B [SEP]`, and token types, 0 and for B 1.

        Raises:
            InputError: the vocabulary has no such tokens.
        """
        cls, sep = self.require_token("cls"), self.require_token("sep")
        second = [] if b is None else [*b, sep]
        return [cls, *a, sep, *second], [0] * (len(a) + 2) + [1] * len(second)

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
        backend = self._special_backend if special else self._plain_backend()
        with library_errors("text", "the tokenizer cannot encode it"):
            encodings = backend.encode_batch_fast(list(map(without_surrogates, texts)), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of `text`, as `encode` gives them, and for each the characters of `text` that it stands for.

        The characters are the index of the first and of the one after the last. They may include white space. Several
        tokens may stand for one character, and a token for none.
        """
        with library_errors("text", "the tokenizer cannot encode it"):
            encoding = self._plain_backend().encode(without_surrogates(text), add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def _plain_backend(self) -> tokenizers.Tokenizer:
        """The backend for plain text, also if a caller made it read special tokens."""
        backend = self._text_backend
        if not backend.encode_special_tokens:
            backend.encode_special_tokens = True
        return backend

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
        kept = {"clean_up_tokenization_spaces": False, **given, **self._class_keys()}
        write_json(directory / TOKENIZER_CONFIG_FILE, kept)

    def _class_keys(self) -> dict[str, Any]:
        """Keys of `tokenizer_config.json` that say which class of `transformers` reads `tokenizer.json`."""
        return {"tokenizer_class": "PreTrainedTokenizerFast"}


def without_surrogates(text: str) -> str:
    """`text` with `?` for each lone surrogate, which UTF-8 cannot hold; of the same length."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


@contextlib.contextmanager
def library_errors(place: Path | str, problem: str = "not a tokenizer that can be read") -> Iterator[None]:
    """Errors of the library `tokenizers`, which are plain `Exception` or a panic, as `InputError`."""
    try:
        yield
    except BaseException as error:
        is_library = isinstance(error, Exception) and not isinstance(error, NeoLMError)
        if not is_library and type(error).__name__ != "PanicException":
            raise
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        raise InputError(f"{place}: {problem} ({reason[:300]})") from None
