"""Token files for all contestants: flat uint16, with the file names of NeoLM's shards."""

from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path

from workers import BenchmarkError


def write_tokens(directory: Path, split: str, tokens: Sequence[int]) -> None:
    """Write one split, little-endian."""
    values = array("H", tokens)
    if sys.byteorder == "big":
        values.byteswap()
    with (directory / f"{split}-00000.bin").open("wb") as file:
        values.tofile(file)


def write_random_tokens(directory: Path, vocab_size: int, count: int) -> None:
    """Write both splits with random ids: speed does not depend on the content."""
    source = random.Random(1)
    write_tokens(directory, "train", source.choices(range(vocab_size), k=count))
    write_tokens(directory, "validation", source.choices(range(vocab_size), k=count // 10))


def write_characters(directory: Path, path: Path) -> int:
    """Write a text with one id per character and return the number of different characters.

    Ids follow the sorted order of the characters. The first 90% of the text is the training split.
    The file may be compressed with zstd.

    Raises:
        BenchmarkError: the file does not exist.
    """
    if not path.is_file():
        raise BenchmarkError(f"{path}: no such file. Give the path of the tiny Shakespeare text: --text FILE")
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
