"""The interface of lm-evaluation-harness to a language model (`lm_eval/api/model.py`), and decoders behind it.

Tasks use three methods: `loglikelihood` of a continuation after a context, `loglikelihood_rolling` of a whole text, and
`generate_until`, which continues a context up to a stop string.

One difference from the harness with Hugging Face models: text that spells a special token is encoded as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from neolm.core.errors import InputError
from neolm.core.progress import say
from neolm.evaluation.perplexity import document_scores
from neolm.evaluation.windows import Window, score_windows
from neolm.generation.batch import batches
from neolm.generation.config import GenerationConfig, generation_config
from neolm.generation.generate import check_tokenizer, text_deltas
from neolm.models.decoder import Decoder
from neolm.models.hf_config import require_language_model
from neolm.tokenizer.tokenizer import Tokenizer

Request = tuple[str, Mapping[str, Any]]


class LanguageModel(Protocol):
    """The methods that tasks use. Results are in the order of the requests, and each is independent of the others."""

    def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """For each (context, continuation): its log-probability, and whether greedy decoding gives it."""

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """The log-probability of each text, in disjoint windows; an end-of-text token precedes the first."""

    def generate_until(self, requests: Sequence[Request]) -> list[str]:
        """For each (context, settings): the continuation, which `until` in the settings ends."""


class DecoderLanguageModel(LanguageModel):
    """A `Decoder` with its tokenizer as a `LanguageModel`. Scores do not depend on `batch_size` (in windows)."""

    def __init__(self, model: Decoder, tokenizer: Tokenizer, batch_size: int = 16) -> None:
        check_tokenizer(require_language_model(model.config, "evaluation"), tokenizer)
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.context = model.config.max_position_embeddings

    def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """See `LanguageModel`. In nats. The start of a context that is too long is cut; an empty one is an end of text.

        Raises:
            InputError: a continuation is longer than the model's context.
        """
        pairs = self._encode_pairs(requests)
        for number, (_, continuation) in enumerate(pairs, start=1):
            if len(continuation) > self.context:
                raise InputError(
                    f"request {number}: the continuation has {len(continuation)} tokens, the model's context is "
                    f"{self.context}. Shorten it"
                )
        scored = [number for number, (_, continuation) in enumerate(pairs) if continuation]
        too_long = sum(len(context) + len(continuation) > self.context + 1 for context, continuation in pairs)
        self._say_cut(too_long, "requests", len(pairs))
        windows = [
            Window(np.array((context + continuation)[-(self.context + 1) :], np.int64), len(continuation))
            for context, continuation in (pairs[number] for number in scored)
        ]
        answers = [(0.0, True)] * len(pairs)  # an empty continuation has probability 1
        sums, greedy = score_windows(self.model, windows, self.batch_size)
        for number, log_probability, likeliest in zip(scored, sums, greedy, strict=True):
            answers[number] = (float(log_probability), bool(likeliest))
        return answers

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """See `LanguageModel`. In nats; 0 for an empty text."""
        scores = document_scores(
            self.model, self.tokenizer, texts, window=self.context, stride=self.context, batch_size=self.batch_size
        )
        return [-score.negative_log_likelihood for score in scores]

    def generate_until(self, requests: Sequence[Request]) -> list[str]:
        """See `LanguageModel`. A prompt that fits into the model's context is read whole.

        Its continuation ends when the context is full. A prompt that is longer than the context loses its beginning, so
        that there is room for the continuation, up to half of the context. The numbers of both are printed.

        Settings: `until` (text or texts; empty ones have no effect), `max_gen_toks` (default 256), `do_sample`, and
        those of `neolm generate` (`temperature`, `top_k`, `top_p`, `repetition_penalty`, `seed`). The default is greedy
        decoding.

        Raises:
            InputError: an unknown setting or a value out of range.
        """
        groups: dict[str, list[int]] = {}
        for number, (_, settings) in enumerate(requests):
            groups.setdefault(json.dumps(dict(settings), sort_keys=True, default=str), []).append(number)
        answers = [""] * len(requests)
        prompts = self.tokenizer.encode_batch([context for context, _ in requests])
        ended = 0
        for numbers in groups.values():
            config = _generation_config(requests[numbers[0]][1])
            keep = self.context - min(config.max_new_tokens, self.context // 2)
            fitting = [ids if len(ids) <= self.context else ids[-keep:] for ids in (prompts[n] for n in numbers)]
            for batch in batches(self.model, fitting, config, self.tokenizer.eos_token_id, self.tokenizer.size):
                for row, delta in text_deltas(batch, self.tokenizer, config.stop):
                    answers[numbers[row]] += delta
                ended += list(batch.finish_reasons.values()).count("context")
        self._say_cut(sum(len(ids) > self.context for ids in prompts), "prompts", len(requests))
        if ended:
            say(
                f"evaluation: {ended:,} of {len(requests):,} continuations end before max_gen_toks, because the "
                f"model's context of {self.context:,} tokens is full"
            )
        return answers

    def _say_cut(self, number: int, what: str, total: int) -> None:
        if number:
            say(
                f"evaluation: {number:,} of {total:,} {what} are longer than the model's context of {self.context:,} "
                "tokens; their beginnings are cut"
            )

    def _encode_pairs(self, requests: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """Token ids of context and continuation, taken from the tokens of both together, as in the harness.

        White space at the end of a context is moved to the continuation first: tokens usually begin with a space.
        """
        moved = [(context.rstrip(), context[len(context.rstrip()) :] + rest) for context, rest in requests]
        contexts = self.tokenizer.encode_batch([context for context, _ in moved])
        wholes = self.tokenizer.encode_batch([context + rest for context, rest in moved])
        alone = self.tokenizer.encode_batch([rest for _, rest in moved])
        eos = self.tokenizer.eos_token_id
        return [
            # If all tokens of the continuation merge with the context, the tokens of the continuation alone are scored.
            (context or [eos], whole[len(context) :] or rest)
            for context, whole, rest in zip(contexts, wholes, alone, strict=True)
        ]


def _generation_config(settings: Mapping[str, Any]) -> GenerationConfig:
    """The settings under the names of `GenerationConfig`."""
    ours = dict(settings)
    until = ours.pop("until", None) or ()
    ours["stop"] = [until] if isinstance(until, str) else [text for text in until if text]
    ours["max_new_tokens"] = ours.pop("max_gen_toks", ours.get("max_new_tokens", 256))
    if not ours.pop("do_sample", ours.get("temperature", 0.0) > 0):
        ours["temperature"] = 0.0
    elif not ours.get("temperature"):
        ours["temperature"] = 1.0
    return generation_config(**ours)
