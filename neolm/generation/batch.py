"""Prompts decoded together, token by token; knows nothing of text.

A `Batch` reads all its prompts at once, then feeds back what it chose, one token a row and step, until each row is at
its end: the end-of-text token, `max_new_tokens`, the model's context, or the caller's word. The last token of a row is
never fed back, so that a prompt as long as the context still gets one token. A row that ends leaves the cache, and
the others go on faster.

Where a row has a proposer (`neolm.generation.speculative`), the tokens that it guesses are read along with the last
one, and the next steps need no reading as long as the tokens chosen are those guessed. The choice does not know of
the guess, so that the text is the same.

What it leaves out: new rows joining a batch under way.

Shapes: B live rows, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from neolm.core.errors import InputError
from neolm.generation.config import GenerationConfig
from neolm.generation.kv_cache import BatchCache
from neolm.generation.model_runner import ModelRunner, cache_for, model_runner_for
from neolm.generation.sampling import apply_penalties, has_penalties, prompt_generators, sample
from neolm.generation.speculative import MAX_SPECULATIVE_TOKENS, Draft, Pace, Proposer, proposers
from neolm.models.decoder import Decoder

FinishReason = Literal["end of text", "length", "context", "stop"]

# Prompts times their longest extent that are decoded together: bounds the memory of the cache and of the prefill.
MAX_BATCH_TOKENS = 32_768


@dataclass
class Row:
    """One prompt under way."""

    number: int
    ids: list[int]  # the prompt and what followed it
    left: int  # tokens that it may still get
    limit: FinishReason  # what ends it then
    stream: random.Random
    proposer: Proposer | None
    pace: Pace = field(default_factory=Pace)
    proposed: list[int] = field(default_factory=list)  # read along with the last of `ids` then
    right: int = 0  # how many of those were chosen since
    first: int = 0  # where the logits of this row begin among those read
    ready: bool = False  # the logits of its next token are there


class Batch:
    """Rows that decode together, by number.

    `ids` are each row's prompt and what has followed; `ends` says why those rows that are no longer live ended. Of
    `proposed` tokens in all `accepted` were right; the model has read `reads` times.
    """

    def __init__(
        self,
        model: Decoder,
        prompts: Mapping[int, Sequence[int]],
        config: GenerationConfig,
        streams: Mapping[int, random.Random],
        eos_token_id: int | None = None,
        vocab_size: int | None = None,
        cache: BatchCache | None = None,
        proposers: Mapping[int, Proposer] | None = None,
        reader: ModelRunner | None = None,
    ) -> None:
        """Take checked prompts (`check_prompts`) and where the draws of each come from.

        Args:
            model: The decoder; it computes in evaluation mode during each step and is left as it was.
            prompts: Token ids of each row.
            config: Length and sampling; `stop` is the caller's business, through `end`.
            streams: One for each row.
            eos_token_id: Ends a row, unless `config.ignore_eos`.
            vocab_size: Only ids below it are chosen (a padded embedding has more rows than the tokenizer has tokens).
            cache: Already holds the beginning of each prompt, but not all of it, in the same order; None: a new one.
            proposers: Guess how rows go on; None: nothing is guessed.
            reader: Reads `model`; None: the fastest one.
        """
        self.model, self.config = model, config
        self.vocab_size = vocab_size or model.config.vocab_size
        self.ids = {number: list(ids) for number, ids in prompts.items()}
        self.ends: dict[int, FinishReason] = {}
        self.reads = self.proposed = self.accepted = 0
        self._eos = None if config.ignore_eos else eos_token_id
        context = model.config.max_position_embeddings
        extent = max((min(len(ids) + config.max_new_tokens - 1, context) for ids in prompts.values()), default=0)
        self.reader = reader or model_runner_for(model)
        self.cache = cache or cache_for(self.reader, len(prompts), extent)
        self._rows: list[Row] = []
        for number, ids in self.ids.items():
            room = context - len(ids) + 1
            limit: FinishReason = "length" if config.max_new_tokens <= room else "context"
            left = min(config.max_new_tokens, room)
            self._rows.append(Row(number, ids, left, limit, streams[number], (proposers or {}).get(number)))
        self._logits = torch.empty(0)  # those read last, row by row  # (sum of 1 + proposed, V)
        self._prompts = {number: len(ids) for number, ids in prompts.items()}
        check_logit_bias(config, self.vocab_size)
        if config.max_new_tokens == 0:
            self.ends, self._rows = dict.fromkeys(prompts, "length"), []

    @property
    def live(self) -> list[int]:
        """The rows that get more tokens."""
        return [row.number for row in self._rows]

    @torch.inference_mode()
    def step(self) -> list[tuple[int, int]]:
        """Choose the next token of live rows: (row, token). An end-of-text token that ends its row is left out.

        All live rows get one, unless some have been read further ahead: then those alone, until all are to be read.

        Raises:
            NonFiniteError: the model's logits are not finite.
        """
        if not any(row.ready for row in self._rows):
            self._read()
        ready = [(index, row) for index, row in enumerate(self._rows) if row.ready]
        places = [row.first + row.right for _, row in ready]
        logits = self._logits if len(places) == len(self._logits) else self._logits[places]  # (B, V)
        if has_penalties(self.config):
            pairs = zip(logits, ready, strict=True)
            logits = torch.stack(
                [apply_penalties(own, row.ids, self._prompts[row.number], self.config) for own, (_, row) in pairs]
            )
        tokens = sample(logits, self.config, [row.stream for _, row in ready]).tolist()
        for (index, row), token in zip(ready, tokens, strict=True):
            self._judge(index, row, token)
        given = []
        for (_, row), token in zip(ready, tokens, strict=True):
            if token == self._eos:
                self.end(row.number, "end of text")
                continue
            given.append((row.number, token))
            row.ids.append(token)
            row.left -= 1
            if row.left == 0:
                self.end(row.number, row.limit)
        return given

    def _read(self) -> None:
        """Read what is unread of each row, and its proposal after it."""
        for row, held in zip(self._rows, self.cache.lengths, strict=True):
            row.proposed, row.right = self._propose(row, len(row.ids) - held), 0
        texts = [row.ids + row.proposed for row in self._rows]
        wanted = [1 + len(row.proposed) for row in self._rows]
        ahead = sum(wanted) - len(wanted)
        logits = next_logits(self.reader, self.cache, texts, wanted if ahead else None)
        self._logits = logits if logits.shape[1] == self.vocab_size else logits[:, : self.vocab_size]
        for row, first in zip(self._rows, accumulate(wanted[:-1], initial=0), strict=True):
            row.first, row.ready = first, True
        self.reads += 1
        self.proposed += ahead

    def _propose(self, row: Row, unread: int) -> list[int]:
        """What `row` may go on with, as far as it is worth reading and no bit of the logits depends on it."""
        if row.proposer is None:
            return []
        # Longer spans are computed in another way, as a prompt is; the last token is never read.
        room = min(self.reader.max_decode_tokens - unread, row.left - 1, MAX_SPECULATIVE_TOKENS // len(self._rows) - 1)
        most = min(room, row.pace.next()) if room > 0 else 0
        return row.proposer.propose(row.ids, most) if most > 0 else []

    def _judge(self, index: int, row: Row, token: int) -> None:
        """Is `token` the next one proposed? Else what was read after the row's ids is taken back."""
        if row.right < len(row.proposed) and row.proposed[row.right] == token:
            row.right += 1
            self.accepted += 1
            return
        row.ready = False
        if row.proposed:
            row.pace.learn(len(row.proposed), row.right)
            self.cache.rewind(index, len(row.ids))

    def end(self, number: int, why: FinishReason = "stop") -> None:
        """Take a row out of the batch, unless it has ended already. The last row's cache keeps what its ids say."""
        index = next((index for index, row in enumerate(self._rows) if row.number == number), None)
        if index is None:
            return
        self.ends[number] = why
        last = self._rows.pop()
        if not self._rows:
            self.cache.rewind(0, len(last.ids))
            return
        self.cache.drop(index)  # the last row takes the place, here as there
        if last.number != number:
            self._rows[index] = last


def next_logits(
    reader: ModelRunner, cache: BatchCache, rows: Sequence[Sequence[int]], wanted: Sequence[int] | None = None
) -> Tensor:
    """Read what `cache` does not hold yet of each row's ids; fp32 logits (B, V) of the token that comes next.

    With `num_logits` for each row: those after its last so many ids, row by row (sum of wanted, V).
    """
    spans = cache.spans(rows)
    if wanted is not None:
        spans = [replace(span, num_logits=count) for span, count in zip(spans, wanted, strict=True)]
    logits = reader.run(cache.pages, spans)
    cache.lengths = [len(ids) for ids in rows]
    return logits


def check_prompts(model: Decoder, prompts: Sequence[Sequence[int]], eos_token_id: int | None) -> list[list[int]]:
    """The prompts as lists; an empty one becomes the end-of-text token, which begins each document in training.

    Raises:
        InputError: a prompt is longer than the context, has an id without an embedding, or is empty and the model has
            no end-of-text token.
    """
    context, size = model.config.max_position_embeddings, model.config.vocab_size
    checked = []
    for number, prompt in enumerate(prompts, start=1):
        which = "the prompt" if len(prompts) == 1 else f"prompt {number} of {len(prompts)}"
        ids = list(prompt)
        if not ids:
            if eos_token_id is None:
                raise InputError(f"{which} is empty, and this model has no end-of-text token to start from")
            ids = [eos_token_id]
        if len(ids) > context:
            raise InputError(f"{which} is {len(ids)} tokens, the model's context is {context}: shorten it")
        if min(ids) < 0 or max(ids) >= size:
            raise InputError(
                f"{which} has token ids outside the model's 0 to {size - 1}: is the tokenizer another one's?"
            )
        checked.append(ids)
    return checked


def check_logit_bias(config: GenerationConfig, vocab_size: int) -> None:
    """Refuse a bias for tokens that cannot be chosen.

    Raises:
        InputError: there are some.
    """
    if wrong := [token for token in config.logit_bias if not 0 <= token < vocab_size]:
        raise InputError(f"logit_bias: token {wrong[0]} is not one of 0 to {vocab_size - 1}")


def batches(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    eos_token_id: int | None = None,
    vocab_size: int | None = None,
    draft: Draft = None,
) -> Iterator[Batch]:
    """Batches that together decode `prompts`, whose rows keep their index; prompts of like length go together.

    Raises:
        InputError: see `check_prompts`, and `proposers` on the draft.
    """
    checked = check_prompts(model, prompts, eos_token_id)
    streams = dict(enumerate(prompt_generators(checked, config.seed)))
    waiting = sorted(range(len(checked)), key=lambda number: len(checked[number]))
    while waiting:
        longest = len(checked[waiting[-1]]) + config.max_new_tokens
        together = max(1, MAX_BATCH_TOKENS // min(longest, model.config.max_position_embeddings))
        rows, waiting = sorted(waiting[-together:]), waiting[:-together]
        taken = {row: checked[row] for row in rows}
        guesses = proposers(draft, taken, streams, config, vocab_size or model.config.vocab_size)
        yield Batch(model, taken, config, streams, eos_token_id, vocab_size, proposers=guesses)


def generate_ids(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    eos_token_id: int | None = None,
    vocab_size: int | None = None,
    draft: Draft = None,
) -> list[list[int]]:
    """The token ids that follow each prompt of token ids, without the end-of-text token; `config.stop` is not heeded.

    Raises:
        InputError: see `batches`.
    """
    result: list[list[int]] = [[] for _ in prompts]
    for batch in batches(model, prompts, config, eos_token_id, vocab_size, draft):
        while batch.live:
            for row, token in batch.step():
                result[row].append(token)
    return result
