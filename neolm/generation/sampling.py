"""Sampling, from logits to the next token: penalties and bias, temperature, top-k, top-p, and a draw.

The order temperature, top-k, top-p is that of openai/gpt-2, src/sample.py. Top-p keeps the smallest set of likeliest
tokens whose probability reaches p (Holtzman et al. 2020, equation 3), which is never empty. Among equally likely tokens
at the border those with smaller ids stay, so that k = 1 is greedy. The repetition penalty is Keskar et al. 2019,
section 4.1, in its later form: positive logits of tokens in the text are divided by it, negative ones multiplied.

Every row has its own random generator, seeded with the seed, the prompt and the number of equal prompts before it in
the batch. So a prompt has the same samples in any batch as alone, and equal prompts have different samples.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import hashlib
import math
import random
import secrets
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from neolm.core.errors import NonFiniteError
from neolm.generation.config import GenerationConfig


def has_penalties(config: GenerationConfig) -> bool:
    """Whether `apply_penalties` changes anything."""
    penalties = config.repetition_penalty != 1 or config.presence_penalty or config.frequency_penalty
    return bool(penalties or config.logit_bias)


def apply_penalties(logits: Tensor, ids: Sequence[int], prompt: int, config: GenerationConfig) -> Tensor:
    """Return logits (V) with penalties and bias for the text `ids`, of which the first `prompt` tokens are the prompt.

    The repetition penalty counts the whole text; presence and frequency penalties count the continuation.
    """
    size, device, penalty = logits.shape[0], logits.device, config.repetition_penalty
    if penalty != 1:
        seen = torch.zeros(size, dtype=torch.bool)
        seen[[token for token in ids if token < size]] = True
        logits = torch.where(seen.to(device), torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    change = np.zeros(size, np.float32)
    if config.presence_penalty or config.frequency_penalty:
        counts = np.bincount(np.array([token for token in ids[prompt:] if token < size], np.int64), minlength=size)
        change -= np.float32(config.presence_penalty) * (counts > 0) + np.float32(config.frequency_penalty) * counts
    if config.logit_bias:
        change[list(config.logit_bias)] += np.fromiter(config.logit_bias.values(), np.float32)
    return logits + torch.from_numpy(change).to(device)


def descending(logits: Tensor) -> Tensor:
    """Sort each row of logits (B, V) in descending order."""
    if logits.device.type != "cpu":
        return logits.sort(-1, descending=True).values
    # numpy sorts with vector instructions: 50,257 logits in 0.1 ms, torch takes 3 to 7 ms (measured).
    return torch.from_numpy(-np.sort(-logits.detach().numpy()))


def keep_largest(logits: Tensor, ordered: Tensor, counts: Tensor) -> Tensor:
    """Set all but the `counts` (B, 1) largest logits of each row to -inf; among equal logits the smaller ids stay."""
    least = ordered.gather(1, counts - 1)  # the smallest that stays  # (B, 1)
    above, equal = logits > least, logits == least
    room = counts - above.sum(1, keepdim=True)
    return logits.masked_fill(~(above | (equal & (equal.cumsum(1) <= room))), -torch.inf)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Set all but the k largest logits of each row (B, V) to -inf."""
    B, V = logits.shape
    if k >= V:
        return logits
    return keep_largest(logits, descending(logits), torch.full((B, 1), k, device=logits.device))


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Set all logits (B, V) to -inf but those of the smallest set of likeliest tokens that reaches probability p."""
    if p >= 1:
        return logits
    ordered = descending(logits)
    cumulative = ordered.softmax(-1).double().cumsum(-1)  # (B, V)
    counts = (cumulative < p).sum(-1, keepdim=True) + 1
    return keep_largest(logits, ordered, counts.clamp(max=logits.shape[1]))


def distribution(logits: Tensor, config: GenerationConfig) -> Tensor:
    """Probabilities (B, V) of the next token, for a temperature above 0."""
    temperature = max(config.temperature, torch.finfo(logits.dtype).tiny)
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature  # at most 0: nothing overflows
    if config.top_k is not None:
        logits = keep_top_k(logits, config.top_k)
    if config.top_p is not None:
        logits = keep_top_p(logits, config.top_p)
    return logits.softmax(-1)


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one token (B) from each row of probabilities (B, V) by inversion; uniforms (B) lie in [0, 1)."""
    cumulative = probabilities.double().cumsum(-1)
    total = cumulative[:, -1]
    target = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))
    # The first token whose cumulative probability exceeds the target: never one of probability zero.
    return torch.searchsorted(cumulative, target.unsqueeze(1), right=True).squeeze(1)


def sample(logits: Tensor, config: GenerationConfig, generators: Sequence[random.Random]) -> Tensor:
    """Choose the next token (B) of each row of logits (B, V); greedy at temperature 0 and for top_k = 1.

    Raises:
        NonFiniteError: the largest logit of a row is not finite.
    """
    if logits.device.type not in ("cpu", "cuda"):  # float64, which draws need, may not exist there: mps has none
        logits = logits.cpu()
    if logits.device.type == "cpu":  # numpy takes a fifth of the time, and wakes none of torch's threads
        values = logits.detach().numpy()
        best = values.argmax(-1)
        likeliest = torch.from_numpy(best)
        finite = all(math.isfinite(row[token]) for row, token in zip(values, best, strict=True))
    else:
        largest, likeliest = logits.max(-1)
        finite = bool(largest.isfinite().all())
    if not finite:
        raise NonFiniteError(
            "the model's logits are not finite: its weights are damaged, or overflow if it runs in float16"
        )
    if config.temperature == 0 or config.top_k == 1:
        return likeliest
    uniforms = torch.tensor([each.random() for each in generators], dtype=torch.float64, device=logits.device)
    return draw(distribution(logits, config), uniforms)


def prompt_generators(prompts: Sequence[Sequence[int]], seed: int | None) -> list[random.Random]:
    """Return a random generator for each prompt (token ids); without a seed they differ at every call."""
    seed = secrets.randbits(64) if seed is None else seed
    occurrences: Counter[tuple[int, ...]] = Counter()
    result = []
    for prompt in map(tuple, prompts):
        key = f"{seed} {occurrences[prompt]} {' '.join(map(str, prompt))}"
        occurrences[prompt] += 1
        result.append(random.Random(hashlib.sha256(key.encode()).digest()))
    return result
