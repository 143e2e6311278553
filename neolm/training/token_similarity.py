"""How alike the tokens of a sequence look to an encoder with new weights.

Attention averages the tokens of a sequence. If the weights are large for their width, what it adds in a post-norm block
is as large as what it is added to, and after some layers all tokens look the same (Dong et al. 2021, "Attention is not
all you need: pure attention loses rank doubly exponentially with depth"). Then nothing can be said about a masked token
but how frequent its kind is, so that a training starts at the unigram entropy and can stay there. Layers that share
their weights, as ALBERT's do, repeat the same average and lose the tokens sooner.

Measured in docs/log.md: with the published standard deviation of 0.02, the mean cosine similarity is 0.48 in a
BERT-base, 0.83 in an ALBERT-base and 0.998 in an ALBERT-large. A learning rate that is too high does the same within
some hundred steps: the similarity of small ALBERTs went from 0.22 to 1.00.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from neolm.data.batch import Batch
from neolm.models.encoder import Encoder

SEQUENCES = 4  # that are measured
LIMIT = 0.7
"""Similarity from which on a training is likely to stay at the unigram entropy with AdamW."""


@torch.no_grad()
def token_similarity(model: Encoder, batch: Batch) -> float:
    """Mean cosine similarity of the final hidden states of different tokens of a sequence, 1 if they are all alike."""
    part = batch.split(SEQUENCES)[0].to(str(model.device))
    mask = part["attention_mask"].bool()
    mode = model.training
    model.eval()
    hidden = model.hidden_states(part["input_ids"], part["attention_mask"], part["token_type_ids"]).float()
    model.train(mode)
    unit = F.normalize(hidden, dim=-1)  # (B, T, C), zero at padding
    lengths = mask.sum(dim=1)  # (B)
    of_all = unit.sum(dim=1).square().sum(dim=-1)  # (B), the sum over all pairs, a token and itself included
    return float((of_all - lengths).sum() / (lengths * (lengths - 1)).sum().clamp(min=1))


def diagnosis(batch: Batch, model: nn.Module) -> str:
    """The similarity in a model whose loss stays at the unigram entropy, as a sentence that follows another."""
    assert isinstance(model, Encoder)
    similarity = token_similarity(model, batch)
    alike = similarity >= LIMIT
    reason = "they look alike to the model, which is why it learns nothing else" if alike else "that is not the reason"
    return f". The tokens of a sequence have a mean cosine similarity of {similarity:.2f}: {reason}"


def similarity_line(similarity: float, model: Encoder) -> str:
    """One line about the similarity at the start, with advice if it is too high."""
    line = f"new weights: the tokens of a sequence have a mean cosine similarity of {similarity:.2f}"
    if similarity < LIMIT:
        return line
    return (
        f"{line}: they look alike to the model, so its loss may stay at the unigram entropy. Set "
        f"model.initializer_range lower (now {model.config.initializer_range:g}), or optimiser=muon"
    )
