"""Evaluations of tiny models, for `test_evaluate_ranks.py`; run under torchrun, it is one rank of several."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from samples import sample_text
from task_ranks import write_files
from tiny_encoders import VOCABULARY, tiny_encoder, write_classifier, write_json

from neolm.core.errors import InputError, NeoLMError
from neolm.core.ranks import RunRanks
from neolm.distributed.ranks import joined
from neolm.evaluation.classifier import evaluate_classifier
from neolm.evaluation.evaluate import evaluate_model
from neolm.models.encoder import Encoder
from neolm.models.hf import save_model

QUICK = {"bootstrap_samples": 100, "device": "cpu", "batch_size": 3}
ON_TEXT: Mapping[str, Mapping[str, Any]] = {
    "decoder": QUICK | {"precision": "float32"},
    "encoder": QUICK | {"precision": "float32", "pseudo_perplexity_documents": 3},
}
ON_TABLES = {"classifier": "label", "choice": "answer", "instruct": "first"}


def write_models(place: Path) -> None:
    """The models, the table of `task_ranks.py` and the folder `texts`."""
    write_files(place)
    save_encoder(tiny_encoder("bert", vocab_size=len(VOCABULARY), sentence_task="sop"), place / "encoder")
    write_classifier(place / "classifier", {"abstain_below": 0.3}, num_labels=2, labels=("coast", "time"))
    head = {"head": "choice", "pooling": "mean", "pooler": False}
    save_encoder(tiny_encoder("bert", vocab_size=len(VOCABULARY), **head), place / "choice")
    write_json(place / "choice" / "prediction.json", {"task": "choice", "option_columns": ["first", "other"]})
    shutil.copytree(place / "decoder", place / "instruct")
    write_json(place / "instruct" / "prediction.json", {"task": "instruct", "max_new_tokens": 8})
    (place / "texts").mkdir()
    for number in range(7):
        (place / "texts" / f"{number}.txt").write_text(sample_text(number, 40 + 30 * number))


def save_encoder(model: Encoder, directory: Path) -> None:
    save_model(model, directory)
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")


def scores(place: Path, ranks: RunRanks) -> dict[str, Any]:
    """The scores of each model."""
    found = {
        name: evaluate_model(place / name, place / "texts", (), ranks, **settings) for name, settings in ON_TEXT.items()
    }
    with ranks.connected("cpu"):
        for name, label in ON_TABLES.items():
            given = place / "table.csv", "text", [label]
            found[name] = evaluate_classifier(str(place / name), *given, ranks=ranks)
    return found


class Counted:
    """The processes of a run, with the number of items that this one has computed in each call of `map`."""

    def __init__(self, ranks: RunRanks) -> None:
        self._ranks, self.computed = ranks, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ranks, name)

    def map(self, compute: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """See `RunRanks.map`."""
        place = len(self.computed)
        self.computed.append(0)

        def counted(item: Any) -> Any:
            self.computed[place] += 1
            return compute(item)

        return self._ranks.map(counted, items)


def main() -> None:
    """Arguments: the directory of the models, and that of the files `scores-RANK.json` and `computed-RANK.json`."""
    place, output = map(Path, sys.argv[1:])
    with joined() as ranks:
        counted: Any = Counted(ranks)
        write_json(output / f"scores-{ranks.number}.json", scores(place, counted))
        write_json(output / f"computed-{ranks.number}.json", counted.computed)
        with ranks.connected("cpu"), pytest.raises(NeoLMError, match=r"^second$") as failure:
            list(ranks.map(fail, [False, True, False]))
        assert failure.value.exit_code == 2


def fail(really: bool) -> None:
    if really:
        raise InputError("second")


if __name__ == "__main__":
    main()
