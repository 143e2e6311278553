"""Log-probabilities of windows of tokens under a decoder; all likelihoods are computed from them.

Texts of different lengths share a batch by padding on the right. Attention is causal, so padding changes no score and
needs no mask. The head runs over the scored positions in chunks, because the logits of a whole batch take much memory.

Shapes: B batch, T time, C channels, V vocabulary, N scored positions of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neolm.core.ranks import ONE_RANK, RunRanks
from neolm.generation.model_runner import evaluating
from neolm.models.decoder import Decoder

MAX_LOGITS = 2**23  # float32 logits in memory at a time: 32 MiB

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """Token ids (T+1). The model reads all but the last; the last `scored` of them are scored."""

    ids: Ids
    scored: int

    def __post_init__(self) -> None:
        assert 0 < self.scored < len(self.ids)


def sliding_windows(ids: Ids, window: int, stride: int) -> Iterator[Window]:
    """Divide `ids` into windows so that each token but the first is scored exactly once.

    The first window scores all its tokens. Each later window is `stride` tokens further and scores only these, with at
    least `window - stride` tokens of context. The last window reaches back for a full window of context.
    With `stride == window` these are the windows of lm-evaluation-harness (`get_rolling_token_windows` with a context
    of 1), with the last window at full context.
    """
    assert 0 < stride <= window
    length, done = len(ids) - 1, 0
    while done < length:
        end = min(done + (stride if done else window), length)
        yield Window(ids[max(0, end - window) : end + 1], end - done)
        done = end


@torch.no_grad()
def score_windows(
    model: Decoder,
    windows: Sequence[Window],
    batch_size: int,
    progress: Callable[[int], None] = lambda tokens: None,
    ranks: RunRanks = ONE_RANK,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return for each window the summed log-probability of its scored tokens (nats), and whether all were likeliest.

    Args:
        model: It computes on its device in its precision; log-probabilities are float32, sums float64.
        windows: In any order; windows of similar length are computed together.
        batch_size: Number of windows computed at a time.
        progress: Called with the number of tokens scored after each batch.
        ranks: The connected processes that share the batches; all of them call this.
    """
    sums, greedy = np.zeros(len(windows)), np.ones(len(windows), bool)
    # The longest first, so that running out of memory shows at the start.
    order = sorted(range(len(windows)), key=lambda i: (-len(windows[i].ids), -windows[i].scored))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

    def score(rows: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        return _score_batch(model, [windows[row] for row in rows])

    with evaluating(model):
        for rows, (log_probabilities, likeliest) in ranks.map(score, batches):
            owner = np.repeat(rows, [windows[row].scored for row in rows])  # (N)
            np.add.at(sums, owner, log_probabilities)
            np.logical_and.at(greedy, owner, likeliest)
            progress(len(owner))
    return sums, greedy


def _score_batch(model: Decoder, batch: Sequence[Window]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Log-probability of each scored token, window after window, and whether it was the likeliest: (N) each."""
    ids = np.zeros((len(batch), max(len(window.ids) for window in batch)), np.int64)  # (B, T+1)
    scored = np.zeros((len(batch), ids.shape[1] - 1), bool)  # (B, T)
    for row, window in enumerate(batch):
        end = len(window.ids)
        ids[row, :end] = window.ids
        scored[row, end - 1 - window.scored : end - 1] = True
    device = model.device
    tokens, mask = torch.from_numpy(ids).to(device), torch.from_numpy(scored).to(device)
    hidden = model(tokens[:, :-1], logits=False)[mask]  # (N, C)
    targets = tokens[:, 1:][mask]  # (N)
    step = max(1, MAX_LOGITS // model.config.vocab_size)
    pairs = zip(torch.split(hidden, step), torch.split(targets, step), strict=True)
    found = [_log_probabilities(model.head(h).float(), t) for h, t in pairs]
    log_probabilities, likeliest = (torch.cat(parts) for parts in zip(*found, strict=True))
    return log_probabilities.cpu().double().numpy(), likeliest.cpu().numpy()


def _log_probabilities(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """From logits (N, V), the log-probability of targets (N), and whether each is the argmax."""
    log_probabilities = logits.gather(1, targets.unsqueeze(1)).squeeze(1) - logits.logsumexp(1)
    return log_probabilities, logits.argmax(1) == targets
