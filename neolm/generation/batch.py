"""Batched decoding: prompts of different lengths generated together, token by token, on token ids only.

A `Batch` computes all prompts at once (prefill). Then each step feeds the sampled token of each row back (decode),
until every row has ended: by the end-of-text token, `max_new_tokens`, the model's context, or `Batch.end`. The last
token of a row is never fed back, so a prompt as long as the context still gets one token.

With a proposer (`neolm.generation.speculative`), a row's guesses are computed together with its last token, and the
next steps need no forward pass as long as the sampled tokens are those guessed. Sampling does not depend on the
guesses, so the text is the same.

What it leaves out: rows that join a running batch.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from neolm.core.errors import InputError
from neolm.generation.config import GenerationConfig
from neolm.generation.kv_cache import BatchCache
from neolm.generation.model_runner import ModelRunner, cache_for, model_runner_for
from neolm.generation.sampling import apply_penalties, has_penalties, prompt_generators, sample
from neolm.generation.speculative import MAX_SPECULATIVE_TOKENS, Draft, DraftLength, Proposer, proposers
from neolm.models.decoder import Decoder

FinishReason = Literal["end of text", "length", "context", "stop"]

MAX_BATCH_TOKENS = 32_768  # prompts times their maximum length: bounds the memory of the KV cache and of the prefill


@dataclass
class Row:
    """One prompt that is being continued."""

    number: int
    ids: list[int]  # prompt and continuation
    left: int  # tokens until `limit`
    limit: FinishReason  # "length" or "context"
    generator: random.Random
    proposer: Proposer | None
    draft_length: DraftLength = field(default_factory=DraftLength)
    proposed: list[int] = field(default_factory=list)  # computed with the last of `ids` in the last forward pass
    accepted: int = 0  # number of `proposed` tokens that were sampled since
    first_logit: int = 0  # index of the row's first logits in the last forward pass
    has_logits: bool = False  # the logits of its next token are computed


class Batch:
    """Rows that decode together, addressed by number.

    `ids` holds the tokens of each row, prompt included; `finish_reasons` those of rows that have ended.
    `end_token_ids` are the tokens that end a row, unless the config ignores them.
    `forward_passes`, `num_draft_tokens` and `num_accepted_tokens` count the model's passes, and all guesses.
    """

    def __init__(
        self,
        model: Decoder,
        prompts: Mapping[int, Sequence[int]],
        config: GenerationConfig,
        generators: Mapping[int, random.Random],
        eos_token_id: int | None = None,
        vocab_size: int | None = None,
        cache: BatchCache | None = None,
        proposers: Mapping[int, Proposer] | None = None,
        runner: ModelRunner | None = None,
    ) -> None:
        """Begin with prompts that `check_prompts` has checked; `config.stop` is left to the caller, who calls `end`.

        Only ids below `vocab_size` are sampled (an embedding may be padded beyond the tokenizer's size). A `cache`
        holds a beginning of each prompt, but not all of it, in the same order; its capacity is the context, if that is
        less than the model's. The default `runner` is the fastest.
        """
        self.model, self.config = model, config
        self.vocab_size = min(vocab_size or model.config.vocab_size, model.config.vocab_size)
        self.ids = {number: list(ids) for number, ids in prompts.items()}
        self.finish_reasons: dict[int, FinishReason] = {}
        self.forward_passes = self.num_draft_tokens = self.num_accepted_tokens = 0
        self.end_token_ids = end_token_ids(model, eos_token_id)
        context = model.config.max_position_embeddings
        context = min(context, cache.capacity) if cache else context
        longest = max((min(len(ids) + config.max_new_tokens - 1, context) for ids in prompts.values()), default=0)
        self.runner = runner or model_runner_for(model)
        self.cache = cache or cache_for(self.runner, len(prompts), longest)
        self._rows: list[Row] = []
        for number, ids in self.ids.items():
            room = context - len(ids) + 1
            limit: FinishReason = "length" if config.max_new_tokens <= room else "context"
            left = min(config.max_new_tokens, room)
            self._rows.append(Row(number, ids, left, limit, generators[number], (proposers or {}).get(number)))
        self._logits = torch.empty(0)  # of the last forward pass, row by row  # (sum of 1 + proposed, V)
        self._prompts = {number: len(ids) for number, ids in prompts.items()}
        check_logit_bias(config, self.vocab_size)
        if config.max_new_tokens == 0:
            self.finish_reasons, self._rows = dict.fromkeys(prompts, "length"), []

    @property
    def running(self) -> list[int]:
        """Numbers of the rows that have not ended."""
        return [row.number for row in self._rows]

    @torch.inference_mode()
    def step(self) -> list[tuple[int, int]]:
        """Sample the next token of running rows: (row, token), without an end-of-text token that ends its row.

        If some rows still have logits of accepted guesses, only those get a token; else all rows do, after a forward
        pass.

        Raises:
            NonFiniteError: the model's logits are not finite.
        """
        if not any(row.has_logits for row in self._rows):
            self._forward()
        ready = [(index, row) for index, row in enumerate(self._rows) if row.has_logits]
        places = [row.first_logit + row.accepted for _, row in ready]
        logits = self._logits if len(places) == len(self._logits) else self._logits[places]  # (B, V)
        if has_penalties(self.config):
            pairs = zip(logits, ready, strict=True)
            logits = torch.stack(
                [apply_penalties(own, row.ids, self._prompts[row.number], self.config) for own, (_, row) in pairs]
            )
        tokens = sample(logits, self.config, [row.generator for _, row in ready]).tolist()
        for (index, row), token in zip(ready, tokens, strict=True):
            self._verify(index, row, token)
        new = []
        for (_, row), token in zip(ready, tokens, strict=True):
            if token in self.end_token_ids and not self.config.ignore_eos:
                self.end(row.number, "end of text")
                continue
            new.append((row.number, token))
            row.ids.append(token)
            row.left -= 1
            if row.left == 0:
                self.end(row.number, row.limit)
        return new

    def _forward(self) -> None:
        """Run the model on the new tokens of each row and on its guesses."""
        for row, cached in zip(self._rows, self.cache.lengths, strict=True):
            row.proposed, row.accepted = self._propose(row, len(row.ids) - cached), 0
        texts = [row.ids + row.proposed for row in self._rows]
        counts = [1 + len(row.proposed) for row in self._rows]
        logits = next_logits(self.runner, self.cache, texts, counts)
        self._logits = logits if logits.shape[1] == self.vocab_size else logits[:, : self.vocab_size]
        for row, first in zip(self._rows, accumulate(counts[:-1], initial=0), strict=True):
            row.first_logit, row.has_logits = first, True
        self.forward_passes += 1
        self.num_draft_tokens += sum(counts) - len(counts)

    def _propose(self, row: Row, new: int) -> list[int]:
        """Guess the next tokens of `row`, as many as pay and leave every bit of the logits unchanged."""
        if row.proposer is None:
            return []
        # Longer spans are computed in another way (prefill); the last token is never fed back.
        room = min(self.runner.max_decode_tokens - new, row.left - 1, MAX_SPECULATIVE_TOKENS // len(self._rows) - 1)
        count = min(room, row.draft_length.next()) if room > 0 else 0
        return row.proposer.propose(row.ids, count) if count > 0 else []

    def _verify(self, index: int, row: Row, token: int) -> None:
        """Accept the next guess if it is `token`; otherwise remove all further guesses from the cache."""
        if row.accepted < len(row.proposed) and row.proposed[row.accepted] == token:
            row.accepted += 1
            self.num_accepted_tokens += 1
            return
        row.has_logits = False
        if row.proposed:
            row.draft_length.update(len(row.proposed), row.accepted)
            self.cache.rewind(index, len(row.ids))

    def end(self, number: int, reason: FinishReason = "stop") -> None:
        """End a row, unless it has ended already. After the last row, the cache still holds that row's tokens."""
        index = next((index for index, row in enumerate(self._rows) if row.number == number), None)
        if index is None:
            return
        self.finish_reasons[number] = reason
        last = self._rows.pop()
        if not self._rows:
            self.cache.rewind(0, len(last.ids))
            return
        self.cache.drop(index)  # there too, the last row takes the index
        if last.number != number:
            self._rows[index] = last


def next_logits(
    runner: ModelRunner, cache: BatchCache, rows: Sequence[Sequence[int]], counts: Sequence[int] | None = None
) -> Tensor:
    """Compute the tokens of each row that `cache` lacks; returns fp32 logits (B, V) after each row's last token.

    With `counts`, the logits after each row's last `counts` tokens, row by row (sum of counts, V).
    """
    logits = runner.run(cache.kv_cache, cache.spans(rows, counts))
    cache.lengths = [len(ids) for ids in rows]
    return logits


def end_token_ids(model: Decoder, eos_token_id: int | None) -> frozenset[int]:
    """Tokens that end a text: the tokenizer's end of text and those that the model's files list; without one, none."""
    return frozenset() if eos_token_id is None else frozenset((eos_token_id, *model.config.end_tokens))


def check_prompts(
    model: Decoder, prompts: Sequence[Sequence[int]], eos_token_id: int | None, context: int | None = None
) -> list[list[int]]:
    """Return the prompts as lists of ints; an empty prompt becomes the end-of-text token, which begins documents.

    The default `context` is the model's.

    Raises:
        InputError: a prompt is not a sequence of ints, is longer than the context, has an id without an embedding, or
            is empty and the model has no end-of-text token.
    """
    context, size = context or model.config.max_position_embeddings, model.config.vocab_size
    checked = []
    for number, prompt in enumerate(prompts, start=1):
        which = "the prompt" if len(prompts) == 1 else f"prompt {number} of {len(prompts)}"
        if isinstance(prompt, str | bytes) or not hasattr(prompt, "__iter__"):
            raise InputError(f"{which} is not a list of token ids but {type(prompt).__name__} ({prompt!r})")
        ids = []
        for position, token in enumerate(prompt):
            try:
                ids.append(operator.index(token))
            except TypeError:
                raise InputError(f"{which} has {token!r} at position {position}, which is not a token id") from None
            if not 0 <= ids[-1] < size:
                raise InputError(
                    f"{which} has the token id {token} at position {position}, outside the model's vocabulary "
                    f"(0 to {size - 1}). Use the model's own tokenizer"
                )
        if not ids:
            if eos_token_id is None:
                raise InputError(f"{which} is empty, and this model has no end-of-text token to start from")
            ids = [eos_token_id]
        if len(ids) > context:
            raise InputError(f"{which} is {len(ids)} tokens, the model's context is {context}: shorten it")
        checked.append(ids)
    return checked


def check_logit_bias(config: GenerationConfig, vocab_size: int) -> None:
    """Check that every token of `logit_bias` is below `vocab_size`.

    Raises:
        InputError: one is not.
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
    """Yield batches that together decode `prompts`, of similar lengths each; rows are numbered as in `prompts`.

    Raises:
        InputError: see `check_prompts`, and `proposers` on the draft.
    """
    checked = check_prompts(model, prompts, eos_token_id)
    size = min(vocab_size or model.config.vocab_size, model.config.vocab_size)
    generators = dict(enumerate(prompt_generators(checked, config.seed)))
    waiting = sorted(range(len(checked)), key=lambda number: len(checked[number]))
    while waiting:
        longest = len(checked[waiting[-1]]) + config.max_new_tokens
        count = max(1, MAX_BATCH_TOKENS // min(longest, model.config.max_position_embeddings))
        rows, waiting = sorted(waiting[-count:]), waiting[:-count]
        taken = {row: checked[row] for row in rows}
        guesses = proposers(draft, taken, generators, config, size)
        yield Batch(model, taken, config, generators, eos_token_id, size, proposers=guesses)


def generate_ids(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    eos_token_id: int | None = None,
    vocab_size: int | None = None,
    draft: Draft = None,
) -> list[list[int]]:
    """Return the token ids that follow each prompt of token ids, without the end-of-text token; ignores `config.stop`.

    Raises:
        InputError: see `batches`.
    """
    result: list[list[int]] = [[] for _ in prompts]
    for batch in batches(model, prompts, config, eos_token_id, vocab_size, draft):
        while batch.running:
            for row, token in batch.step():
                result[row].append(token)
    return result
