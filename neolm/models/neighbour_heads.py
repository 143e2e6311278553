"""New weights of an encoder, half of whose attention heads look at neighbouring tokens from the first step.

With random weights, attention averages over the whole sequence. A small encoder then learns nothing but the
frequencies of tokens for millions of tokens, until some head finds the token before or after (docs/log.md, "What holds
ALBERT at its start"). Here the heads know their neighbours, as in the mimetic initialisation of Trockman & Kolter 2023
(arXiv 2305.09828), which imitates trained weights; this one is for learnt position embeddings.

    position    p(i) = (sin w_1 i, ..., sin w_n i, cos w_1 i, ..., cos w_n i)
    key         W_K x(j) = g p(j) + ...
    query       W_Q x(i) = g R p(i) + ... = g p(i + d) + ...        R rotates each (sin, cos) by w d
    logit       q(i) . k(j) / sqrt(D) = g^2 / sqrt(D) sum_k cos(w_k (i + d - j)) + ...      greatest at j = i + d

where d is the distance of the head and the dots are tokens and random weights. The first half of the heads get the
distances -1, 1, -2, 2, -3 and so on; the others stay random, to see the whole sequence. Frequencies reach pi, or
fractions of it for further sets of channels, whose heads see a wider neighbourhood. All of it is learnt further like
any other weight.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from neolm.models.encoder import Encoder

PEAK = 8.0  # logit of the token at the right distance; at 2.7, attention is too flat for 128 tokens (docs/log.md)
TRUNCATED = 0.88  # standard deviation of a standard normal distribution that is truncated at twice it


@torch.no_grad()
def aim_at_neighbours(model: Encoder, generator: torch.Generator) -> None:
    """Set the position embeddings to sinusoids, and add distances to the queries and keys of half of the heads.

    A projection of narrow embeddings becomes orthogonal, with outputs of the same size as its inputs.
    """
    config = model.config
    E, C, D = config.embedding_width, config.hidden_size, config.head_size
    pairs = min(D, E) // 2
    sets = E // (2 * pairs)  # of channels with frequencies of their own
    frequencies = _frequencies(sets, pairs, generator)  # (sets, pairs)
    angles = torch.arange(config.max_position_embeddings)[:, None, None] * frequencies  # (T, sets, pairs)
    positions = torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1)  # (T, sets x 2 x pairs)
    amplitude = math.sqrt(2) * TRUNCATED * config.initializer_range  # the variance is that of the token embeddings
    # After the norm, positions have a third of the variance beside tokens and token types: of n pairs, p . p = 2 n / 3.
    gain = math.sqrt(PEAK * math.sqrt(D) / (pairs * 2 / 3))
    model.positions.weight.zero_()
    model.positions.weight[:, : positions.shape[1]].copy_(amplitude * positions)
    channels = torch.eye(E)  # (E, C): from the residual stream back to the embedding
    if model.projection is not None:
        orthogonal = torch.linalg.qr(torch.randn(C, E, generator=generator))[0]  # (C, E)
        model.projection.weight.copy_(orthogonal * math.sqrt(C / E))
        channels = orthogonal.T * math.sqrt(E / C)
    for name, weight in model.named_parameters():
        if not name.endswith("attention.qkv.weight"):
            continue
        queries, keys = weight[: 2 * C].view(2, config.num_heads, D, C)  # (H, D, C) each
        for head in range((config.num_heads + 1) // 2):
            number = head % sets
            seen = channels[number * 2 * pairs : (number + 1) * 2 * pairs]  # (2 x pairs, C)
            distance = (head // 2 + 1) * (1 if head % 2 else -1)
            keys[head, : 2 * pairs] += (gain * seen).to(keys)
            queries[head, : 2 * pairs] += (gain * _rotation(distance * frequencies[number]) @ seen).to(queries)


def _frequencies(sets: int, pairs: int, generator: torch.Generator) -> Tensor:
    """Frequencies (sets, pairs), in radians per token, up to pi, pi, pi/2, pi/2, pi/4 and so on.

    They are spread evenly, each at a random place of its share, so that no other distance looks like the right one.
    """
    shares = (torch.arange(pairs) + torch.rand(sets, pairs, generator=generator)) / pairs
    return shares * math.pi * 2.0 ** -(torch.arange(sets) // 2)[:, None]


def _rotation(angles: Tensor) -> Tensor:
    """The matrix (2n, 2n) that adds the angles (n) to n pairs, given as all sines and then all cosines."""
    cosines, sines = angles.cos().diag(), angles.sin().diag()
    return torch.cat([torch.cat([cosines, sines], dim=1), torch.cat([-sines, cosines], dim=1)])
