"""ROUGE-1, ROUGE-2 and ROUGE-L of a text against a reference, as F1 (Lin 2004).

The numbers are those of the package rouge-score without a stemmer: words are runs of ASCII letters and digits, in lower
case.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

WORD = re.compile(r"[a-z0-9]+")


def rouge(prediction: str, reference: str) -> dict[str, float]:
    """`rouge1`, `rouge2` and `rougeL`, from 0 to 1. A text without words has 0."""
    guess, truth = (WORD.findall(text.lower()) for text in (prediction, reference))
    found = {}
    for order in (1, 2):
        first, second = (Counter(zip(*(words[n:] for n in range(order)), strict=False)) for words in (guess, truth))
        found[f"rouge{order}"] = _f1((first & second).total(), first.total(), second.total())
    found["rougeL"] = _f1(_longest_common(guess, truth), len(guess), len(truth))
    return found


def _f1(shared: int, guessed: int, true: int) -> float:
    return 2 * shared / (guessed + true) if guessed + true else 0.0


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for column, other in enumerate(second, start=1):
            above = row[column]
            row[column] = diagonal + 1 if word == other else max(above, row[column - 1])
            diagonal = above
    return row[-1]
