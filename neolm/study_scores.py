"""The stage `heldout` of a study's cell: an encoder's scores on held-out text, and the memory of its training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neolm.core.artifact import Stage
from neolm.core.device import choose_device
from neolm.core.files import write_json
from neolm.core.manifest import Manifest, input_from, require
from neolm.training.pretrain_config import PretrainConfig


def build_scores(output: Path, config: PretrainConfig, length: int, max_bytes: int) -> Manifest:
    """Build `output/heldout` from the model, the corpus and the shards in `output`, unless it is up to date.

    It has `scores.json`: what `crossed_scores` returns for sequences of at most `length` tokens of the held-out
    documents within `max_bytes`. Its counts have the values, and `training_bytes`, the estimated peak of the tensors of
    a training with `config`, which does not depend on what else the process has loaded.

    Raises:
        InputError: nothing was held out.
    """
    places = {name: output / name for name in ("model", "corpus", "shards")}
    stage = Stage(
        name="heldout",
        room="evaluation",
        directory=output / "heldout",
        inputs={name: input_from(place, output) for name, place in places.items()},
        config={"length": length, "max_bytes": max_bytes},
    )

    def make(directory: Path) -> Mapping[str, Any]:
        from neolm.corpus.documents import read_documents
        from neolm.evaluation.crossed_tasks import crossed_scores
        from neolm.evaluation.documents import choose_documents
        from neolm.models.encoder import Encoder
        from neolm.models.hf import load_model
        from neolm.tokenizer.tokenizer import load_tokenizer
        from neolm.training.memory import estimate_memory

        device = choose_device(config.device).value
        model = load_model(places["model"], device, "float32")
        assert isinstance(model, Encoder)
        documents, _ = choose_documents(read_documents(places["corpus"], "validation"), max_bytes)
        scores = crossed_scores(model, load_tokenizer(places["model"]), documents, length, places["shards"])
        write_json(directory / "scores.json", scores)
        precision = require(output / "pretrain", "pretrain", "run RECIPE").counts["precision"]["value"]
        memory = estimate_memory(model.config, config, precision, device)
        ends = ("value", "low", "high")
        values = {name: {end: score[end] for end in ends} for name, score in scores.items()}
        return values | {"training_bytes": memory.total}

    return stage.ensure(make, _summary)


def _summary(counts: Mapping[str, Any]) -> str:
    names = {"masked_accuracy": "accuracy", "nsp_accuracy": "nsp", "sop_accuracy": "sop"}
    shares = [f"{word} {counts[key]['value']:.1%}" for key, word in names.items() if key in counts]
    return ", ".join([f"masked loss {counts['masked_loss']['value']:.3f}", *shares])
