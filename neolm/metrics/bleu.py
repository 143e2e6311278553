"""BLEU (Papineni et al. 2002) and chrF2 (Popović 2015) of a whole set of texts, with one reference each.

The numbers are those of sacrebleu with its default settings: BLEU over up to 4 words of the tokenizer 13a, a mean over
the set, zero counts smoothed exponentially; chrF over up to 6 characters without white space, with beta 2.
"""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from collections.abc import Sequence

from neolm.core.errors import InputError

BLEU_ORDER, CHRF_ORDER, BETA = 4, 6, 2
_ENTITIES = re.compile(r"&(?:quot|amp|lt|gt);")
_SYMBOLS = re.compile(r"([{-~\[-` -&(-+:-@/])")
_POINTS = (
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


def bleu(predictions: Sequence[str], references: Sequence[str]) -> float:
    """BLEU of a set, from 0 to 100.

    Raises:
        InputError: there are no texts, or not as many references as predictions.
    """
    _check("BLEU", predictions, references)
    shared, total = [0] * BLEU_ORDER, [0] * BLEU_ORDER
    length = expected = 0
    for prediction, reference in zip(predictions, references, strict=True):
        guess, truth = words_13a(prediction.rstrip()), words_13a(reference.rstrip())
        length, expected = length + len(guess), expected + len(truth)
        for order in range(BLEU_ORDER):
            first, second = (_ngrams(words, order + 1) for words in (guess, truth))
            shared[order] += (first & second).total()
            total[order] += first.total()
    if not any(shared) or not all(total):
        return 0.0
    smoothing, logs = 1, 0.0
    for hits, all_ in zip(shared, total, strict=True):
        smoothing *= 1 if hits else 2
        logs += math.log((hits or 1 / smoothing) / all_)
    return 100 * math.exp(min(0.0, 1 - expected / length) + logs / BLEU_ORDER)


def chrf(predictions: Sequence[str], references: Sequence[str]) -> float:
    """chrF2 of a set, from 0 to 100.

    Raises:
        InputError: there are no texts, or not as many references as predictions.
    """
    _check("chrF", predictions, references)
    precisions, recalls = [], []
    texts = [["".join(text.split()) for text in part] for part in (predictions, references)]
    for order in range(1, CHRF_ORDER + 1):
        pairs = [[_ngrams(text, order) for text in pair] for pair in zip(*texts, strict=True)]
        shared = sum((first & second).total() for first, second in pairs)
        guessed = sum(first.total() for first, second in pairs if second)
        true = sum(second.total() for _, second in pairs)
        if guessed and true:
            precisions.append(shared / guessed)
            recalls.append(shared / true)
    if not any(precisions):
        return 0.0
    precision, recall = (sum(part) / len(part) for part in (precisions, recalls))
    return 100 * (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)


def words_13a(text: str) -> list[str]:
    """The words and symbols of a text as NIST's script mteval-v13a divides it."""
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    text = _SYMBOLS.sub(r" \1 ", f" {_ENTITIES.sub(lambda entity: html.unescape(entity[0]), text)} ")
    for pattern, replacement in _POINTS:
        text = pattern.sub(replacement, text)
    return text.split()


def _ngrams(items: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(items[start:] for start in range(order)), strict=False))


def _check(score: str, predictions: Sequence[str], references: Sequence[str]) -> None:
    if not predictions or len(predictions) != len(references):
        raise InputError(f"{score}: there are {len(predictions)} texts and {len(references)} references")
