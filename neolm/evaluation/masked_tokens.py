"""Measurements of encoders: the loss and accuracy of masked tokens, and the accuracy of a sentence task.

    masked loss = -sum log p(token | its masked sequence) / predicted tokens                     nats per token
    unigram entropy = the same for the frequencies of tokens in a text, which know no context    nats per token
    gain = unigram entropy - masked loss

The unigram entropy is measured on the same predicted tokens. Its frequencies are those of the training text plus one
for each token of the vocabulary, or, where the training text is not known, those of the measured text.

Shapes: B batch, T time, C channels, M predicted tokens of a batch, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neolm.core.errors import InputError, NonFiniteError
from neolm.core.progress import task
from neolm.core.ranks import ONE_RANK, RunRanks
from neolm.data.batch import IGNORED, Batch
from neolm.evaluation.config import EvaluateConfig
from neolm.evaluation.held_out_segments import HeldOutSegments
from neolm.evaluation.measurement import Measurement, Values, protocol_id
from neolm.generation.model_runner import evaluating
from neolm.models.encoder import Encoder
from neolm.prediction.fill_mask import vocabulary_log_probabilities

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class MaskedTokens(Measurement[Encoder]):
    """`masked_loss`, `masked_accuracy`, `unigram_entropy` and `masked_gain` on held-out sequences."""

    segments: HeldOutSegments
    batch_size: int = 16
    unigram: Unigram | None = None
    """The frequencies to compare with; None: without `unigram_entropy` and `masked_gain`."""
    ranks: RunRanks = ONE_RANK
    """The connected processes that share the batches."""

    def protocol(self) -> dict[str, Any]:
        """The sequences, the masks and the text of the frequencies."""
        unigram = {"unigram": self.unigram.record()} if self.unigram else {}
        masking = self.segments.masking()
        return {"measurement": "masked-tokens", **self.segments.protocol(), "masking": masking, **unigram}

    @torch.no_grad()
    def measure(self, subject: Encoder) -> dict[str, Values]:
        """One value per sequence, grouped by document.

        Raises:
            InputError: the model has no masked language model head.
            NonFiniteError: the loss of a sequence is not finite.
        """
        if subject.config.head not in ("pretraining", "masked"):
            raise InputError(f"evaluation: the head '{subject.config.head}' does not predict masked tokens")
        groups: list[str] = []
        rows: list[NDArray[np.float64]] = []  # (B, 4): predicted tokens, hits, nats, unigram nats
        with evaluating(subject), task("masked tokens", len(self.segments), "sequences") as shown:
            batches = self.segments.batches(self.batch_size)
            for (_, owners), found in self.ranks.map(partial(self._scores, subject), batches):
                rows.append(found)
                groups += owners
                shown.advance(len(owners))
        count, hits, nats, unigram = np.concatenate(rows).T
        if not np.isfinite(nats).all():
            raise NonFiniteError("evaluation: the loss of masked tokens is not finite; the weights are damaged")
        scores = {
            "masked_loss": Values(nats, count, groups, "nats per predicted token"),
            "masked_accuracy": Values(hits, count, groups, "share of predicted tokens"),
        }
        if self.unigram:
            scores["unigram_entropy"] = Values(unigram, count, groups, "nats per predicted token")
            scores["masked_gain"] = Values(unigram - nats, count, groups, "nats per predicted token")
        return scores

    def _scores(self, model: Encoder, sequences: tuple[Batch, list[str]]) -> NDArray[np.float64]:
        """Predicted tokens, hits, nats and unigram nats of each sequence, (B, 4)."""
        batch, owners = sequences
        inputs = {name: batch[name].to(model.device) for name in INPUTS}
        labels = batch["labels"].to(model.device)
        predicted = labels != IGNORED  # (B, T)
        targets = labels[predicted]  # (M)
        hidden = model.hidden_states(**inputs)[predicted]  # (M, C)
        nats, hits = scores_of_targets(model, hidden, targets)
        ids = targets.cpu().numpy()
        unigram = self.unigram.nats[ids] if self.unigram else np.zeros(len(ids))
        sequence = predicted.nonzero()[:, 0].cpu().numpy()  # (M)
        columns = (np.ones(len(ids)), hits, nats, unigram)
        return np.stack([np.bincount(sequence, c, len(owners)) for c in columns], axis=1)


def scores_of_targets(model: Encoder, hidden: Tensor, targets: Tensor) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Negative log-probability of targets (M) for hidden states (M, C), and whether each was the likeliest."""
    nats, hits, done = [], [], 0
    for part in vocabulary_log_probabilities(model, hidden):
        wanted = targets[done : done + len(part)]
        nats.append(-part.gather(1, wanted.unsqueeze(1)).squeeze(1))
        hits.append(part.argmax(dim=1) == wanted)
        done += len(part)
    return torch.cat(nats).cpu().double().numpy(), torch.cat(hits).cpu().numpy()


class Unigram:
    """The negative log-probability of each token by its frequency in a text."""

    def __init__(self, counts: NDArray[np.int64], special_ids: NDArray[np.int64], text: str, smoothed: bool) -> None:
        """From occurrences (V,), without the special tokens; `smoothed` adds one to each. `text` names the text."""
        amounts = counts.astype(np.float64) + smoothed
        amounts[special_ids] = 0
        self.tokens = int(counts.sum() - counts[special_ids].sum())
        self.text = text
        with np.errstate(divide="ignore"):
            self.nats = np.log(amounts.sum()) - np.log(amounts)  # (V), infinite where a token does not occur

    def record(self) -> dict[str, Any]:
        """The text and its size, as JSON."""
        return {"text": self.text, "tokens": self.tokens}


@dataclass(frozen=True)
class SentenceTask(Measurement[Encoder]):
    """`sentence_accuracy` of held-out pairs with a label. A model may be asked the task of another one.

    The segments have masks, as in pretraining. Label 1 stands for another document (nsp) or swapped segments (sop); a
    crossed task takes the label 1 of one for that of the other (Lan et al. 2020, table 5).
    """

    segments: HeldOutSegments
    batch_size: int = 16
    ranks: RunRanks = ONE_RANK

    def protocol(self) -> dict[str, Any]:
        """The pairs, whose rules name the task, and their masks."""
        return {"measurement": "sentence-task", **self.segments.protocol(), "masking": self.segments.masking()}

    @torch.no_grad()
    def measure(self, subject: Encoder) -> dict[str, Values]:
        """One value per pair, grouped by document; pairs without a label have the weight 0.

        Raises:
            InputError: the model has no sentence head, or the sequences have no pairs.
        """
        if subject.sentence_head is None:
            raise InputError(f"evaluation: the head '{subject.config.head}' has no sentence task")
        if self.segments.task == "none":
            raise InputError("evaluation: the sequences have no pairs; make them with the task nsp or sop")
        groups: list[str] = []
        hits, labelled = [], []

        def answer(sequences: tuple[Batch, list[str]]) -> Tensor:
            inputs = {name: sequences[0][name].to(subject.device) for name in INPUTS}
            return subject.sentence_logits(**inputs).argmax(dim=1).cpu()

        with evaluating(subject), task("sentence task", len(self.segments), "pairs") as shown:
            for (batch, owners), answers in self.ranks.map(answer, self.segments.batches(self.batch_size)):
                labels = batch["sentence_labels"]
                hits.append((answers == labels).double().numpy())
                labelled.append((labels != IGNORED).double().numpy())
                groups += owners
                shown.advance(len(owners))
        weights = np.concatenate(labelled)
        return {"sentence_accuracy": Values(np.concatenate(hits), weights, groups, "share of pairs")}


def masked_accuracy(model: Encoder, segments: HeldOutSegments, config: EvaluateConfig | None = None) -> dict[str, Any]:
    """The accuracy of masked tokens: `value`, `low`, `high`, `unit`, and `protocol`, its id, with its `details`."""
    return _single(measured(MaskedTokens(segments), model, config), "masked_accuracy")


def sentence_accuracy(
    model: Encoder, segments: HeldOutSegments, config: EvaluateConfig | None = None
) -> dict[str, Any]:
    """The accuracy of the sentence task of `segments`, whatever task the model was trained with.

    Returns:
        `value`, `low`, `high`, `unit`, `protocol` and `details` as `masked_accuracy`, with the numbers of `pairs` with
        a label and sequences `without_label` in the details; `task`, that of the segments, and `trained_on`, that of
        the model.
    """
    score = _single(measured(SentenceTask(segments), model, config), "sentence_accuracy")
    return score | {"task": segments.task, "trained_on": model.config.sentence_task}


def measured(
    measurement: Measurement[Encoder], model: Encoder, config: EvaluateConfig | None = None
) -> dict[str, dict[str, Any]]:
    """The scores of a measurement by name, and `protocols` with the settings by id."""
    config = config or EvaluateConfig()
    record = {
        **measurement.protocol(),
        "precision": str(model.dtype).removeprefix("torch."),
        "quantize": f"int{model.quantized}" if model.quantized else None,
        **config.model_dump(include={"bootstrap_samples", "confidence", "seed"}),
    }
    identifier = protocol_id(record)
    scores = {
        name: {
            **value.interval(config.bootstrap_samples, config.confidence, config.seed).as_json(),
            "unit": value.unit,
            "protocol": identifier,
        }
        for name, value in measurement.measure(model).items()
    }
    return {**scores, "protocols": {identifier: record}}


def _single(scores: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    score = scores[name]
    return score | {"details": scores["protocols"][score["protocol"]]}
