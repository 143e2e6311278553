"""Sampling of one token for each of several requests, and log-probabilities where they were requested.

Shapes: B requests, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from torch import Tensor

from neolm.core.errors import NonFiniteError
from neolm.generation.config import GenerationConfig
from neolm.generation.kv_cache import Span
from neolm.generation.sampling import apply_penalties, has_penalties, sample
from neolm.serving.request import Request, Token


def sample_tokens(logits: Tensor, requests: Sequence[Request]) -> list[Token | NonFiniteError]:
    """Sample the next token of each request from logits (B, V); requests with equal settings are sampled together.

    A request whose row is not finite gets the error; the others are not affected.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    penalised = logits
    for row, request in enumerate(requests):
        config = request.config
        settings = (config.temperature, config.top_k, config.top_p)
        groups.setdefault((0.0,) if config.temperature == 0 else settings, []).append(row)
        if has_penalties(config):
            penalised = logits.clone() if penalised is logits else penalised
            penalised[row] = apply_penalties(logits[row], request.token_ids, request.num_prompt_tokens, config)
    sampled: dict[int, int | NonFiniteError] = {}
    for rows in groups.values():
        generators = [requests[row].generator for row in rows]
        group = penalised if len(rows) == len(requests) else penalised[rows]
        sampled |= zip(rows, _sample_rows(group, requests[rows[0]].config, generators), strict=True)
    tokens: list[Token | NonFiniteError] = []
    for row, request in enumerate(requests):
        token = sampled[row]
        if isinstance(token, NonFiniteError):
            tokens.append(token)
        elif request.logprobs is None:
            tokens.append(Token(token))
        else:
            tokens.append(_with_logprobs(token, logits[row].log_softmax(-1), request.logprobs))
    return tokens


def collect_prompt_logprobs(request: Request, span: Span, logits: Tensor) -> None:
    """Keep the log-probabilities of the prompt tokens that follow those of `span`; logits are (tokens, V)."""
    assert request.prompt_logprobs is not None
    if span.start == 0:
        request.prompt_logprobs.append(Token(request.token_ids[0]))
    end = min(span.start + len(span.ids) + 1, request.num_prompt_tokens)
    request.prompt_logprobs += [
        _with_logprobs(token_id, row, request.logprobs or 0)
        for token_id, row in zip(request.token_ids[span.start + 1 : end], logits.log_softmax(-1), strict=False)
    ]


def _sample_rows(
    logits: Tensor, config: GenerationConfig, generators: Sequence[random.Random]
) -> Sequence[int | NonFiniteError]:
    """Sample all rows of logits (B, V) at once; if a row is not finite, sample each row alone."""
    try:
        return list(sample(logits, config, generators).tolist())
    except NonFiniteError as error:  # raised before any random number is drawn
        if len(generators) == 1:
            return [error]
    rows = zip(logits, generators, strict=True)
    return [_sample_rows(row[None], config, [generator])[0] for row, generator in rows]


def _with_logprobs(token_id: int, logprobs: Tensor, alternatives: int) -> Token:
    """Return the token with its log-probability out of `logprobs` (V), and the most likely alternatives."""
    best = logprobs.topk(min(alternatives, len(logprobs)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return Token(token_id, float(logprobs[token_id]), tuple(pairs))
