"""Tasks whose head reads every token: answers in a context (SQuAD), and tags of words (entities).

A task reads its files, says what is in them, makes the windows that are trained on, and measures a model by the
predictor that its users have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neolm.core.errors import InputError
from neolm.core.files import expanded
from neolm.core.progress import say
from neolm.finetuning.config import FinetuneConfig
from neolm.finetuning.heads import TextModel
from neolm.finetuning.open_part import drawn_apart
from neolm.finetuning.task import Results, encoder_with_head
from neolm.finetuning.token_objectives import SpanObjective, TagObjective
from neolm.finetuning.window_examples import Window, WindowExamples
from neolm.metrics.answers import answer_scores
from neolm.metrics.entities import entity_counts
from neolm.metrics.intervals import bootstrap_ratio, bootstrap_score
from neolm.prediction.answer_questions import AnswerQuestions
from neolm.prediction.find_entities import FindEntities
from neolm.prediction.prediction_file import PredictionConfig
from neolm.prediction.question_encoder import QuestionEncoder
from neolm.prediction.span_decoding import Answers, fit_null_threshold
from neolm.prediction.span_targets import SpanWindows, span_windows
from neolm.prediction.tag_targets import TagWindows, tag_names, tag_windows
from neolm.prediction.text_encoder import TextEncoder
from neolm.tables.question_table import QuestionColumns, read_question_file
from neolm.tables.questions import Questions, split_by_article
from neolm.tables.tagged_table import read_tagged_file
from neolm.tables.tagged_texts import TaggedText, TaggedTexts
from neolm.tokenizer.tokenizer import Tokenizer
from neolm.training.objective import Objective

PLAIN: Results = {"pooler": False, "pooling": "first", "sentence_task": None}
"""Fields of an encoder without anything but the head that reads every token."""


class QuestionTask:
    """Answers that are parts of a context; SQuAD 2.0, if some questions have none."""

    objective: Objective = SpanObjective()
    main = "f1"

    def __init__(self, config: FinetuneConfig, seed: int) -> None:
        """Read the files. Raises `InputError` if they cannot be used."""
        self._config = config
        everything = _questions(config.train, "train")
        if config.validation is None:
            self._training, self._validation = split_by_article(everything, config.validation_share, seed)
            say(f"{everything.path}: {len(self._validation):,} of {len(everything):,} questions are for validation")
        else:
            self._training, self._validation = everything, _questions(config.validation, "validation")
        reading = {name: getattr(config, name) for name in ("stride", "max_question_tokens", "max_answer_tokens")}
        self._reading: Results = {"task": "span", "window_tokens": config.max_length, **reading}
        self._seed = seed

    def load(self, base: Path, tokenizer: Tokenizer, seed: int) -> TextModel:
        """See `Task`."""
        return encoder_with_head(base, {"head": "span", **PLAIN}, seed)

    def windows(self, tokenizer: Tokenizer, positions: int) -> tuple[WindowExamples, WindowExamples]:
        """See `Task`."""
        encoder = QuestionEncoder(tokenizer, positions, PredictionConfig(**self._reading))
        parts = []
        for questions, limit in ((self._training, self._config.null_windows), (self._validation, None)):
            found = span_windows(encoder, questions.labelled, limit, self._seed)
            parts.append(_examples(questions.path, found, [f"question {one.id}" for one in questions.labelled]))
        return parts[0], parts[1]

    def measure(self, model: Any, tokenizer: Tokenizer) -> Results:
        """See `Task`. The baseline gives no answer."""
        predictor = AnswerQuestions(model, tokenizer, PredictionConfig(**self._reading), top_k=1)
        answers: list[Answers] = []
        read = []
        for question in self._validation.labelled:
            try:
                row = predictor.encode(question.question, question.context)
            except InputError:
                continue  # the windows of the validation part have counted it
            read.append(question)
            answers += predictor.answers([row])
        threshold = fit_null_threshold(answers, read)
        value = None if threshold is None else threshold.value
        best = [found.best(value) for found in answers]
        golds = [question.texts for question in read]
        scores = answer_scores(["" if one is None else one.text for one in best], golds)
        found = {"exact_match": float(scores.exact_match.mean()), "f1": float(scores.f1.mean())}
        for name, part in (("answerable", scores.answerable), ("unanswerable", ~scores.answerable)):
            if part.any():
                found |= {f"{name}_questions": int(part.sum()), f"{name}_f1": float(scores.f1[part].mean())}
        nothing = answer_scores([""] * len(read), golds)
        groups = [question.article or question.context for question in read]
        return {
            "scores": {
                "no-answer": {"exact_match": float(nothing.exact_match.mean()), "f1": float(nothing.f1.mean())},
                "fine-tuned": found,
            },
            "interval": bootstrap_ratio(scores.f1, np.ones(len(read)), groups).as_json(),
            "prediction": {**self._reading, "null_threshold": value},
        }


class TagTask:
    """Tags of words, which mark entities."""

    objective: Objective = TagObjective()
    main = "f1"

    def __init__(self, config: FinetuneConfig, seed: int) -> None:
        """Read the files. Raises `InputError` if they cannot be used, or have no entity."""
        everything = _tagged(config.train, "train")
        if config.validation is None:
            keys = [text.text for text in everything.labelled]
            self._training, self._validation = drawn_apart(everything.labelled, keys, "texts", config, seed)
        else:
            validation = _tagged(config.validation, "validation")
            self._training, self._validation = everything.labelled, validation.labelled
            known, names = {*tag_names(self._training)}, tag_names(self._validation)
            if unknown := [name for name in names if name not in known]:
                raise InputError(f"finetune.validation: the training texts do not have the tag {unknown[0]!r}")
        self._names = tag_names(self._training)
        if len(self._names) < 2:
            raise InputError(f"{everything.path}: there is no entity to learn")
        reading = {"words": everything.rule, "word_labels": config.word_labels, "stride": config.stride}
        self._reading: Results = {"task": "tokens", "window_tokens": config.max_length, **reading}

    def load(self, base: Path, tokenizer: Tokenizer, seed: int) -> TextModel:
        """See `Task`."""
        labels = {"num_labels": len(self._names), "labels": self._names, "problem": None}
        return encoder_with_head(base, {"head": "token", **PLAIN, **labels}, seed)

    def windows(self, tokenizer: Tokenizer, positions: int) -> tuple[WindowExamples, WindowExamples]:
        """See `Task`."""
        encoder = TextEncoder(tokenizer, positions, PredictionConfig(**self._reading))
        parts = []
        for texts, name in ((self._training, "train"), (self._validation, "validation")):
            found = tag_windows(encoder, texts, self._names)
            parts.append(_examples(f"finetune.{name}", found, [text.place for text in texts]))
        return parts[0], parts[1]

    def measure(self, model: Any, tokenizer: Tokenizer) -> Results:
        """See `Task`. The baseline gives each word the tag that it had most often in the training texts."""
        predictor = FindEntities(model, tokenizer, PredictionConfig(**self._reading))
        gold, found, looked_up = [], [], []
        usual = _usual_tags(self._training)
        for text in self._validation:
            try:
                row = predictor.encode(text.text, text.words)
            except InputError:
                continue  # the windows of the validation part have counted it
            gold.append(text.tags)
            looked_up.append([usual.get(text.text[start:end], "O") for start, end in text.words])
            found += [decoder.tags() for decoder in predictor.decoders([row])]
        return {
            "scores": {
                "lookup": _entity_scores(gold, looked_up),
                "fine-tuned": _entity_scores(gold, found),
            },
            "interval": bootstrap_score(
                lambda drawn: float(entity_counts([gold[n] for n in drawn], [found[n] for n in drawn])[1].micro().f1),
                len(gold),
                samples=200,
            ).as_json(),
            "prediction": self._reading,
        }


def _questions(path: str, key: str) -> Questions:
    try:
        found = read_question_file(expanded(path), QuestionColumns())
    except InputError as error:
        raise InputError(f"finetune.{key}: {error}") from None
    for line in found.lines():
        say(line)
    if not any(question.answers for question in found.labelled):
        raise InputError(f"finetune.{key}: {path}: no question has an answer, so there is nothing to learn or to score")
    return found


def _tagged(path: str, key: str) -> TaggedTexts:
    try:
        found = read_tagged_file(expanded(path))
    except InputError as error:
        raise InputError(f"finetune.{key}: {error}") from None
    for line in found.lines():
        say(line)
    if not found.labelled:
        raise InputError(f"finetune.{key}: {path}: no text is labelled")
    return found


def _examples(source: Any, found: SpanWindows | TagWindows, places: Sequence[str]) -> WindowExamples:
    for line in found.lines():
        say(f"{source}: {line}")
    if not found.windows:
        raise InputError(f"{source}: there is no window to train on")
    if isinstance(found, SpanWindows):
        windows = [
            Window(one.input_ids, one.token_type_ids, (one.begin, one.end), places[one.question])
            for one in found.windows
        ]
    else:
        windows = [Window(one.input_ids, one.token_type_ids, one.targets, places[one.text]) for one in found.windows]
    return WindowExamples(windows)


def _usual_tags(texts: Sequence[TaggedText]) -> dict[str, str]:
    """The most frequent tag of each word, of equal ones the first by name."""
    counts: dict[str, Counter[str]] = {}
    for text in texts:
        for (start, end), tag in zip(text.words, text.tags, strict=True):
            counts.setdefault(text.text[start:end], Counter())[tag] += 1
    return {word: min(tags, key=lambda tag: (-tags[tag], tag)) for word, tags in counts.items()}


def _entity_scores(gold: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> Results:
    names, counts = entity_counts(gold, found)
    micro = counts.micro()
    each = counts.by_label()
    return {
        "precision": float(micro.precision),
        "recall": float(micro.recall),
        "f1": float(micro.f1),
        "labels": {name: float(value) for name, value in zip(names, each.f1, strict=True)},
    }
