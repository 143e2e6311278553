"""The order of a mixture, the streams of sources, and the settings."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from neolm.core.errors import InputError, SettingError
from neolm.corpus.documents import Document
from neolm.data.batch_sizes import BatchSizes
from neolm.data.mixture import MixedBatches, divide, shared_out
from neolm.data.mixture_config import PRESETS, MixtureConfig
from neolm.data.shards import TokenShards, write_shards
from neolm.tokenizer.tokenizer import Tokenizer, train_tokenizer

T = 16
WEIGHTS = st.lists(st.integers(1, 2**20), min_size=1, max_size=30)


@settings(max_examples=60)
@given(WEIGHTS, st.integers(0, 200), st.integers(1, 200))
def test_each_example_has_one_place_in_one_source(weights: list[int], start: int, size: int) -> None:
    source, number = divide(np.arange(start, start + size), np.array(weights))
    before, after = shared_out(start, weights), shared_out(start + size, weights)
    for place in range(len(weights)):
        assert number[source == place].tolist() == [*range(before[place], after[place])]


@settings(max_examples=60)
@given(WEIGHTS, st.integers(0, 2**36))
def test_no_source_is_off_by_more_than_the_number_of_halvings(weights: list[int], examples: int) -> None:
    counts = shared_out(examples, weights)
    assert sum(counts) == examples
    for number, weight in zip(counts, weights, strict=True):
        assert abs(number - examples * weight / sum(weights)) <= math.ceil(math.log2(len(weights))) + 1e-3
    source, place = divide(np.array([examples]), np.array(weights))
    assert place[0] == counts[source[0]]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(iter(["the sea is water and the day is cold " * 20]), 270)


SIZES = {"a": 40, "b": 9, "tiny": 1}


@pytest.fixture(scope="module")
def shards(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    """Documents of three sources, whose order is mixed, in several files; `tiny` is shorter than a sequence."""
    place = tmp_path_factory.mktemp("shards")
    names = sorted(((n * 7919) % 101, source, n) for source, documents in SIZES.items() for n in range(documents))
    documents = [
        Document(f"{source}{n}", f"{source}{n}", f"{source} {n} sea day {'cold ' * (n % 7)}", source, "l", "{}")
        for _, source, n in names
    ]
    write_shards(documents, tokenizer, place, "train", shard_tokens=300)
    return TokenShards(place, "train", tokenizer.size)


def streams(shards: TokenShards, tokenizer: Tokenizer) -> dict[str, tuple[list[int], list[str]]]:
    """The oracle: tokens and owners of each source, document by document."""
    found: dict[str, tuple[list[int], list[str]]] = {}
    for table, base in zip(shards.index_tables("id", "source", "start", "tokens"), shards.file_starts, strict=False):
        for row in table.to_pylist():
            tokens, owners = found.setdefault(row["source"], ([], []))
            tokens += shards.read(base + row["start"], row["tokens"]).tolist()
            owners += [row["id"]] * row["tokens"]
    return found


def mixed(shards: TokenShards, size: int = 8, seed: int = 1, **settings: object) -> MixedBatches:
    return MixedBatches(shards, T, BatchSizes(size), seed, MixtureConfig.model_validate(settings))


def test_windows_are_those_of_the_sources_and_an_epoch_shows_each_once(
    shards: TokenShards, tokenizer: Tokenizer
) -> None:
    oracle = streams(shards, tokenizer)
    assert len(shards.file_starts) > 3
    data = mixed(shards, weights={"a": 3, "b": 1})
    names, seen = [*data.shares], Counter[tuple[int, int]]()
    for step in range(1, 60):
        batch = data.batch(step)
        assert torch.equal(batch["labels"][:, :-1], batch["input_ids"][:, 1:])
        for row, (place, window) in enumerate(batch.examples):
            tokens, owners = oracle[names[place]]
            places = [(window * T + n) % len(tokens) for n in range(T + 1)]
            assert [*batch["input_ids"][row].tolist(), int(batch["labels"][row, -1])] == [tokens[n] for n in places]
            assert data.documents([(place, window)]) == [*dict.fromkeys(owners[n] for n in places)]
            seen[place, window] += 1
    for place, name in enumerate(names):
        counts = [seen[place, window] for window in range(-(-len(oracle[name][0]) // T))]
        assert max(counts) - min(counts) <= 1
        assert min(counts) >= 1


def test_order_is_a_function_of_the_step_alone(shards: TokenShards) -> None:
    data = mixed(shards, temperature=2)
    for step in (1, 3, 10**9):
        whole = data.batch(step)
        again = mixed(shards, temperature=2).batch(step)
        singles = [mixed(shards, 1, temperature=2).batch((step - 1) * 8 + n + 1) for n in range(8)]
        for size in (1, 2, 4):
            parts = [data.batch(step, slice(start, start + size)) for start in range(0, 8, size)]
            assert torch.equal(torch.cat([part["input_ids"] for part in parts]), whole["input_ids"])
            assert [*itertools.chain.from_iterable(part.examples for part in parts)] == whole.examples
        assert torch.equal(torch.cat([one["input_ids"] for one in singles]), whole["input_ids"])
        assert again.examples == whole.examples
    assert mixed(shards, seed=2, temperature=2).batch(1).examples != data.batch(1).examples


def test_shares_of_tokens_epochs_and_what_is_left_out_are_said(shards: TokenShards, tokenizer: Tokenizer) -> None:
    size = {name: len(tokens) for name, (tokens, _) in streams(shards, tokenizer).items()}
    read = mixed(shards, epochs={"a": 1, "b": 2.5}).realised(400)
    assert read["b"]["epochs"] / read["a"]["epochs"] == pytest.approx(2.5, rel=0.01)
    assert sum(row["tokens"] for row in read.values()) == 400 * 8 * T
    assert all(row["share"] == pytest.approx(row["asked"], rel=0.01) for row in read.values())
    assert mixed(shards, tokens={"a": 100, "tiny": 300}).shares == {"a": 0.25, "tiny": 0.75}
    assert mixed(shards, temperature=1).shares == pytest.approx({n: s / sum(size.values()) for n, s in size.items()})
    assert mixed(shards, temperature=1e9).shares == pytest.approx(dict.fromkeys(SIZES, 1 / 3))
    lines = [*mixed(shards, tokens={"a": 100, "tiny": 300}).summary(400)]
    assert "tiny 75.00%" in lines[0]
    assert "too small for their weight, so that they are repeated: tiny" in lines[1]
    assert lines[2].startswith("mixture: without a weight, so not read: b (")
    assert "400 tokens are asked for together, and 51.2k are trained on" in lines[3]
    counts = mixed(shards, weights={"tiny": 1}).token_counts(tokenizer.size, 500)
    assert {*np.flatnonzero(counts).tolist()} == {*streams(shards, tokenizer)["tiny"][0]}


def test_presets_and_missing_components(shards: TokenShards, tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert len(PRESETS["pile"]) == 22
    assert sum(PRESETS["pile"].values()) == pytest.approx(100, abs=0.05)
    documents = [Document(n, n, "the sea " * 30, n, "l", "{}") for n in ("Pile-CC", "ArXiv", "other")]
    write_shards(documents, tokenizer, tmp_path, "train")
    data = mixed(TokenShards(tmp_path, "train", tokenizer.size), preset="pile")
    assert data.shares == pytest.approx({"ArXiv": 8.96 / 27.07, "Pile-CC": 18.11 / 27.07})
    lines = " ".join(data.summary(10))
    assert "not read: other (33.3% of the corpus)" in lines
    assert "in the preset, but not in the corpus; the others have their shares: PubMed Central 14.40%, Books3" in lines
    with pytest.raises(SettingError, match=r"mixture.preset: none of its sources has training documents; the corpus"):
        mixed(shards, preset="gpt3")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weights": {"a": -1}}, "greater than or equal to 0"),
        ({"weights": {"a": 0, "b": 0}}, "weights: at least one source must have more than 0"),
        ({"epochs": {}}, "epochs: at least one source"),
        ({"temperature": 0}, "greater than 0"),
        ({"preset": "pile", "weights": {"a": 1}}, "give one of preset, weights, .*, not preset and weights"),
    ],
)
def test_settings_that_cannot_be_used(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MixtureConfig.model_validate(given)


def test_unknown_sources_and_too_many(shards: TokenShards) -> None:
    with pytest.raises(SettingError, match=r"mixture.weights: no .* from the source 'tinny'; did you mean 'tiny'\?"):
        mixed(shards, weights={"a": 1, "tinny": 1})
    with pytest.raises(SettingError, match=r"mixture.epochs: .* 'Wikipedia'; the corpus has a, b, tiny"):
        mixed(shards, epochs={"Wikipedia": 1})
    with pytest.raises(SettingError, match="the corpus has 5,000 sources, and at most 4,096 can be mixed"):
        MixtureConfig(temperature=2).check([str(n) for n in range(5000)])


def test_shards_without_sources_are_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_shards([Document("a", "a", "the sea", "s", "l", "{}")], tokenizer, tmp_path, "train")
    index = tmp_path / "train-00000.index.parquet"
    pq.write_table(pq.read_table(index).drop_columns("source"), index)
    with pytest.raises(InputError, match=r"built by an earlier version, without sources\. Delete it"):
        mixed(TokenShards(tmp_path, "train", tokenizer.size), temperature=1)
