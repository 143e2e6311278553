"""Batches of examples: a function of the step, every window once an epoch, weights shared by the windows of a text."""

from collections import Counter
from pathlib import Path

import torch

from neolm.data.batch_sizes import BatchSizes
from neolm.finetuning.encoded_examples import EncodedExamples, ExampleBatches
from neolm.prediction.text_windows import EncodedText


def examples(windows: list[int]) -> EncodedExamples:
    """One text for each number, with so many windows; the first token of a window tells text and window."""
    texts = [
        EncodedText([[100 * n + w, *([7] * (n % 5))] for w in range(count)], [[0] * (1 + n % 5)] * count)
        for n, count in enumerate(windows)
    ]
    weights = torch.arange(1, len(windows) + 1).float()
    return EncodedExamples(Path("t.csv"), range(2, 2 + len(windows)), texts, torch.arange(len(windows)), weights)


def test_an_epoch_has_every_window_once_in_another_order() -> None:
    data = ExampleBatches(examples([1, 3, 1, 2, 1, 1]), BatchSizes(3), seed=4)  # 9 windows
    seen = [data.batch(step)["input_ids"][:, 0].tolist() for step in range(1, 7)]
    first, second = ([token for batch in part for token in batch] for part in (seen[:3], seen[3:]))
    assert sorted(first) == sorted(second) == [0, 100, 101, 102, 200, 300, 301, 400, 500]
    assert first != second
    assert data.batch(2)["input_ids"].tolist() == data.batch(2)["input_ids"].tolist()
    other = ExampleBatches(data.examples, BatchSizes(3), seed=5)
    assert other.batch(1)["input_ids"][:, 0].tolist() != seen[0]


def test_rows_of_a_batch_are_those_of_the_whole_batch() -> None:
    data = ExampleBatches(examples([1] * 20), BatchSizes(8), seed=1)
    whole, part = data.batch(2), data.batch(2, slice(3, 6))
    for name in ("targets", "weights"):
        assert part[name].tolist() == whole[name][3:6].tolist()
    assert part.examples == whole.examples[3:6]
    assert data.documents(part.examples[:1]) == [f"t.csv, line {2 + part.examples[0]}"]


def test_padding_is_behind_each_window_and_masked() -> None:
    batch = examples([1] * 5).batch([0, 3, 4])
    assert batch["attention_mask"].sum(1).tolist() == [1, 4, 5]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 0).all()
    assert batch["input_ids"].shape == batch["token_type_ids"].shape == (3, 5)
    assert batch.tokens == 10


def test_the_windows_of_a_text_share_its_weight() -> None:
    data = examples([1, 4, 2])
    sums: Counter[int] = Counter()
    for batch in data.batches(2):
        for example, weight in zip(batch.examples, batch["weights"].tolist(), strict=True):
            sums[example] += weight
    assert sums == {0: 1.0, 1: 2.0, 2: 3.0}


def test_batches_have_windows_of_nearly_one_length() -> None:
    lengths = [batch["attention_mask"].sum(1).tolist() for batch in examples([1] * 25).batches(5)]
    assert lengths == [[n] * 5 for n in (5, 4, 3, 2, 1)]
