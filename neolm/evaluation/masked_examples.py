"""Held-out sentences with masks, and what the model puts in their place, for the report."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from neolm.data.sentences import split_sentences
from neolm.evaluation.baselines import spread_sample
from neolm.evaluation.measurement import TextDocument
from neolm.models.encoder import Encoder
from neolm.prediction.fill_mask import FillMask
from neolm.prediction.masked_text import MaskedText
from neolm.tokenizer.tokenizer import Tokenizer

EXAMPLES = 6
SHARE = 0.15  # of the tokens of a sentence that are masked, at most MAX_MASKS
MAX_MASKS = 2
TOKENS = range(8, 41)  # of a sentence that is shown


def masked_examples(
    model: Encoder, tokenizer: Tokenizer, documents: Iterable[TextDocument], seed: int = 0
) -> list[dict[str, Any]]:
    """Mask tokens of a sentence of some documents, all drawn at random, and predict them.

    Returns:
        For each sentence `document`, `parts` (the text around the masks) and `masks`: for each its original `token`,
        its `rank` (1 is the likeliest), its `probability`, and `alternatives`, the five likeliest tokens.
    """
    limit = model.config.max_position_embeddings - 2
    predictor = FillMask(model, tokenizer)
    chosen = spread_sample(
        (document for document in documents if document.text.strip()),
        lambda _: 1,
        4 * EXAMPLES,
        lambda document: document.id.encode("utf-8", "surrogateescape"),
        seed,
    )
    examples: list[dict[str, Any]] = []
    for number, document in enumerate(chosen):
        generator = np.random.default_rng([seed, number])
        sentences = tokenizer.encode_batch(split_sentences(document.text[:20_000]))
        fitting = [ids for ids in sentences if len(ids) in TOKENS and len(ids) <= limit]
        if fitting and len(examples) < EXAMPLES:
            ids = fitting[generator.integers(len(fitting))]
            row, originals = _masked(tokenizer, ids, generator)
            examples.append({"document": document.id, "parts": row.parts, "masks": _masks(predictor, row, originals)})
    return examples


def _masked(tokenizer: Tokenizer, ids: list[int], generator: np.random.Generator) -> tuple[MaskedText, list[int]]:
    """A sentence with masks, and the tokens in their place."""
    number = min(MAX_MASKS, max(1, round(SHARE * len(ids))))
    places = sorted(generator.choice(len(ids), number, replace=False).tolist())
    mask, starts = tokenizer.require_token("mask"), tokenizer.word_starts
    whole, _ = tokenizer.with_special([mask if place in places else i for place, i in enumerate(ids)])
    parts = []
    for begin, end in zip([0, *(place + 1 for place in places)], [*places, len(ids)], strict=True):
        text = tokenizer.decode(ids[begin:end]).removeprefix("##")
        before = " " if begin and end > begin and starts[ids[begin]] and _is_word(text) else ""
        after = " " if end < len(ids) and end > begin and starts[ids[end]] else ""
        parts.append(before + text.strip() + after)
    return MaskedText(parts, whole, [place + 1 for place in places]), [ids[place] for place in places]


def _is_word(text: str) -> bool:
    """Whether a space is written in front of `text`."""
    return not text or text[0] not in ".,;:!?)]}'’”%"


def _masks(predictor: FillMask, row: MaskedText, originals: list[int]) -> list[dict[str, Any]]:
    probabilities = torch.cat(list(predictor.log_probabilities([row])))  # (masks, V)
    return [
        {
            "token": predictor.tokenizer.id_to_token(original),
            "rank": int((values > values[original]).sum()) + 1,
            "probability": float(values[original].exp()),
            "alternatives": predictor.alternatives(values),
        }
        for values, original in zip(probabilities, originals, strict=True)
    ]
