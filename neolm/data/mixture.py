"""Batches in which each source of the corpus has the share that was asked for.

The shards hold each document once, in the order of the corpus. The documents of a source are a stream of their own,
which is cut into windows of T tokens; the last window goes on at the beginning, so that no token is left out. A source
with n windows shows them in the order of `Permutation(epoch)`, epoch after epoch, as a training on it alone would.

`divide` gives the source of example e and the number of examples of that source before it, in closed form: the sources
are halved again and again, and of the first e examples of a group with the weights v and w, floor(e v / (v + w)) are of
its first half. So the count of each source is never off by more than the number of halvings, at most 12, whatever the
step; nothing is drawn at random, nothing is stored, and the sources of a batch are as mixed as they can be.

Every sequence has T tokens, so shares of sequences are shares of tokens. Weights are rounded to 2^-25 of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from neolm.core.errors import InputError
from neolm.core.progress import count
from neolm.data.batch import Batch
from neolm.data.batch_sizes import BatchSizes
from neolm.data.mixture_config import MixtureConfig
from neolm.data.order import Permutation
from neolm.data.shards import TokenShards

WEIGHTS = 2**25  # sum of the whole weights: products with the number of an example, under 2^37, fit in int64


def divide(examples: NDArray[np.int64], weights: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The source (B,) of each of the `examples` (B,), counted from 0, and its number among those of the source."""
    if len(weights) == 1:
        return np.zeros_like(examples), examples
    middle = len(weights) // 2
    first, total = int(weights[:middle].sum()), int(weights.sum())
    before = examples * first // total
    is_first = (examples + 1) * first // total > before
    source, number = np.empty_like(examples), np.empty_like(examples)
    for half, rows, offset in ((weights[:middle], is_first, 0), (weights[middle:], ~is_first, middle)):
        if rows.any():
            within = before[rows] if offset == 0 else (examples - before)[rows]
            found, number[rows] = divide(within, half)
            source[rows] = found + offset
    return source, number


def shared_out(examples: int, weights: Sequence[int]) -> list[int]:
    """How many of the first `examples` are of each source."""
    if len(weights) == 1:
        return [examples]
    middle = len(weights) // 2
    first = examples * sum(weights[:middle]) // sum(weights)
    return shared_out(first, weights[:middle]) + shared_out(examples - first, weights[middle:])


class SourceStream:
    """The documents of one source as a stream, which begins again at its end."""

    def __init__(self, starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
        """`starts` and `sizes` (R,) are the runs of tokens of the source in the stream of the shards."""
        self._starts, self._bounds = starts, np.concatenate([[0], np.cumsum(sizes)])
        self.tokens = int(self._bounds[-1])

    def spans(self, start: int, size: int) -> Iterator[tuple[int, int]]:
        """Positions and sizes, in the stream of the shards, of `size` tokens from `start` on."""
        while size > 0:
            start %= self.tokens
            run = int(np.searchsorted(self._bounds, start, side="right")) - 1
            length = min(size, int(self._bounds[run + 1]) - start)
            yield int(self._starts[run]) + start - int(self._bounds[run]), length
            start, size = start + length, size - length


def source_streams(shards: TokenShards) -> dict[str, SourceStream]:
    """The stream of each source, by name. Neighbouring documents of a source are one run."""
    try:
        tables = shards.index_tables("start", "tokens", "source")
    except pa.ArrowInvalid:
        raise InputError(
            f"{shards.directory}: built by an earlier version, without sources. Delete it to rebuild it"
        ) from None
    names = pa.concat_tables(tables)["source"].combine_chunks().dictionary_encode()
    codes, sizes = names.indices.to_numpy(), np.concatenate([table["tokens"].to_numpy() for table in tables])
    starts = np.concatenate([t["start"].to_numpy() + at for t, at in zip(tables, shards.file_starts, strict=False)])
    firsts = np.flatnonzero(np.diff(codes, prepend=-1))
    runs, codes = np.add.reduceat(sizes, firsts) if len(firsts) else sizes, codes[firsts]
    found = names.dictionary.to_pylist()
    return {found[code]: SourceStream(starts[firsts][codes == code], runs[codes == code]) for code in range(len(found))}


class MixedBatches:
    """The training split in windows of `sequence_length` tokens of one source each; `sizes` are those of the steps."""

    def __init__(
        self, shards: TokenShards, sequence_length: int, sizes: BatchSizes, seed: int, config: MixtureConfig
    ) -> None:
        """Raises SettingError: a source is not in the corpus, or nothing is left to mix."""
        self.shards, self.sequence_length, self.sizes, self.seed, self.config = (
            shards, sequence_length, sizes, seed, config,
        )  # fmt: skip
        self.available = source_streams(shards)
        self.shares = config.shares({name: stream.tokens for name, stream in self.available.items()})
        """Share of the sequences of each source."""
        self._streams = [self.available[name] for name in self.shares]
        self._weights = np.array([max(1, round(share * WEIGHTS)) for share in self.shares.values()], np.int64)

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        """Return the batch of `step`, counted from 1, or the sequences `rows` of it, as a rank reads them.

        Its examples are pairs: the number of the source, and the number of the window in its stream.
        """
        source, number = divide(np.asarray(self.sizes.examples(step), np.int64)[rows], self._weights)
        pairs = list(zip(source.tolist(), self._windows(source, number).tolist(), strict=True))
        T = self.sequence_length
        tokens = np.empty((len(pairs), T + 1), np.int64)
        for row, (place, window) in enumerate(pairs):
            filled = 0
            for start, size in self._streams[place].spans(window * T, T + 1):
                tokens[row, filled : filled + size] = self.shards.read(start, size)
                filled += size
        both = torch.from_numpy(tokens)
        return Batch({"input_ids": both[:, :-1], "labels": both[:, 1:]}, pairs)

    def _windows(self, source: NDArray[np.int64], number: NDArray[np.int64]) -> NDArray[np.int64]:
        """The windows (B,) in the streams of their sources."""
        windows = np.empty_like(number)
        for place in np.unique(source):
            rows = np.flatnonzero(source == place)
            size = -(-self._streams[place].tokens // self.sequence_length)
            epochs, index = np.divmod(number[rows], size)
            for epoch in np.unique(epochs):
                order = Permutation(size, self.seed, int(epoch) * len(self._streams) + int(place))
                windows[rows[epochs == epoch]] = order(index[epochs == epoch])
        return windows

    def documents(self, examples: Sequence[tuple[int, int]]) -> list[str]:
        """Ids of the documents in windows of sources, each once."""
        T = self.sequence_length
        spans = (span for place, window in examples for span in self._streams[place].spans(window * T, T + 1))
        return list(dict.fromkeys(identity for span in spans for identity in self.shards.documents(*span)))

    def token_counts(self, vocab_size: int, limit: int) -> NDArray[np.int64]:
        """Occurrences (V,) of each token in the first `limit` tokens of the training."""
        counts, step = np.zeros(vocab_size, np.int64), 0
        while counts.sum() < limit:
            step += 1
            counts += np.bincount(self.batch(step)["input_ids"].numpy().ravel(), minlength=vocab_size)
        return counts

    def realised(self, step: int) -> dict[str, dict[str, Any]]:
        """For each source: the share that was asked for, and what is read up to the end of `step`."""
        examples = self.sizes.examples(step).stop
        found = {}
        for (name, share), number in zip(
            self.shares.items(), shared_out(examples, self._weights.tolist()), strict=True
        ):
            tokens = number * self.sequence_length
            found[name] = {
                "asked": round(share, 6),
                "share": round(number / examples, 6),
                "tokens": tokens,
                "epochs": round(tokens / self.available[name].tokens, 3),
            }
        return found

    def summary(self, last_step: int) -> Iterator[str]:
        """Lines about the mixture up to `last_step`, for the log of a run."""
        read = self.realised(last_step)
        largest = sorted(read, key=lambda name: (-read[name]["share"], name))
        parts = (f"{name} {read[name]['share']:.2%} ({read[name]['epochs']:.3g} epochs)" for name in largest)
        yield f"mixture, in tokens: {', '.join(parts)}"
        if repeated := [f"{name} {read[name]['epochs']:.3g} times" for name in largest if read[name]["epochs"] > 1]:
            yield f"mixture: too small for their weight, so that they are repeated: {', '.join(repeated)}"
        total = sum(stream.tokens for stream in self.available.values())
        if out := sorted(set(self.available) - set(self.shares)):
            parts = (f"{name} ({self.available[name].tokens / total:.1%} of the corpus)" for name in out)
            yield f"mixture: without a weight, so not read: {', '.join(parts)}"
        if absent := {n: share for n, share in self.config.preset_shares.items() if n not in self.available}:
            names = ", ".join(f"{name} {share:.2%}" for name, share in absent.items())
            yield f"mixture: in the preset, but not in the corpus; the others have their shares: {names}"
        budget = self.config.budget({name: stream.tokens for name, stream in self.available.items()})
        reads = self.sizes.examples(last_step).stop * self.sequence_length
        if budget is not None and abs(reads / budget - 1) > 0.01:
            yield f"mixture: {count(budget)} tokens are asked for together, and {count(reads)} are trained on"
