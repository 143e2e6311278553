"""Tokenizers of encoders: BERT's WordPiece and ALBERT's Unigram.

They change a text (lowercase, accents, spaces, unknown characters), so that ids do not give back its bytes. Text that
spells a special token is plain text, as for a byte-level BPE.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Literal

import tokenizers
from tokenizers import Regex, pre_tokenizers, processors

from neolm.core.errors import InputError
from neolm.tokenizer.byte_level_tokenizer import Tokenizer
from neolm.tokenizer.encoder_pipeline import PREFIX, published_class

LOSSY = {
    kind: f"a {name} tokenizer, as encoders have, does not keep a text as it is; models that write texts and bits per "
    "byte need a byte-level BPE"
    for kind, name in (("wordpiece", "WordPiece"), ("unigram", "Unigram"))
}
_BYTE = re.compile("<0x[0-9A-F]{2}>")
# Pieces that ALBERT's code (create_pretraining_data.py) takes for the continuation of a word.
_CONTINUES = re.compile(r"""[A-Za-z]|[A-Za-z!"#$%&()*+,\-./:;?@[\\\]^_`{|}~]{2,}""")


class EncoderTokenizer(Tokenizer):
    """A tokenizer of an encoder. The end of text is [SEP], which also separates documents.

    `encode` returns ids without special tokens; `with_special` puts them around one text or two.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        kind: Literal["wordpiece", "unigram"],
        special_tokens: Mapping[str, str],
    ) -> None:
        """Wrap `backend`; `special_tokens` has special tokens by name, such as `mask_token`.

        Raises:
            InputError: there is no sep_token in the vocabulary.
        """
        self.kind = kind
        if "sep_token" not in special_tokens:
            raise InputError("tokenizer: the vocabulary has no [SEP], which the input of an encoder needs")
        super().__init__(backend, special_tokens["sep_token"], special_tokens)

    @cached_property
    def _text_backend(self) -> tokenizers.Tokenizer:
        """A copy that splits what spells a special token, or a byte's, behind its first character.

        Without that, a Unigram finds special tokens among its pieces, in the normalised text: `<unk>` in "<UNK>".
        """
        copy = tokenizers.Tokenizer.from_str(self.backend.to_str())
        copy.encode_special_tokens = True
        special = copy.get_added_tokens_decoder().values()
        spelled = {token.content for token in special if token.special} | set(self.special_tokens.values())
        pairs = sorted((re.escape(text[0]), re.escape(text[1:])) for text in spelled if len(text) > 1)
        if self._has_bytes:
            pairs.append(("<", "0x[0-9A-F]{2}>"))
        places = "|".join(f"(?<={first})(?={rest})" for first, rest in pairs)
        split = pre_tokenizers.Split(Regex(places), "isolated")
        copy.pre_tokenizer = pre_tokenizers.Sequence([copy.pre_tokenizer, split])
        return copy

    def _starts_word(self, token: str) -> bool:
        """WordPiece marks continuations. Unigram as in ALBERT's code: only Latin letters continue a word."""
        if self.kind == "wordpiece":
            return not token.startswith(PREFIX)
        if self._has_bytes and _BYTE.fullmatch(token):
            return False
        return not _CONTINUES.fullmatch(token)

    @cached_property
    def _has_bytes(self) -> bool:
        return self.kind == "unigram" and self.backend.token_to_id("<0x00>") is not None

    def min_tokens(self, text: str) -> int:
        """0: spaces, accents and unknown characters can be left out, and an unknown word is one token."""
        return 0

    def encode_bytes(self, data: bytes) -> list[int]:
        """Token ids of UTF-8. Other bytes are read as U+FFFD."""
        return self.encode(data.decode("utf-8", "replace"))

    def decode(self, ids: Iterable[int]) -> str:
        """A readable text of `ids`, as `transformers` decodes them. Ids beyond the vocabulary are skipped."""
        ids = list(ids)
        if ids and min(ids) < 0:
            raise self._unknown_id(min(ids))
        return str(self.backend.decode([i for i in ids if i < self.size], skip_special_tokens=False))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Refused with `InputError`, because the bytes of the text are lost."""
        raise InputError(f"tokenizer: {LOSSY[self.kind]}")

    def _class_keys(self) -> dict[str, Any]:
        return published_class(json.loads(self.backend.to_str()))


def pair_template(backend: tokenizers.Tokenizer, special_tokens: Mapping[str, str]) -> processors.PostProcessor | None:
    """[CLS] A [SEP] B [SEP] with token types 0 and 1, for `transformers`; None without such tokens."""
    cls, sep = special_tokens.get("cls_token"), special_tokens.get("sep_token")
    if cls is None or sep is None:
        return None
    return processors.TemplateProcessing(
        single=[cls, "$A", sep],
        pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
        special_tokens=[(cls, backend.token_to_id(cls)), (sep, backend.token_to_id(sep))],
    )
