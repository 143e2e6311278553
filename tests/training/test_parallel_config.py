"""Mistakes in the division of a training over processes are found before anything is built."""

from __future__ import annotations

import pytest

from neolm.core.errors import SettingError
from neolm.data.batch_sizes import BatchSizes
from neolm.models.config import decoder_config
from neolm.models.encoder_config import encoder_config
from neolm.training.parallel_config import ParallelConfig, check_model, check_ranks

DECODER = decoder_config("gpt2", vocab_size=61, hidden_size=16, num_layers=2, num_heads=2)
ENCODER = encoder_config("bert", vocab_size=61, hidden_size=16, num_layers=2, num_heads=2)


@pytest.mark.parametrize(
    ("sizes", "ranks", "batch", "words"),
    [
        ({"shard": 2}, 1, 8, "parallel.shard: shard 2 needs 2 processes: start with torchrun --nproc-per-node 2"),
        ({"shard": 2, "context": 2}, 6, 8, "parallel.shard: shard 2 x context 2 is 4 processes, which do not divide"),
        ({"context": 2}, 8, 3, "batch_size: a batch of 3 cannot be divided among 4 processes"),
    ],
)
def test_ranks_that_do_not_fit(sizes: dict[str, int], ranks: int, batch: int, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        check_ranks(ParallelConfig(**sizes), BatchSizes(batch), ranks)


def test_context_ranks_share_their_examples() -> None:
    check_ranks(ParallelConfig(context=2), BatchSizes(4), 8)


def test_models_that_cannot_be_divided() -> None:
    with pytest.raises(SettingError, match=r"parallel\.context: must be 1: bert is an encoder"):
        check_model(ParallelConfig(context=2), ENCODER, 16)
    with pytest.raises(SettingError, match="6 chunks do not divide 16 tokens"):
        check_model(ParallelConfig(context=3), DECODER, 16)
    check_model(ParallelConfig(context=2), DECODER, 16)
    with pytest.raises(SettingError, match=r"parallel\.pipeline: the model's 2 layers are too few for 3 stages"):
        check_model(ParallelConfig(pipeline=3), DECODER, 16)
    with pytest.raises(SettingError, match="too few for 2 x 2 chunks"):
        check_model(ParallelConfig(pipeline=2, chunks=2), ENCODER, 16)
    check_model(ParallelConfig(pipeline=2), DECODER, 16)


@pytest.mark.parametrize(
    ("sizes", "ranks", "words"),
    [
        ({}, 4, "each of the 4 processes has the whole model"),
        ({"shard": 2}, 4, "2 copies of the model, with its weights and their optimiser state over 2 processes"),
        ({"pipeline": 2}, 4, "2 copies of the model, with its layers over 2 processes"),
        ({"context": 4}, 4, "one copy of the model, with its sequences over 4 processes"),
    ],
)
def test_the_plan_in_words(sizes: dict[str, int], ranks: int, words: str) -> None:
    assert words in ParallelConfig(**sizes).about(ranks)
