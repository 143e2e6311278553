"""An encoder on held-out sequences of all kinds, whichever its sentence task is (Lan et al. 2020, table 5).

Models that were trained with different sentence tasks know different sequences: one segment, two of which the second
may be from another document, or two that may be swapped. So the masked tokens of all three kinds count, and each model
finds a third of the sequences as it knows them. A sentence head is asked both tasks: whether its label 1, which stands
for another document (nsp) or for swapped segments (sop), is that of the other task. A model without that head is not
asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neolm.core.progress import say
from neolm.evaluation.evaluate_encoder import unigram
from neolm.evaluation.held_out_segments import HeldOutSegments, Task
from neolm.evaluation.masked_tokens import MaskedTokens, SentenceTask
from neolm.evaluation.measurement import TextDocument, Values, group_of
from neolm.models.encoder import Encoder
from neolm.tokenizer.tokenizer import Tokenizer

TASKS: tuple[Task, ...] = ("none", "nsp", "sop")


def crossed_scores(
    model: Encoder,
    tokenizer: Tokenizer,
    documents: Sequence[TextDocument],
    length: int,
    training_shards: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Scores with intervals, each `value`, `low`, `high` and `unit`.

    `masked_loss`, `masked_accuracy` and `masked_gain` (below the unigram entropy, whose frequencies are those of
    `training_shards` or else of the documents) are over the sequences of all kinds together, `masked_accuracy_none` and
    so on over those of one kind. `nsp_accuracy` and `sop_accuracy` are there if the model has a sentence head.
    Sequences for nsp are left out, with a line, if the documents are parts of a single one.

    Raises:
        InputError: the documents have no sentence, or the model has no masked language model head.
    """
    single = len({group_of(document) for document in documents}) < 2
    if single:
        say("held out: there is one document, so nsp has no other document to take a segment from and is left out")
    found: dict[str, Values] = {}
    masked: list[dict[str, Values]] = []
    for task in TASKS:
        if task == "nsp" and single:
            continue
        segments = HeldOutSegments(documents, tokenizer, length, task)
        masked.append(MaskedTokens(segments, unigram=unigram(segments, training_shards)).measure(model))
        found[f"masked_accuracy_{task}"] = masked[-1]["masked_accuracy"]
        if task != "none" and model.sentence_head is not None:
            found[f"{task}_accuracy"] = SentenceTask(segments).measure(model)["sentence_accuracy"]
    found |= {name: _together([values[name] for values in masked]) for name in masked[0]}
    return {name: {**values.interval().as_json(), "unit": values.unit} for name, values in found.items()}


def _together(parts: Sequence[Values]) -> Values:
    """The items of all parts."""
    amounts, weights = (np.concatenate([getattr(part, key) for part in parts]) for key in ("amounts", "weights"))
    return Values(amounts, weights, [group for part in parts for group in part.groups], parts[0].unit)
