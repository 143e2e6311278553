"""Speculative decoding: guess tokens and verify several in one forward pass, for the same text (Leviathan et al. 2023).

Decoding is limited by memory bandwidth, so several tokens cost about as much as one. A `Proposer` guesses the next
tokens; the model computes them in one forward pass, and `neolm.generation.batch` keeps the tokens that the model itself
samples. There are two proposers: prompt lookup, which copies what followed the last tokens earlier in the text
(`LookupProposer`: Saxena 2023, "Prompt lookup decoding"; Yang et al. 2023, "Inference with reference"), and a smaller
draft model (`DraftProposer`).

The text is the same as without speculation, token for token. The published rule (Leviathan et al. 2023, algorithm 1;
Chen et al. 2023, algorithm 2) accepts a token with probability min(1, p / q) and preserves only the distribution. Here
each token is sampled from the model's distribution with the row's own random numbers, as without speculation, and a
guess is accepted if it is that token. Fewer guesses are accepted, the fewer the higher the temperature. A draft model
therefore samples with the same random numbers: two models that agree sample the same token.

What it leaves out: trees of guesses, heads that guess (Medusa), a draft model that runs several rows at once.

Shapes: V vocabulary.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from itertools import cycle, islice, takewhile
from typing import Literal, Protocol

import torch

from neolm.core.errors import InputError
from neolm.generation.config import GenerationConfig
from neolm.generation.model_runner import MAX_DECODE_TOKENS, ModelRunner, cache_for, model_runner_for
from neolm.generation.sampling import apply_penalties, has_penalties, sample
from neolm.models.decoder import Decoder
from neolm.tokenizer.tokenizer import Tokenizer

Draft = Decoder | Literal["lookup"] | None  # a smaller model, prompt lookup, or no speculation

MAX_SPECULATIVE_TOKENS = 64  # of all rows in one step; with more, the processor is busy without guesses
INITIAL_DRAFT_TOKENS = 4
SHORTEST_MATCH, LONGEST_MATCH = 2, 3  # tokens that prompt lookup searches for
MAX_PAUSE = 15  # steps without guesses


class Proposer(Protocol):
    """Guesses the next tokens of one text. A wrong guess costs time and changes nothing."""

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        """Return at most `count` (1 or more) tokens that may follow `ids`, which never get fewer between calls."""
        ...


class DraftLength:
    """Number of tokens to guess: twice as many after all were accepted, else one more than were accepted.

    After two steps without an accepted token it pauses, longer each time up to 15 steps, so that a text that does not
    repeat, or an unsuitable draft model, costs little.
    """

    def __init__(self) -> None:
        self._count, self._misses, self._pause = INITIAL_DRAFT_TOKENS, 0, 0

    def next(self) -> int:
        """Return the number for the next step; 0 in a pause."""
        if self._pause:
            self._pause -= 1
            return 0
        return self._count

    def update(self, proposed: int, accepted: int) -> None:
        """Record that `accepted` of `proposed` tokens were accepted."""
        everything = accepted == proposed
        self._count = min(max(self._count, 2 * proposed), MAX_DECODE_TOKENS) if everything else accepted + 1
        self._misses = 0 if accepted else self._misses + 1
        self._pause = min(2 ** max(self._misses - 1, 0) - 1, MAX_PAUSE)


class LookupProposer:
    """Guesses what followed the latest earlier occurrence of the last three tokens, else of the last two.

    If that reaches the end of the text it repeats: after "ab ab" come "ab ab ab". A single token predicts too little:
    on Python files and a licence it saved no forward pass and made more wrong guesses (measured).
    """

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}  # where the latest occurrence of these tokens ends
        self._indexed = 1  # occurrences that end before this position are in the table

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        """See `Proposer`."""
        for end in range(self._indexed, len(ids)):
            for length in range(SHORTEST_MATCH, min(LONGEST_MATCH, end) + 1):
                self._ends[tuple(ids[end - length : end])] = end
        self._indexed = len(ids)
        for length in range(min(LONGEST_MATCH, len(ids)), SHORTEST_MATCH - 1, -1):
            end = self._ends.get(tuple(ids[-length:]), 0)
            if end:
                return list(islice(cycle(ids[end : end + count]), count))
        return []


class DraftProposer:
    """Guesses what a smaller model generates with the same settings and the same random numbers.

    The context of the draft model may be shorter; when that is full, it guesses nothing more.
    """

    def __init__(
        self, runner: ModelRunner, config: GenerationConfig, generator: random.Random, prompt: int, vocab_size: int
    ) -> None:
        """Prepare the draft model's cache for a prompt of `prompt` tokens; only ids below `vocab_size` are guessed."""
        self._runner, self._config, self._generator = runner, config, generator
        self._vocab_size, self._prompt = vocab_size, prompt
        capacity = prompt + config.max_new_tokens - 1
        self._cache = cache_for(runner, 1, min(capacity, runner.model.config.max_position_embeddings))
        self._length = 0  # of the text at the last call
        self._proposed: list[int] = []

    @torch.inference_mode()
    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        """See `Proposer`.

        Raises:
            NonFiniteError: the draft's logits are not finite.
        """
        followed = zip(self._proposed, ids[self._length :], strict=False)
        accepted = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], followed))
        self._cache.rewind(0, min(self._length + accepted, len(ids) - 1))
        self._length = len(ids)
        new = ids[self._cache.lengths[0] :]
        room = self._cache.capacity - len(ids) + 1  # the last guess is not fed back
        embedded = max(new) < self._runner.model.config.vocab_size
        self._proposed = self._generate(ids, min(count, room)) if embedded else []
        return self._proposed

    def _generate(self, ids: Sequence[int], count: int) -> list[int]:
        """Generate `count` tokens after `ids`."""
        text, generator, config = list(ids), copy.copy(self._generator), self._config
        for _ in range(count):
            logits = self._runner.run(self._cache.kv_cache, self._cache.spans([text]))[:, : self._vocab_size]  # (1, V)
            self._cache.lengths[0] = len(text)
            if has_penalties(config):
                logits = apply_penalties(logits[0], text, self._prompt, config).unsqueeze(0)
            text += sample(logits, config, [generator]).tolist()
        return text[len(ids) :]


def proposers(
    draft: Draft,
    prompts: Mapping[int, Sequence[int]],
    generators: Mapping[int, random.Random],
    config: GenerationConfig,
    vocab_size: int,
) -> dict[int, Proposer]:
    """Return a proposer for each row, none without a `draft`; `prompts` and `generators` are by row.

    Raises:
        InputError: `draft` is none of these, or embeds fewer tokens than may be sampled.
    """
    if draft is None:
        return {}
    if draft == "lookup":
        return {row: LookupProposer() for row in prompts}
    if not isinstance(draft, Decoder):
        raise InputError(f"draft: must be a model or 'lookup', not {draft!r}")
    if draft.config.vocab_size < vocab_size:
        raise InputError(
            f"draft: embeds {draft.config.vocab_size} tokens, but the text may have {vocab_size}. "
            "Use a draft model with the same vocabulary"
        )
    runner = model_runner_for(draft)
    return {row: DraftProposer(runner, config, generators[row], len(ids), vocab_size) for row, ids in prompts.items()}


def check_vocabulary(tokenizer: Tokenizer, draft: Tokenizer) -> None:
    """Check that the draft model's tokenizer has the same token ids as the model's `tokenizer`.

    Raises:
        InputError: they differ.
    """
    own, other = (one.backend.get_vocab(with_added_tokens=True) for one in (tokenizer, draft))
    if own != other:
        differing = len(own.items() ^ other.items())
        raise InputError(
            f"draft: its vocabulary is not the model's ({len(other)} and {len(own)} tokens, {differing} differ). "
            "Use a draft model that was trained with the same tokenizer"
        )
