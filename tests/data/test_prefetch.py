"""The prefetcher reads each batch once, in a thread, and none after the last."""

from __future__ import annotations

import pytest
import torch

from neolm.data.batch import Batch
from neolm.data.prefetch import Prefetcher


def test_every_batch_is_read_once_and_none_after_the_last() -> None:
    read: list[int] = []

    def batch(step: int) -> Batch:
        read.append(step)
        return Batch({"input_ids": torch.full((1, 1), step)})

    prefetcher = Prefetcher(batch, last=4)
    assert [int(prefetcher.batch(step)["input_ids"]) for step in (1, 2, 3, 4)] == [1, 2, 3, 4]
    prefetcher.close()
    assert read == [1, 2, 3, 4]


def test_a_step_that_was_not_expected_is_read_and_an_error_is_raised_at_its_step() -> None:
    def batch(step: int) -> Batch:
        if step == 8:
            raise OSError("the disk")
        return Batch({"input_ids": torch.full((1, 1), step)})

    prefetcher = Prefetcher(batch, last=9)
    for step in (1, 6, 7):
        assert int(prefetcher.batch(step)["input_ids"]) == step
    with pytest.raises(OSError, match="the disk"):
        prefetcher.batch(8)
    assert int(prefetcher.batch(9)["input_ids"]) == 9
    prefetcher.close()
