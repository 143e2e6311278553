"""Tokens that are guessed ahead and read together: fewer reads for the same text (Leviathan et al. 2023).

Decoding waits for memory, so that reading several tokens costs about as much as reading one. A `Proposer` guesses
how a text goes on; the model reads the guess in one step, and `neolm.generation.batch` keeps what the model itself
chooses. Two proposers: what followed the last tokens earlier in the text (`LookupProposer`: Saxena 2023, "Prompt
lookup decoding"; Yang et al. 2023, "Inference with reference"), and a smaller model (`DraftProposer`).

The text is the one without proposals, token for token. The published rule (Leviathan et al. 2023, algorithm 1; Chen
et al. 2023, algorithm 2) accepts a token with probability min(1, p / q) and keeps only the distribution. Here each
token is drawn from the model's distribution with the row's own random numbers, as without proposals, and a proposal
is right where it is the token drawn. That is right less often, the more so the higher the temperature. A draft model
therefore draws with the very numbers that the model will draw with: two models that agree draw the same token.

What it leaves out: trees of proposals, heads that propose (Medusa), a draft that reads several rows at once.

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

Draft = Decoder | Literal["lookup"] | None  # who proposes: a smaller model, the text itself, nobody

MAX_SPECULATIVE_TOKENS = 64  # of all rows in one step; with more, the processor is busy without guesses
FIRST = 4  # tokens proposed at first
LONGEST_PAUSE = 15  # steps without a proposal


class Proposer(Protocol):
    """Guesses how one text goes on. A wrong guess costs time and changes nothing."""

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens, 1 or more, that may follow `ids`, which are never fewer than at the last call."""
        ...


class Pace:
    """How many tokens to propose: twice as many after all were right, else one more than were right.

    Where nothing was right twice running it pauses, longer each time up to 15 steps, so that a text that does not
    repeat, or a draft of another mind, costs little.
    """

    def __init__(self) -> None:
        self._most, self._misses, self._pause = FIRST, 0, 0

    def next(self) -> int:
        """The number for the coming step; 0: pause."""
        if self._pause:
            self._pause -= 1
            return 0
        return self._most

    def learn(self, proposed: int, right: int) -> None:
        """Take in that `right` of so many proposed tokens were right."""
        self._most = min(max(self._most, 2 * proposed), MAX_DECODE_TOKENS) if right == proposed else right + 1
        self._misses = 0 if right else self._misses + 1
        self._pause = min(2 ** max(self._misses - 1, 0) - 1, LONGEST_PAUSE)


class LookupProposer:
    """Proposes what followed the latest earlier occurrence of the last three tokens, else of the last two.

    Where that runs into the end of the text it goes round: after "ab ab" come "ab ab ab". One token alone says too
    little: on Python files and a licence it made as many reads with more wrong proposals (measured).
    """

    def __init__(self, shortest: int = 2, longest: int = 3) -> None:
        self._shortest, self._longest = shortest, longest
        self._after: dict[tuple[int, ...], int] = {}  # where the latest occurrence of these tokens ends
        self._known = 1  # occurrences that end before here are in the table

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """See `Proposer`."""
        for end in range(self._known, len(ids)):
            for count in range(self._shortest, min(self._longest, end) + 1):
                self._after[tuple(ids[end - count : end])] = end
        self._known = len(ids)
        for count in range(min(self._longest, len(ids)), self._shortest - 1, -1):
            place = self._after.get(tuple(ids[-count:]))
            if place is not None:
                return list(islice(cycle(ids[place : place + most]), most))
        return []


class DraftProposer:
    """Proposes what a smaller model writes with the same settings and the same random numbers.

    Its own context may be shorter: when that is full, nothing more is proposed.
    """

    def __init__(
        self,
        reader: ModelRunner,
        config: GenerationConfig,
        stream: random.Random,
        capacity: int,
        vocab_size: int,
        prompt: int = 0,
    ) -> None:
        """Take what reads the smaller model, and what decides the text.

        Args:
            reader: Reads the smaller model.
            config: The text's settings.
            stream: The row's random numbers; what is drawn here is drawn from a copy.
            capacity: Tokens of the text that are read at most.
            vocab_size: Only ids below it are proposed.
            prompt: Tokens of the prompt.
        """
        self._prompt = prompt
        self._reader, self._config, self._stream, self._vocab_size = reader, config, stream, vocab_size
        self._cache = cache_for(reader, 1, min(capacity, reader.model.config.max_position_embeddings))
        self._length = 0  # of the text at the last call
        self._proposed: list[int] = []  # what was proposed then

    @torch.inference_mode()
    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """See `Proposer`.

        Raises:
            NonFiniteError: the draft's logits are not finite.
        """
        followed = zip(self._proposed, ids[self._length :], strict=False)
        right = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], followed))
        self._cache.rewind(0, min(self._length + right, len(ids) - 1))
        self._length = len(ids)
        unread = ids[self._cache.lengths[0] :]
        room = self._cache.capacity - len(ids) + 1  # the last token proposed is not read
        readable = max(unread) < self._reader.model.config.vocab_size
        self._proposed = self._write(ids, min(most, room)) if readable else []
        return self._proposed

    def _write(self, ids: Sequence[int], count: int) -> list[int]:
        """So many tokens after `ids`, of which the cache holds the beginning."""
        text, stream, config = list(ids), copy.copy(self._stream), self._config
        for _ in range(count):
            logits = self._reader.run(self._cache.pages, self._cache.spans([text]))[:, : self._vocab_size]  # (1, V)
            self._cache.lengths[0] = len(text)
            if has_penalties(config):
                logits = apply_penalties(logits[0], text, self._prompt, config).unsqueeze(0)
            text += sample(logits, config, [stream]).tolist()
        return text[len(ids) :]


def proposers(
    draft: Draft,
    prompts: Mapping[int, Sequence[int]],
    streams: Mapping[int, random.Random],
    config: GenerationConfig,
    vocab_size: int,
) -> dict[int, Proposer]:
    """A proposer for each row, by number; none without a `draft`.

    Args:
        draft: A smaller model, `"lookup"` or None.
        prompts: Token ids of each row.
        streams: Where the draws of each row come from.
        config: Length and sampling.
        vocab_size: Only ids below it are chosen.

    Raises:
        InputError: `draft` is none of these, or embeds fewer tokens than may be chosen.
    """
    if draft is None:
        return {}
    if draft == "lookup":
        return {row: LookupProposer() for row in prompts}
    if not isinstance(draft, Decoder):
        raise InputError(f"draft: a model or 'lookup', not {draft!r}")
    if draft.config.vocab_size < vocab_size:
        raise InputError(
            f"the draft embeds {draft.config.vocab_size} tokens, the text may have {vocab_size}: "
            "a draft needs the model's own vocabulary"
        )
    reader, more = model_runner_for(draft), config.max_new_tokens - 1
    return {
        row: DraftProposer(reader, config, streams[row], len(ids) + more, vocab_size, len(ids))
        for row, ids in prompts.items()
    }


def check_vocabulary(tokenizer: Tokenizer, draft: Tokenizer) -> None:
    """Refuse a draft's tokenizer that gives other ids than the model's `tokenizer`.

    Raises:
        InputError: their tokens differ.
    """
    own, other = (one.backend.get_vocab(with_added_tokens=True) for one in (tokenizer, draft))
    if own != other:
        differing = len(own.items() ^ other.items())
        raise InputError(
            f"the draft's vocabulary is not the model's ({len(other)} and {len(own)} tokens, {differing} differ): "
            "a draft must have been trained with the same tokenizer"
        )
