"""Scores of options by three kinds of models; a softmax over the options of a question makes probabilities of them.

- `EmbeddingOptions`: 20 times the cosine of the vectors of text and option, the scale at which sentence encoders are
  trained (Reimers & Gurevych 2019). A statement that may be true is compared with a fixed cosine.
- `EntailmentOptions`: the logit with which the text entails the option (Yin et al. 2019), of a classifier of pairs.
- `ContinuationOptions`: the log-likelihood of the option behind the text, of a decoder.

Each option is read without the others, so that their order does not matter. `encode` says what the model has to read
(its rows), and how scores come from what it gives for them; who computes the rows, a loaded model or the engine of a
server, is another matter. Shapes: N rows, C numbers of a row, O options.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from neolm.core.errors import InputError
from neolm.embedding.embedder import encode_texts
from neolm.embedding.sentence_files import SentenceConfig
from neolm.generation.continuations import Continuation
from neolm.prediction.classify import Classify
from neolm.prediction.decision_file import DecisionConfig
from neolm.prediction.decision_question import Question
from neolm.prediction.text_windows import whole, window_starts
from neolm.tokenizer.tokenizer import Tokenizer

SCALE = 20.0
CONTENT_FREE = "N/A"
"""A text that says nothing about the options (Zhao et al. 2021)."""
LABEL = "{label}"
_NOUL = ("true", "false")


@dataclass(frozen=True)
class EncodedOptions:
    """What a model reads to score the options of questions about a text."""

    rows: Sequence[Any]
    """Rows with the text."""
    fixed: Sequence[Any]
    """Rows without the text, which other texts have too."""
    combine: Callable[[Tensor, Tensor], list[Tensor]]
    """From what the model gives for `rows` and `fixed`, each (N, C), to the scores (O) of each question."""
    windows: int = 1
    """Number of windows in which the text is read."""


class OptionEncoder(Protocol):
    """Reads texts and options for a model."""

    template: str
    """How a label is read in zero-shot classification."""

    def encode(self, text: str, questions: Sequence[Question]) -> EncodedOptions:
        """What the model has to read. Raises `InputError` if the text is empty, or something is too long."""


class EmbeddingOptions(OptionEncoder):
    """Options for an encoder whose vectors are compared. The rows are token ids."""

    template = LABEL

    def __init__(self, tokenizer: Tokenizer, config: SentenceConfig, max_length: int, settings: DecisionConfig) -> None:
        """`max_length` is the longest text of the model; a longer one is read in windows."""
        self._tokenizer, self._config, self._length, self._settings = tokenizer, config, max_length, settings

    def encode(self, text: str, questions: Sequence[Question]) -> EncodedOptions:
        """See `OptionEncoder`."""
        check_text(text)
        options = [_option_texts(one) if one.described else [_statement(one)] for one in questions]
        fixed = [tuple(ids) for ids in encode_texts(self._tokenizer, self._config, [o for of in options for o in of])]
        longest = max(map(len, fixed))
        if longest > self._length:
            raise InputError(f"an option is {longest} tokens with its question, the model reads {self._length}")
        [first, *ids, last] = encode_texts(self._tokenizer, self._config, [text])[0]
        room = self._length - 2
        rows = [(first, *ids[start : start + room], last) for start in window_starts(len(ids), room)]

        def combine(vectors: Tensor, fixed_vectors: Tensor) -> list[Tensor]:
            mean = normalize(vectors.double()).mean(dim=0)  # (C)
            cosines = normalize(fixed_vectors.double()) @ normalize(mean, dim=0)
            parts = [SCALE * part for part in torch.split(cosines, [len(of) for of in options])]
            border = torch.tensor([SCALE * self._settings.predicate_cosine], dtype=torch.float64)
            return [
                part if one.described else torch.cat([part, border]) for one, part in zip(questions, parts, strict=True)
            ]

        return EncodedOptions(rows, fixed, combine, len(rows))


class EntailmentOptions(OptionEncoder):
    """Options for a classifier of pairs with the labels of entailment. The rows are ids and types of tokens."""

    template = f"This text is about {LABEL}."

    def __init__(self, classify: Classify) -> None:
        """Raises `InputError` if the labels are not those of natural language inference."""
        names = [name.lower() for name in classify.names]
        found = [
            next((number for number, name in enumerate(names) if name.startswith(starts)), None)
            for starts in (("entail",), ("contradict", "not_entail", "not entail"))
        ]
        if not classify.settings.pair or None in found:
            raise InputError(
                f"a classifier answers by its own labels ({', '.join(classify.names[:3])}, ...: neolm predict); for "
                "others it must read pairs and have the labels entailment and contradiction"
            )
        self._classify, self._labels = classify, found

    def encode(self, text: str, questions: Sequence[Question]) -> EncodedOptions:
        """See `OptionEncoder`."""
        check_text(text)
        classify = self._classify
        options = [_option_texts(one) if one.described else [_statement(one)] for one in questions]
        [ids, *hypotheses] = classify.tokenizer.encode_batch([text, *(one for of in options for one in of)])
        room = classify.length - len(whole(classify.tokenizer, [], max(hypotheses, key=len))[0])
        if room < min(len(ids), classify.length // 4):
            raise InputError(f"an option with its question leaves {room} of {classify.length} tokens for the text")
        starts = window_starts(len(ids), room)
        pairs = [whole(classify.tokenizer, ids[start : start + room], one) for one in hypotheses for start in starts]
        rows = [(tuple(tokens), tuple(types)) for tokens, types in pairs]

        def combine(logits: Tensor, _: Tensor) -> list[Tensor]:
            means = logits.double().view(len(hypotheses), len(starts), -1).mean(dim=1) / classify.settings.temperature
            parts = torch.split(means[:, self._labels], [len(of) for of in options])
            return [part[:, 0] if one.described else part[0] for one, part in zip(questions, parts, strict=True)]

        return EncodedOptions(rows, (), combine, len(starts))


class ContinuationOptions(OptionEncoder):
    """Options for a decoder. The rows are `Continuation`s, for which it gives log-likelihoods (N, 1)."""

    template = f"This text is about {LABEL}."

    def __init__(self, tokenizer: Tokenizer, context: int, settings: DecisionConfig) -> None:
        """`context` is the longest text of the model."""
        self._tokenizer, self._context, self._settings = tokenizer, context, settings

    def encode(self, text: str, questions: Sequence[Question]) -> EncodedOptions:
        """See `OptionEncoder`."""
        check_text(text)
        rows = self._rows(text, questions)
        fixed = self._rows(CONTENT_FREE, questions) if self._settings.prior else []
        lengths = torch.tensor([row.scored if self._settings.per_token else 1 for row in rows])

        def combine(found: Tensor, prior: Tensor) -> list[Tensor]:
            scores = (found[:, 0] - prior[:, 0] if fixed else found[:, 0]) / lengths
            return [*torch.split(scores, [len(one.options) for one in questions])]

        return EncodedOptions(rows, fixed, combine)

    def _rows(self, text: str, questions: Sequence[Question]) -> list[Continuation]:
        prompts = [self._tokenizer.encode(f"{text}\n\n{_lead(one)}") for one in questions]
        columns = enumerate(zip(*prompts, strict=False))
        equal = next((place for place, tokens in columns if len({*tokens}) > 1), min(map(len, prompts)))
        shared = equal - 1  # the logits behind the last of them are needed
        rows: list[Continuation] = []
        for prompt, question in zip(prompts, questions, strict=True):
            options = self._tokenizer.encode_batch([f" {answer}" for answer in _answers(question)])
            rows += [Continuation((*prompt, *option), max(0, shared), len(option)) for option in options]
        longest = max(len(row.ids) for row in rows)
        if longest > self._context:
            raise InputError(
                f"text, question and option are {longest} tokens, the context of the model is {self._context}"
            )
        return rows


def check_text(text: str) -> None:
    """Raise an `InputError` if the text is empty."""
    if not text.strip():
        raise InputError("the text is empty")


def _statement(question: Question) -> str:
    """What is to be true, with what is said about it."""
    return " ".join(part for part in (question.instructions, question.options[0].text) if part)


def _option_texts(question: Question) -> list[str]:
    if question.template is not None:
        return [question.template.replace(LABEL, option.text) for option in question.options]
    return [f"{question.instructions} {option.text}".strip() for option in question.options]


def _lead(question: Question) -> str:
    """What a decoder reads between the text and an option."""
    if question.template is not None:
        return question.template.partition(LABEL)[0].rstrip()
    if question.kind != "noul":
        return f"{question.instructions}\nAnswer:"
    meanings = [f"{name}: {option.text}\n" for name, option in zip(_NOUL, question.options, strict=True) if option.text]
    return f"{question.instructions}\n{''.join(meanings)}True or false? Answer:"


def _answers(question: Question) -> Sequence[str]:
    return _NOUL if question.kind == "noul" else [option.text for option in question.options]
