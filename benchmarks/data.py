"""The token files that every contestant reads: flat uint16, named as NeoLM's shards are."""

from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path

from workers import Failed


def write_tokens(directory: Path, split: str, tokens: Sequence[int]) -> None:
    """Write one split, little-endian."""
    words = array("H", tokens)
    if sys.byteorder == "big":
        words.byteswap()
    with (directory / f"{split}-00000.bin").open("wb") as file:
        words.tofile(file)


def write_random_tokens(directory: Path, vocab_size: int, count: int) -> None:
    """Write both splits, of ids at random: speed does not depend on what they say."""
    source = random.Random(1)
    write_tokens(directory, "train", source.choices(range(vocab_size), k=count))
    write_tokens(directory, "validation", source.choices(range(vocab_size), k=count // 10))


def write_characters(directory: Path, path: Path) -> int:
    """Write a text as the numbers of its characters in sorted order, the first nine tenths to train on.

    Returns how many different characters there are. The text may be compressed with zstd.

    Raises:
        Failed: there is no such file.
    """
    if not path.is_file():
        raise Failed(f"{path}: no such file; give the text of tiny Shakespeare with --text")
    raw = path.read_bytes()
    if path.suffix == ".zst":
        import zstandard

        raw = zstandard.ZstdDecompressor().decompressobj().decompress(raw)
    text = raw.decode("utf-8")
    numbers = {character: number for number, character in enumerate(sorted(set(text)))}
    ids = [numbers[character] for character in text]
    cut = int(len(ids) * 0.9)
    write_tokens(directory, "train", ids[:cut])
    write_tokens(directory, "validation", ids[cut:])
    return len(numbers)
