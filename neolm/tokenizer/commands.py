"""The command `neolm tokenizer encode`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer


def encode(
    tokenizer: Annotated[str, typer.Argument(metavar="TOKENIZER", help="A model or tokenizer directory, or its file.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text; - reads standard input.")],
) -> None:
    """Print the tokens of a text: an id and its text on each line."""
    from neolm.tokenizer.tokenizer import load_tokenizer

    loaded = load_tokenizer(tokenizer)
    for token_id in loaded.encode_bytes(read_text(text)):
        token = loaded.decode([token_id]) if loaded.kind == "bpe" else loaded.id_to_token(token_id)
        print(f"{token_id}\t{json.dumps(token, ensure_ascii=False)}")


def read_text(argument: str) -> bytes:
    """The text of a command-line argument, or standard input for `-`."""
    return sys.stdin.buffer.read() if argument == "-" else argument.encode("utf-8", "surrogateescape")
