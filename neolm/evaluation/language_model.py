"""The three questions by which any language model is judged, as lm-evaluation-harness asks them.

`loglikelihood`: how likely is this continuation after that context? `loglikelihood_rolling`: how likely is a whole
text? `generate_until`: what comes after this context, until a stop string? Tasks see nothing else of a model
(`lm_eval/api/model.py`).

One difference from the harness on Hugging Face models: text that spells a special token is text, not that token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from neolm.core.errors import InputError
from neolm.evaluation.perplexity import document_scores
from neolm.evaluation.windows import Window, score_windows
from neolm.generation.batch import batches
from neolm.generation.config import GenerationConfig, generation_config
from neolm.generation.generate import check_tokenizer, text_deltas
from neolm.models.decoder import Decoder
from neolm.tokenizer.tokenizer import Tokenizer

Request = tuple[str, Mapping[str, Any]]


class LanguageModel(Protocol):
    """What a task may ask; every answer is in the order of the requests and independent of the others."""

    def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """For each (context, continuation), the continuation's log-probability, and whether it is the greedy one."""
        ...

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """The log-probability of each text, in disjoint windows of the context, the first after an end of text."""
        ...

    def generate_until(self, requests: Sequence[Request]) -> list[str]:
        """For each (context, settings), what the model writes next; `until` in the settings ends it."""
        ...


class DecoderLanguageModel:
    """A `Decoder` with its tokenizer as a `LanguageModel`; scores do not depend on `batch_size` (windows at once)."""

    def __init__(self, model: Decoder, tokenizer: Tokenizer, batch_size: int = 16) -> None:
        check_tokenizer(model, tokenizer)
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.context = model.config.max_position_embeddings

    def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """See `LanguageModel`. Nats; a context that is too long loses its beginning; an empty one is an end of text.

        Raises:
            InputError: a continuation is longer than the model's context.
        """
        pairs = self._encode_pairs(requests)
        for number, (_, continuation) in enumerate(pairs, start=1):
            if len(continuation) > self.context:
                raise InputError(
                    f"request {number}: its continuation is {len(continuation)} tokens, the model's context is "
                    f"{self.context}: shorten it"
                )
        asked = [number for number, (_, continuation) in enumerate(pairs) if continuation]
        windows = [
            Window(np.array((context + continuation)[-(self.context + 1) :], np.int64), len(continuation))
            for context, continuation in (pairs[number] for number in asked)
        ]
        answers = [(0.0, True)] * len(pairs)  # an empty continuation is certain
        sums, greedy = score_windows(self.model, windows, self.batch_size)
        for number, log_probability, likeliest in zip(asked, sums, greedy, strict=True):
            answers[number] = (float(log_probability), bool(likeliest))
        return answers

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """See `LanguageModel`. Nats; 0 for an empty text."""
        scores = document_scores(
            self.model, self.tokenizer, texts, window=self.context, stride=self.context, batch_size=self.batch_size
        )
        return [-score.negative_log_likelihood for score in scores]

    def generate_until(self, requests: Sequence[Request]) -> list[str]:
        """See `LanguageModel`. A context too long for what is to be written loses its beginning.

        Settings: `until` (text or texts), `max_gen_toks` (default 256), `do_sample`, and those of `neolm generate`
        (`temperature`, `top_k`, `top_p`, `repetition_penalty`, `seed`); greedy unless they say otherwise.

        Raises:
            InputError: an unknown setting or a value out of range.
        """
        groups: dict[str, list[int]] = {}
        for number, (_, settings) in enumerate(requests):
            groups.setdefault(json.dumps(dict(settings), sort_keys=True, default=str), []).append(number)
        answers = [""] * len(requests)
        for numbers in groups.values():
            config = _generation_config(requests[numbers[0]][1])
            written = self._generate([requests[number][0] for number in numbers], config)
            for number, text in zip(numbers, written, strict=True):
                answers[number] = text
        return answers

    def _generate(self, contexts: Sequence[str], config: GenerationConfig) -> list[str]:
        keep = max(1, self.context - config.max_new_tokens)
        prompts = [ids[-keep:] for ids in self.tokenizer.encode_batch(contexts)]
        texts: list[list[str]] = [[] for _ in contexts]
        for batch in batches(self.model, prompts, config, self.tokenizer.eos_token_id, self.tokenizer.size):
            for row, piece in text_deltas(batch, self.tokenizer, config.stop):
                texts[row].append(piece)
        return ["".join(parts) for parts in texts]

    def _encode_pairs(self, requests: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """Token ids of context and continuation, cut out of the tokens of both together, as the harness does it.

        White space at the end of a context moves to the continuation first: a token is more often " word" than "word".
        """
        moved = [(context.rstrip(), context[len(context.rstrip()) :] + rest) for context, rest in requests]
        contexts = self.tokenizer.encode_batch([context for context, _ in moved])
        wholes = self.tokenizer.encode_batch([context + rest for context, rest in moved])
        alone = self.tokenizer.encode_batch([rest for _, rest in moved])
        eos = self.tokenizer.eos_token_id
        return [
            # Where tokens melt over the border until none is left over, the continuation's own ones are scored.
            (context or [eos], whole[len(context) :] or rest)
            for context, whole, rest in zip(contexts, wholes, alone, strict=True)
        ]


def _generation_config(settings: Mapping[str, Any]) -> GenerationConfig:
    """The harness's names to ours."""
    ours = dict(settings)
    until = ours.pop("until", ())
    ours["stop"] = [until] if isinstance(until, str) else [text for text in until or () if text]
    ours["max_new_tokens"] = ours.pop("max_gen_toks", ours.get("max_new_tokens", 256))
    if not ours.pop("do_sample", ours.get("temperature", 0.0) > 0):
        ours["temperature"] = 0.0
    elif not ours.get("temperature"):
        ours["temperature"] = 1.0
    return generation_config(**ours)
