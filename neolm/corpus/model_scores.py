"""Scores of documents by models, in one process. The models come from outside: see `neolm.document_scorers`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neolm.core.progress import task
from neolm.corpus.filter_config import ModelScoreConfig
from neolm.corpus.ingest import SCRATCH_SCHEMA, scratch_writer
from neolm.corpus.steps import ROUNDED, beyond_limit
from neolm.formats.json_values import json_text

BATCH_DOCUMENTS = 64
Score = Callable[[Sequence[str]], Sequence[float]]


@dataclass(frozen=True)
class Scorer:
    """A model that scores texts."""

    directory: Path
    """The model, an input of the stage."""
    load: Callable[[], tuple[str, Score]]
    """Loads the model. Returns the reason for texts beyond the limits, and a function of texts."""


def score_documents(
    scratch: Path, settings: Sequence[ModelScoreConfig], loaded: Mapping[str, tuple[str, Score]]
) -> None:
    """Give the documents in the files of `scratch` that no filter rejected their scores, and reasons to reject them."""
    paths = sorted(scratch.glob("*.parquet"))
    total = sum(pq.read_metadata(path).num_rows for path in paths)
    for setting in settings:
        reason, score = loaded[setting.name]
        with task(f"corpus: {setting.name}", total, "documents") as bar:
            for path in paths:
                scored = path.with_suffix(".scored")
                with pq.ParquetFile(path) as file, scratch_writer(scored) as writer:
                    for batch in file.iter_batches(BATCH_DOCUMENTS):
                        rows = _scored(batch.to_pylist(), setting, reason, score)
                        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=SCRATCH_SCHEMA))
                        bar.advance(len(rows))
                scored.replace(path)


def _scored(rows: list[dict[str, Any]], setting: ModelScoreConfig, reason: str, score: Score) -> list[dict[str, Any]]:
    documents = [row for row in rows if row["reason"] is None and row["text"].strip()]
    # Rounded before it is compared: the last digits depend on the documents of the batch.
    found = [round(value, ROUNDED) for value in score([row["text"] for row in documents])] if documents else []
    for row, value in zip(documents, found, strict=True):
        row["scores"] = json_text(json.loads(row["scores"] or "{}") | {f"scores.{setting.name}": value})
        if why := beyond_limit({"score": value}, setting):
            told = json.loads(row["metadata"]) | {"why": f"{setting.name}: {why}"}
            row |= {"reason": reason, "digest": None, "metadata": json_text(told)}
    return rows
