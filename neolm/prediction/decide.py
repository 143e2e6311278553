"""`neolm.decide`: typed questions about a state, answered by a probability for every option; no text is generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neolm.core.config import Overrides
from neolm.core.errors import InputError
from neolm.core.progress import say
from neolm.models.decoder import Decoder
from neolm.models.encoder import Encoder
from neolm.prediction.decision_forms import parse_questions
from neolm.prediction.decision_question import Question, content_text
from neolm.prediction.option_scorer import OptionScorer, any_scorer
from neolm.prediction.option_scores import check_text
from neolm.tokenizer.tokenizer import Tokenizer


def decide(
    model: str | Path | Encoder | Decoder,
    state: str | Mapping[str, Any] | Sequence[Any],
    questions: Mapping[str, Any] | Sequence[Any],
    tokenizer: Tokenizer | None = None,
    settings: Overrides = (),
) -> dict[str, Any] | list[dict[str, Any]]:
    """The answers to questions about a state, in one batch.

    Args:
        model: A model directory, a run or a hub id; or a loaded model: an encoder of sentences, a classifier of pairs
            with the labels entailment and contradiction, or a decoder.
        state: A text, or JSON.
        questions: By name in the form of System One, or a list in OpenAI's form.
        tokenizer: The tokenizer of a loaded model.
        settings: Fields of `DecisionConfig` that replace those in the model's `decision.json`.

    Returns:
        The answers by name or in a list, in the form of the questions.

    Raises:
        InputError: the model cannot decide, the state is empty or too long, or a question cannot be asked.
    """
    parsed = parse_questions(questions)
    return answers(any_scorer(model, tokenizer, settings), state, parsed, isinstance(questions, Mapping))


def answers(
    scorer: OptionScorer, state: Any, questions: Sequence[Question], named: bool
) -> dict[str, Any] | list[dict[str, Any]]:
    """The answers to questions in the form of System One (`named`), or in OpenAI's."""
    encoded = scorer.encoder.encode(state_text(state), questions)
    if encoded.windows > 1:
        say(f"decide: the state is read in {encoded.windows} windows")
    found = [*zip(questions, scorer.probabilities(encoded, questions), strict=True)]
    if named:
        return {str(question.name): question.named(chances) for question, chances in found}
    return [question.listed(chances) for question, chances in found]


def state_text(state: Any) -> str:
    """The text of a state. Raises `InputError` if it is empty."""
    text = content_text(state) if state else ""
    try:
        check_text(text)
    except InputError:
        raise InputError("the state is empty") from None
    return text
