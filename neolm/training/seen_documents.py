"""From which step on a training has seen documents, by its recorded settings: its data are a function of the step."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from neolm.core.manifest import require
from neolm.models.stored_model import recorded_config
from neolm.tokenizer.tokenizer import load_tokenizer
from neolm.training.pretrain_config import PretrainConfig
from neolm.training.pretrain_task import pretrain_task


def first_step_with(directory: Path, documents: Collection[str]) -> tuple[int | None, int]:
    """The first step, counted from 1, whose batch has one of the documents (None: no step), and the number of steps.

    Args:
        directory: A finished pretraining, next to its shards and its tokenizer.
        documents: Ids of documents, or of parts of documents.

    Raises:
        NeoLMError: the training or its shards are not finished.
    """
    manifest = require(directory, "pretrain", "pretrain RECIPE")
    shards = directory.with_name("shards")
    require(shards, "shards", "run RECIPE")
    settings = manifest.config
    config = PretrainConfig.model_validate_json(json.dumps(settings["pretrain"]))
    tokenizer = load_tokenizer(directory.with_name("tokenizer"))
    data = pretrain_task(shards, tokenizer, recorded_config(settings["model"]), config, settings["seed"]).data
    steps, wanted = int(manifest.counts["steps"]), {*documents}
    for step in range(1, steps + 1):
        if not wanted.isdisjoint(data.documents(data.batch(step, slice(None)).examples)):
            return step, steps
    return None, steps
