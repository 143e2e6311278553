"""Texts with [MASK] in place of words, as an encoder reads them, and with the masks filled in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from neolm.core.errors import InputError, shortened
from neolm.tokenizer.tokenizer import Tokenizer

MASK = "[MASK]"  # is read as the mask token, however the tokenizer spells its own
_CONTINUATION, _SPACE = "##", "▁"  # of a word in WordPiece; in front of a word in Unigram


@dataclass(frozen=True)
class MaskedText:
    """A text as the model reads it, with [CLS] and [SEP]."""

    parts: Sequence[str]
    """The text around the masks: one more than masks."""
    ids: Sequence[int]
    masks: Sequence[int]
    """Positions of the masks in `ids`."""

    def filled(self, tokens: Sequence[str]) -> str:
        """The text with a token, as the vocabulary spells it, in place of each mask."""
        text = self.parts[0]
        for token, following in zip(tokens, self.parts[1:], strict=True):
            if token.startswith(_CONTINUATION) and token != _CONTINUATION:
                text = text.rstrip() + token[len(_CONTINUATION) :]
            elif token.startswith(_SPACE):
                text += ("" if not text or text[-1].isspace() else " ") + token[len(_SPACE) :]
            else:
                text += token
            text += following
        return text


def masked_text(tokenizer: Tokenizer, text: str, limit: int) -> MaskedText:
    """Read `text`, in which the mask token as the tokenizer spells it, or `[MASK]`, is a mask.

    Other text is plain: nothing else that it spells becomes a special token. A Unigram puts a space in front of every
    text; behind a mask it is taken away again where the text has none, as in `[MASK].`.

    Args:
        tokenizer: The tokenizer of an encoder.
        text: Any text.
        limit: Tokens that the model can read.

    Raises:
        InputError: the text is empty, has no mask, or is too long; or the tokenizer has no mask token.
    """
    mask = tokenizer.require_token("mask")
    if not text.strip():
        raise InputError("the text is empty")
    spellings = dict.fromkeys([tokenizer.special_tokens["mask_token"], MASK])
    parts = re.split("|".join(map(re.escape, spellings)), text)
    if len(parts) == 1:
        raise InputError(f"there is no {MASK} in {shortened(text, 60)}; write it in place of a word")
    ids: list[int] = []
    masks: list[int] = []
    for number, (part, encoded) in enumerate(
        zip(parts, tokenizer.encode_batch([part.strip() for part in parts]), strict=True)
    ):
        if number:
            masks.append(1 + len(ids))
            ids.append(mask)
        ids += _continued(tokenizer, encoded) if number and part and not part[0].isspace() else encoded
    if len(ids) + 2 > limit:
        raise InputError(f"{len(ids) + 2:,} tokens are more than the {limit:,} that the model reads; shorten the text")
    return MaskedText(parts, tokenizer.with_special(ids)[0], masks)


def _continued(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """The tokens of a text without the space that a Unigram puts in front of it, if the vocabulary allows it."""
    first = tokenizer.id_to_token(ids[0]) if ids and tokenizer.kind == "unigram" else ""
    if not first.startswith(_SPACE):
        return ids
    bare = tokenizer.backend.token_to_id(first[len(_SPACE) :])
    return ids[1:] if first == _SPACE else ids if bare is None else [bare, *ids[1:]]
