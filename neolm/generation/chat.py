"""`neolm chat`: a conversation on the terminal, or plain completion (`raw`), with answers that appear as they grow.

What the cache already holds of the conversation is not read again: a turn costs its own tokens. (A
draft model, which is small, reads the conversation anew.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence

from neolm.core.errors import InputError
from neolm.generation.batch import Batch
from neolm.generation.config import GenerationConfig
from neolm.generation.generate import check_tokenizer, text_deltas
from neolm.generation.kv_cache import BatchCache
from neolm.generation.sampling import prompt_generators
from neolm.generation.speculative import Draft, proposers
from neolm.models.decoder import Decoder
from neolm.tokenizer.chat import ChatTemplate, Message, PlainTemplate, without_oldest
from neolm.tokenizer.tokenizer import Tokenizer

HELP = """\
/help   this text
/reset  forget what was said
/exit   leave (so does Ctrl-D)
Ctrl-C  stops an answer
"""
RAW_HELP = HELP + "An empty line goes on with the last text.\n"


class Session:
    """What was said so far, and the cache of it; `notice` is what the person should know about the last prompt."""

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        config: GenerationConfig,
        raw: bool = False,
        draft: Draft = None,
        template: ChatTemplate | None = None,
    ) -> None:
        check_tokenizer(model, tokenizer)
        self.template = template or PlainTemplate(tokenizer)
        self.model, self.tokenizer, self.config, self.raw, self.draft = model, tokenizer, config, raw, draft
        context = model.config.max_position_embeddings
        self._context, self._room = context, context - min(config.max_new_tokens, context // 2)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.notice = ""
        self.messages: list[Message] = []
        self._text: list[int] = []  # token ids of the text that `raw` goes on with
        self._cache: BatchCache | None = None
        self._held: list[int] = []  # token ids that the cache holds

    def say(self, text: str) -> Generator[str, None, None]:
        """Answer `text`, or in raw mode continue it (an empty one: go on with the last); the answer in parts.

        An answer that is left early stays in the conversation as far as it came.

        Raises:
            InputError: at the call: the text is longer than the context.
        """
        return self._continue(text) if self.raw else self._answer(text)

    def _answer(self, text: str) -> Generator[str, None, None]:
        said = [*self.messages, Message("user", text)]
        messages, ids = without_oldest(self.template, said, self._room)
        forgotten = (len(said) - len(messages)) // 2
        self._check(ids)
        self.messages = [*messages, Message("assistant", "")]
        self.notice = f"the context is full: the oldest {forgotten} turns are forgotten" if forgotten else ""
        return self._record(self._decode(ids, (*self.config.stop, *self.template.stop)))

    def _record(self, answer: Generator[str, None, None]) -> Generator[str, None, None]:
        said = ""
        try:
            for piece in answer:
                shown = piece if said else piece.lstrip()  # the template's space comes before the answer
                said += shown
                if shown:
                    yield shown
        finally:
            self.messages[-1] = Message("assistant", said.strip())

    def _continue(self, text: str) -> Generator[str, None, None]:
        ids = self.tokenizer.encode(text) if text else self._text
        self.notice = ""
        if not text and len(ids) > self._room:
            self.notice = f"the context is full: the oldest {len(ids) - self._room} tokens are forgotten"
            ids = ids[-self._room :]
        ids = ids or [self.tokenizer.eos_token_id]
        self._check(ids)
        self._text = ids
        return self._decode(ids, self.config.stop)

    def _check(self, ids: Sequence[int]) -> None:
        if len(ids) > self._context:
            raise InputError(f"this is {len(ids)} tokens, the model's context is {self._context}: shorten it")

    def _decode(self, ids: list[int], stop: Sequence[str]) -> Generator[str, None, None]:
        cache = self._cache_for(ids)
        self._cache, self._held = None, []  # an interrupted step leaves the cache torn: kept only if all goes well
        prompts, streams = {0: ids}, dict(enumerate(prompt_generators([ids], self.config.seed)))
        vocabulary, eos = self.tokenizer.size, self.tokenizer.eos_token_id
        guesses = proposers(self.draft, prompts, streams, self.config, vocabulary)
        batch = Batch(self.model, prompts, self.config, streams, eos, vocabulary, cache, guesses)
        try:
            for _, piece in text_deltas(batch, self.tokenizer, stop):
                yield piece
        finally:
            self._text = batch.ids[0]
        self._cache, self._held = batch.cache, self._text[: batch.cache.lengths[0]]

    def _cache_for(self, ids: Sequence[int]) -> BatchCache:
        """The cache with what it holds of the beginning of `ids`, or a new one."""
        same = next((n for n, (a, b) in enumerate(zip(self._held, ids, strict=False)) if a != b), len(self._held))
        same = min(same, len(ids) - 1)  # the last token is always read: its logits are wanted
        if self._cache is None:
            return BatchCache(self.model, 1, self._context)
        self._cache.rewind(0, same)
        return self._cache


def converse(session: Session, read: Callable[[str], str], write: Callable[[str], None]) -> None:
    """Run `session` until the person leaves; `read(prompt)` gives a line as `input` does, `write` shows text."""
    write("/help lists the commands.\n")
    while True:
        try:
            line = read("> ")
        except EOFError:
            write("\n")
            return
        except KeyboardInterrupt:
            write("\n(/exit or Ctrl-D leaves)\n")
            continue
        command = line.strip()
        if command == "/exit":
            return
        if command == "/help":
            write(RAW_HELP if session.raw else HELP)
        elif command == "/reset":
            session.reset()
            write("(forgotten)\n")
        elif command or session.raw:
            _show_answer(session, line if session.raw else command, write)


def _show_answer(session: Session, text: str, write: Callable[[str], None]) -> None:
    try:
        answer = session.say(text)
    except InputError as error:
        write(f"({error})\n")
        return
    if session.notice:
        write(f"({session.notice})\n")
    ending = "(no answer)\n"
    try:
        with contextlib.closing(answer):
            for piece in answer:
                write(piece)
                ending = "\n"
    except KeyboardInterrupt:
        ending = "\n(stopped)\n"
    write(ending)
