"""Compressors: what the commands give, and a dictionary that helps."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolm.evaluation.baselines import spread_sample, train_dictionary, xz_size, xz_sizes, zstd_sizes
from tests.conftest import sample_text

DOCUMENTS = [sample_text(seed).encode() for seed in range(1000, 1010)]
TRAINING = [sample_text(seed).encode() for seed in range(60)]


@pytest.mark.skipif(shutil.which("xz") is None, reason="needs the xz command")
@pytest.mark.parametrize("data", [b"", b"a", DOCUMENTS[0]])
def test_xz_equals_the_command(data: bytes) -> None:
    command = subprocess.run(["xz", "-9e", "-c", "-T1"], input=data, capture_output=True, check=True)
    assert xz_size(data) == len(command.stdout)


def test_a_dictionary_helps_on_texts_of_its_kind() -> None:
    dictionary = train_dictionary(TRAINING, 8192)
    assert dictionary is not None
    assert len(dictionary.as_bytes()) <= 8192
    with_it, without, xz = zstd_sizes(DOCUMENTS, dictionary), zstd_sizes(DOCUMENTS), xz_sizes(DOCUMENTS)
    assert sum(with_it) < 0.9 * sum(without)
    assert all(a < b for a, b in zip(with_it, xz, strict=True))
    assert xz_size(b"".join(DOCUMENTS)) < sum(xz)


@pytest.mark.parametrize("training", [[b"a tiny text"], [b"", b"the sea " * 3], [b"x" * 5000], TRAINING[:3]])
@pytest.mark.parametrize("size", [1024, 2**20])
def test_little_training_text_is_its_own_dictionary(training: list[bytes], size: int) -> None:
    dictionary = train_dictionary(training, size)
    assert dictionary is not None
    assert 0 < len(dictionary.as_bytes()) <= size
    assert all(zstd_sizes([b"", *DOCUMENTS[:2], training[-1]], dictionary))


def test_without_training_text_there_is_no_dictionary() -> None:
    assert train_dictionary([], 1024) is None
    assert train_dictionary([b"", b""], 1024) is None


@given(st.lists(st.binary(max_size=20), max_size=30), st.integers(1, 200), st.integers(0, 5))
def test_a_spread_sample_is_even_and_just_large_enough(items: list[bytes], limit: int, seed: int) -> None:
    chosen = spread_sample(items, len, limit, lambda item: item, seed)
    total = sum(map(len, items))
    assert sum(map(len, chosen)) >= min(limit, total)
    if total > limit:
        assert sum(map(len, chosen)) - len(chosen[-1]) < limit  # without the last it is not enough
    assert spread_sample(items[::-1], len, limit, lambda item: item, seed) == chosen
    assert spread_sample(items, len, 2 * limit, lambda item: item, seed)[: len(chosen)] == chosen
    assert sorted(spread_sample(items, len, None, lambda item: item, seed)) == sorted(items)
