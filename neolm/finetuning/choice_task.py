"""Multiple choice for an encoder: softmax over the options of a question (Devlin et al. 2019, section 4.4).

Shapes: B questions, K options (of the question with most), T tokens.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from neolm.core.errors import InputError
from neolm.core.progress import say
from neolm.data.batch import Batch
from neolm.finetuning.config import FinetuneConfig
from neolm.finetuning.decision import decide
from neolm.finetuning.encoded_examples import longest_first
from neolm.finetuning.heads import TextModel
from neolm.finetuning.open_part import drawn_apart, open_part, part_files
from neolm.finetuning.task import Results, encoder_with_head
from neolm.metrics.intervals import bootstrap_ratio
from neolm.models.token_batches import padded
from neolm.prediction.choose import Choose
from neolm.prediction.prediction_file import PredictionConfig
from neolm.prediction.text_windows import Window, encode_texts
from neolm.tables.choices import Choice, ChoiceColumns, Choices, choice_columns, read_choices
from neolm.tables.inventory import normalised
from neolm.tokenizer.tokenizer import Tokenizer
from neolm.training.objective import Objective, Term


@dataclass(frozen=True)
class ChoiceObjective:
    """Mean over the questions of a step of the cross-entropy of the right option."""

    @property
    def weights(self) -> Mapping[str, float]:
        """One term, `choices`."""
        return {"choices": 1.0}

    def targets(self, batch: Batch) -> dict[str, float]:
        """Number of questions."""
        return {"choices": len(batch)}

    def __call__(self, model: Any, batch: Batch) -> dict[str, Term]:
        """The summed loss, and the number of right answers. Options that a question does not have are masked."""
        inputs = {name: batch[name].flatten(0, 1) for name in batch if name != "targets"}  # (B * K, T)
        mask, targets = batch["attention_mask"], batch["targets"]
        logits = model(**inputs).float().view(mask.shape[:2])
        logits = logits.masked_fill(mask.amax(dim=2) == 0, torch.finfo(torch.float32).min)  # (B, K)
        loss = F.cross_entropy(logits, targets, reduction="sum")
        return {"choices": Term(loss, {"accuracy": (logits.argmax(dim=1) == targets).sum()})}


@dataclass(frozen=True)
class ChoiceExamples:
    """Questions of a training or a validation part; each has the token ids and types of its options."""

    windows: Sequence[Sequence[Window]]
    choices: Sequence[Choice]

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Questions as `input_ids`, `attention_mask` and `token_type_ids` (B, K, T), and `targets` (B)."""
        rows = [self.windows[number] for number in numbers]
        most = max(len(row) for row in rows)
        inputs = padded([one for row in rows for one in [*row, *[((), ())] * (most - len(row))]])
        tensors = {name: tensor.view(len(rows), most, -1) for name, tensor in inputs.items()}
        answers = torch.tensor([self.choices[number].answer for number in numbers])
        return Batch({**tensors, "targets": answers}, list(numbers))

    def batches(self, size: int) -> list[Batch]:
        """See `Windows`."""
        return longest_first(self, [max(len(ids) for ids, _ in row) for row in self.windows], size)

    @property
    def mean_length(self) -> float:
        """Mean length of an option with its context, in tokens."""
        return float(np.mean([len(ids) for row in self.windows for ids, _ in row]))

    def places(self, examples: Sequence[int]) -> Iterator[str]:
        """Names of questions for a message."""
        return (self.choices[number].place for number in examples)


class ChoiceTask:
    """Questions with options."""

    objective: Objective = ChoiceObjective()
    main = "accuracy"
    _training: Sequence[Choice]
    _validation: Sequence[Choice]

    def __init__(self, config: FinetuneConfig, seed: int) -> None:
        """Read the tables. Raises `InputError` if they cannot be used."""
        self._config = config
        files = part_files(config)
        everything, self._columns = _read(config, files["train"], "train")
        if "validation" not in files:
            keys = [normalised(one.context) for one in everything.choices]
            self._training, self._validation = drawn_apart(everything.choices, keys, "questions", config, seed)
            return
        self._training = everything.choices
        self._validation = _read(config, files["validation"], "validation", everything.answers)[0].choices
        known = {(one.context, one.options) for one in self._training}
        if shared := sum((one.context, one.options) in known for one in self._validation):
            say(f"{files['validation']}: {shared:,} questions are also in the training part; scores will be too good")

    def load(self, base: Path, tokenizer: Tokenizer, seed: int) -> TextModel:
        """See `Task`."""
        pooling = self._config.pooling
        fields = {"head": "choice", "pooling": pooling, "pooler": pooling == "first", "sentence_task": None}
        return encoder_with_head(base, fields, seed)

    def windows(self, tokenizer: Tokenizer, positions: int) -> tuple[ChoiceExamples, ChoiceExamples]:
        """See `Task`."""
        self._longest = self._config.max_length or positions
        parts = []
        for name, choices in (("train", self._training), ("validation", self._validation)):
            encoded = [
                encode_texts(
                    tokenizer,
                    [one.context] * len(one.options),
                    [one.before + option for option in one.options],
                    self._longest,
                )
                for one in choices
            ]
            if cut := sum(any(option.left_out for option in options) for options in encoded):
                say(f"finetune.{name}: {cut:,} of {len(choices):,} questions are cut to {self._longest} tokens")
            windows = [[option.inputs[0] for option in options] for options in encoded]
            parts.append(ChoiceExamples(windows, choices))
        return parts[0], parts[1]

    def measure(self, model: Any, tokenizer: Tokenizer) -> Results:
        """See `Task`. The baselines take the most frequent place, and the option that shares most with the context."""
        columns = self._columns
        named = {"text_column": columns.text, "second_column": columns.second, "option_columns": columns.options}
        settings: Results = {"task": "choice", "window_tokens": self._longest, **named}
        answers = np.array([one.answer for one in self._validation])
        logits = Choose(model, tokenizer, PredictionConfig(**settings)).question_logits(self._validation)
        right = logits.argmax(axis=1) == answers
        settings |= decide("single_label_classification", (), logits, answers, self._config)
        place = Counter(one.answer for one in self._training).most_common(1)[0][0]
        frequencies = _frequencies(self._training)
        shared = np.array([_overlap(one, frequencies) for one in self._validation])
        scores = {"place": np.mean(answers == place), "overlap": np.mean(shared == answers), "fine-tuned": right.mean()}
        return {
            "scores": {name: {"accuracy": float(score)} for name, score in scores.items()},
            "interval": bootstrap_ratio(right.astype(float), np.ones(len(right))).as_json(),
            "prediction": settings,
        }


def _read(config: FinetuneConfig, path: Path, key: str, answers: str | None = None) -> tuple[Choices, ChoiceColumns]:
    try:
        table = open_part(config, path)
        columns = choice_columns(table, config.text_column, config.option_columns, config.second)
        found = read_choices(table, columns, config.label_column[0], answers)
    except InputError as error:
        raise InputError(f"finetune.{key}: {error}") from None
    for line in found.lines():
        say(line)
    return found, columns


def _words(text: str) -> set[str]:
    return {*re.findall(r"\w+", text.casefold())}


def _frequencies(choices: Sequence[Choice]) -> Mapping[str, float]:
    """The inverse document frequency of each word of the training part; "" stands for other words."""
    texts = [_words(" ".join([one.context, *one.options])) for one in choices]
    counts = Counter(word for text in texts for word in text)
    return {word: math.log(len(texts) / count) + 1 for word, count in [*counts.items(), ("", 1)]}


def _overlap(choice: Choice, weights: Mapping[str, float]) -> int:
    """The option whose words are the most in the context, by their inverse document frequencies (TF-IDF)."""

    def weight(words: set[str]) -> float:
        return sum(weights.get(word, weights[""]) for word in sorted(words))

    context = _words(choice.context)
    shares = [weight(_words(option) & context) / (weight(_words(option)) or 1) for option in choice.options]
    return int(np.argmax(shares))
