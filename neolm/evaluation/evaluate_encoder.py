"""Measure an encoder: masked tokens, its sentence task and, if asked for, its pseudo-perplexity."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from neolm.core.errors import InputError
from neolm.core.progress import say
from neolm.core.ranks import ONE_RANK, RunRanks
from neolm.data.shards import TokenShards
from neolm.data.token_counts import MAX_TOKENS, token_counts
from neolm.evaluation.config import EvaluateConfig
from neolm.evaluation.documents import choose_documents, first_parts
from neolm.evaluation.held_out_segments import HeldOutSegments, Task
from neolm.evaluation.masked_tokens import MaskedTokens, SentenceTask, Unigram, measured
from neolm.evaluation.measurement import Measurement, TextDocument, group_of
from neolm.evaluation.pseudo_likelihood import PseudoLikelihood
from neolm.generation.generate import check_tokenizer
from neolm.models.encoder import Encoder
from neolm.tokenizer.tokenizer import Tokenizer

MASKED = ("pretraining", "masked")


def evaluate_encoder(
    model: Encoder,
    tokenizer: Tokenizer,
    documents: Iterable[TextDocument],
    config: EvaluateConfig | None = None,
    training_shards: Path | None = None,
    ranks: RunRanks = ONE_RANK,
) -> dict[str, Any]:
    """Return loss and accuracy of masked tokens and the accuracy of the sentence task on `documents`, as JSON.

    Args:
        model: An encoder with a masked language model head, a sentence head or both.
        tokenizer: Its tokenizer.
        documents: Held-out text. It is read once, and only the documents within `config.max_bytes` are kept.
        config: The settings. `device`, `precision` and `quantize` are applied by the caller, which loads the model.
        training_shards: Directory of the shards that the model was trained on, for the frequencies of tokens; None: the
            unigram entropy is that of the documents themselves.
        ranks: The connected processes that share the sequences; all of them call this.

    Returns:
        Scores by measurement: `masked_loss`, `unigram_entropy` and `masked_gain` (nats per predicted token),
        `masked_accuracy`, `sentence_accuracy` (with `task`, `pairs` and `without_label`) and `pseudo_perplexity`, each
        with `value`, `low`, `high`, `unit` and the id of its `protocol`; `protocols` has the data and settings by id.

    Raises:
        InputError: no document, no text in them, no head to measure, or a window that does not fit.
    """
    config = config or EvaluateConfig()
    heads = model.config.head in MASKED, model.sentence_head is not None and model.config.sentence_task is not None
    if not any(heads):
        raise InputError(
            f"evaluation: an encoder with the head '{model.config.head}' cannot be measured on text alone; a masked "
            "language model or a sentence task can"
        )
    check_tokenizer(model.config, tokenizer)
    length = _length(model.config.max_position_embeddings, config.window)
    chosen, available = choose_documents(documents, config.max_bytes, config.seed)
    task: Task = model.config.sentence_task if heads[1] and model.config.sentence_task else "none"
    if task == "nsp" and len({group_of(document) for document in chosen}) < 2:
        say("evaluation: nsp needs several documents, and there is one; the sentence task is not measured")
        task = "none"
    segments = HeldOutSegments(chosen, tokenizer, length, task)
    scores: dict[str, Any] = {}
    protocols: dict[str, Any] = {}
    measurements: list[Measurement[Encoder]] = []
    if heads[0]:
        measurements.append(MaskedTokens(segments, config.batch_size, unigram(segments, training_shards), ranks))
    if task != "none":
        measurements.append(SentenceTask(segments, config.batch_size, ranks))
    if config.pseudo_perplexity_documents and heads[0]:
        few = list(first_parts(chosen))[: config.pseudo_perplexity_documents]
        measurements.append(PseudoLikelihood(few, tokenizer, length, config.batch_size, ranks))
    for measurement in measurements:
        found = measured(measurement, model, config)
        protocols |= {name: protocol | {"available": available} for name, protocol in found.pop("protocols").items()}
        scores |= found
    return scores | {"protocols": protocols}


def _length(context: int, window: int | None) -> int:
    length = context if window is None else window
    if not 4 < length <= context:
        raise InputError(f"evaluate.window: {length} is not between 5 and the model's context of {context} tokens")
    return length


def unigram(segments: HeldOutSegments, training_shards: Path | None) -> Unigram:
    """The frequencies of the training text, or those of the measured text if it is not known."""
    if training_shards is not None:
        counts = token_counts(TokenShards(training_shards, "train", segments.vocab_size), segments.vocab_size)
        return Unigram(counts, segments.special_ids, "training text", smoothed=True)
    counts = token_counts(segments.shards, segments.vocab_size)
    return Unigram(counts, segments.special_ids, "measured text", smoothed=segments.shards.tokens > MAX_TOKENS)
