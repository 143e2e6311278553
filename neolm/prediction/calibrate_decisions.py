"""Temperatures of decisions, fitted to labelled ones; for encoders of sentences also the border of true."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neolm.core.config import Overrides
from neolm.core.errors import InputError
from neolm.core.files import write_json
from neolm.core.model_files import DECISION_FILE
from neolm.core.progress import say
from neolm.metrics.calibration import fit_softmax_temperature
from neolm.models.hf import model_directory
from neolm.prediction.decide import state_text
from neolm.prediction.decision_file import DecisionConfig
from neolm.prediction.decision_forms import parse_questions
from neolm.prediction.decision_question import Question
from neolm.prediction.option_scorer import OptionScorer, load_scorer
from neolm.prediction.option_scores import SCALE, EmbeddingOptions
from neolm.tables.table import open_table

ABSENT = -1e9
"""The score of an option that a question does not have."""
CANDIDATES = 41  # cosines that are tried


def calibrate(model: str | Path, path: Path, settings: Overrides = ()) -> list[str]:
    """Fit a temperature for each type of question, write `decision.json`, and return what was found, a line a type.

    Args:
        model: A model directory or a run.
        path: A `.jsonl` file; each line has `state`, `questions` and `answers`: by name the option, the level or its
            number from 0, or true or false. Questions without an answer are left out.
        settings: As in `decide`.

    Raises:
        InputError: the file cannot be read, or an answer is not one of the options.
    """
    scorer = load_scorer(model, settings=settings)
    examples: dict[str, list[tuple[Question, Tensor, int]]] = {}
    table = open_table(path)
    for row in table.rows():
        try:
            if row.problem:
                raise InputError(row.problem)
            for question, scores, gold in _labelled(scorer, row.values):
                examples.setdefault(question.kind, []).append((question, scores, gold))
        except InputError as error:
            raise InputError(f"{table.place(row.line)}: {error}") from None
    if not examples:
        raise InputError(f"{path}: there is no question with an answer")
    fitted = scorer.settings.model_dump()
    lines = []
    for kind, found in examples.items():
        scores = torch.nn.utils.rnn.pad_sequence([one for _, one, _ in found], True, ABSENT)  # (N, O)
        truth = torch.tensor([number for _, _, number in found])
        before = _loss(scores / fitted["temperature"][kind], truth)
        if kind == "noul" and isinstance(scorer.encoder, EmbeddingOptions):
            where = torch.tensor([not question.described for question, _, _ in found])
            if where.any():
                fitted["predicate_cosine"], scores = _with_best_border(scores, truth, where)
        temperature = fit_softmax_temperature(scores.numpy(), truth.numpy())
        if not temperature.found:
            say(f"decide: no temperature is fitted to type {kind}, because the answers have no best one")
            continue
        fitted["temperature"][kind] = temperature.value
        after = _loss(scores / temperature.value, truth)
        right = float((scores.argmax(dim=1) == truth).double().mean())
        lines.append(
            f"{kind}: {len(truth):,} answers, {right:.1%} right; temperature {temperature.value:.3f}, "
            f"loss {before:.3f}, with it {after:.3f}"
        )
    write_json(model_directory(model) / DECISION_FILE, DecisionConfig(**fitted).model_dump())
    return lines


def _labelled(scorer: OptionScorer, row: Mapping[str, Any]) -> list[tuple[Question, Tensor, int]]:
    """The questions of a row that have an answer, the scores (O) of their options, and the number of the right one."""
    questions, given = parse_questions(row.get("questions")), row.get("answers")
    if not isinstance(given, dict):
        raise InputError("answers: an object from names of questions to answers is needed")
    if unknown := {*given} - {question.name for question in questions}:
        raise InputError(f"answers: there is no question {min(unknown)!r}")
    asked = [question for question in questions if given.get(str(question.name)) is not None]
    if not asked:
        return []
    [scores] = scorer.scores([scorer.encoder.encode(state_text(row.get("state")), asked)])
    return [(one, found.double(), _number(one, given[str(one.name)])) for one, found in zip(asked, scores, strict=True)]


def _number(question: Question, answer: Any) -> int:
    """The number of the option that is the answer."""
    for number, option in enumerate(question.options):
        if type(answer) is type(option.value) and answer == option.value:
            return number
    if question.kind == "score" and type(answer) is int and 0 <= answer < len(question.options):
        return answer
    raise InputError(f"answers.{question.name}: {answer!r} is not an option")


def _loss(logits: Tensor, truth: Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(logits, truth))


def _with_best_border(scores: Tensor, truth: Tensor, where: Tensor) -> tuple[float, Tensor]:
    """The cosine at which the statements `where` are as true as false, by the lowest loss, and the scores with it."""
    tried = []
    for cosine in (scores[where, 0].quantile(torch.linspace(0, 1, CANDIDATES).double()) / SCALE).tolist():
        moved = scores.clone()
        moved[where, 1] = SCALE * cosine
        temperature = fit_softmax_temperature(moved.numpy(), truth.numpy()).value
        tried.append((_loss(moved / temperature, truth), cosine, moved))
    return min(tried, key=lambda one: one[0])[1:]
