"""ROUGE against rouge-score, BLEU and chrF against sacrebleu, on random texts."""

from typing import Any

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from neolm.core.errors import InputError
from neolm.metrics.bleu import bleu, chrf, words_13a
from neolm.metrics.rouge import rouge

PIECES = [
    "the",
    "The",
    "sea",
    "day",
    "slept",
    " ",
    "-",
    "-\n",
    ",",
    ".",
    "3",
    "3.5",
    "1,000",
    "é",
    "東京",
    "&amp;",
    "&lt;",
    "'s",
]
PIECES += ["(", ")", "\n", "{", "~", "$", "/", "a.b", "9-", "\u00a0", "<skipped>", "Cat", "cat's", "_"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=24).flatmap(
    lambda parts: st.sampled_from(["", " "]).map(lambda join: join.join(parts))
)
SETS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4)
SCORER = RougeScorer(["rouge1", "rouge2", "rougeL"])


@given(TEXTS, TEXTS)
@settings(deadline=None, max_examples=400)
def test_rouge_is_that_of_rouge_score(prediction: str, reference: str) -> None:
    expected = {name: score.fmeasure for name, score in SCORER.score(reference, prediction).items()}
    assert rouge(prediction, reference) == pytest.approx(expected, abs=1e-12)


@given(TEXTS)
@settings(deadline=None, max_examples=400)
def test_words_are_those_of_13a(text: str) -> None:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    assert words_13a(text) == Tokenizer13a()(text).split()


@given(SETS)
@settings(deadline=None, max_examples=300)
def test_bleu_and_chrf_are_those_of_sacrebleu(pairs: list[tuple[str, str]]) -> None:
    guesses, truths = ([*part] for part in zip(*pairs, strict=True))
    assert bleu(guesses, truths) == pytest.approx(sacrebleu.corpus_bleu(guesses, [truths]).score, abs=1e-8)
    assert chrf(guesses, truths) == pytest.approx(sacrebleu.corpus_chrf(guesses, [truths]).score, abs=1e-8)


def test_by_hand() -> None:
    found = rouge("the cat sat", "the cat ran away")
    assert found == pytest.approx({"rouge1": 4 / 7, "rouge2": 2 / 5, "rougeL": 4 / 7})
    assert bleu(["a b c d e"], ["a b c d e"]) == pytest.approx(100)
    assert bleu(["a b c d"], ["a b c d e f g h"]) == pytest.approx(100 * 2.718281828459045**-1)
    assert chrf(["abc"], ["abc"]) == pytest.approx(100)
    assert chrf(["abc"], ["xyz"]) == 0.0


@pytest.mark.parametrize("score", [bleu, chrf])
def test_every_text_has_a_reference(score: Any) -> None:
    with pytest.raises(InputError, match="there are 1 texts and 2 references"):
        score(["a"], ["a", "b"])
    with pytest.raises(InputError, match="there are 0 texts"):
        score([], [])
