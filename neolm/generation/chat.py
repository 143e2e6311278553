"""`neolm chat`: a conversation on the terminal, or plain completion (`raw`), with streamed answers.

The KV cache is kept between turns, so that each turn computes only its own tokens. (A draft model, which is small,
computes the whole conversation again.)
"""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from neolm.core.errors import InputError
from neolm.core.files import expanded
from neolm.generation.batch import Batch, check_prompts
from neolm.generation.config import GenerationConfig, generation_config
from neolm.generation.generate import check_tokenizer, text_deltas
from neolm.generation.kv_cache import BatchCache
from neolm.generation.sampling import prompt_generators
from neolm.generation.speculative import Draft, proposers
from neolm.models.decoder import Decoder
from neolm.tokenizer.chat import ChatTemplate, Message, PlainTemplate, without_oldest
from neolm.tokenizer.tokenizer import Tokenizer

COMMANDS = {
    "/help": "list the commands",
    "/retry": "replace the last answer by a new one",
    "/temperature": "show the temperature, or set it: /temperature 0.7",
    "/save": "write the conversation to a new file: /save FILE",
    "/reset": "forget the conversation",
    "/exit": "leave (or press Ctrl-D)",
}
_HELP = [f"{name:<14}{meaning}\n" for name, meaning in COMMANDS.items()] + ["Ctrl-C        stop an answer\n"]
HELP = "".join([*_HELP, "A message that begins with / is sent if a space comes first.\n"])
RAW_HELP = "".join([*_HELP, "An empty line continues the last text.\n"])


class Session:
    """A conversation and its KV cache; `notice` is a remark on the last prompt, such as forgotten turns."""

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        config: GenerationConfig,
        raw: bool = False,
        draft: Draft = None,
        template: ChatTemplate | None = None,
        context: int | None = None,
    ) -> None:
        """Begin a conversation of at most `context` tokens; None: the model's context."""
        check_tokenizer(model.config, tokenizer)
        self.template = template or PlainTemplate(tokenizer)
        self.model, self.tokenizer, self.config, self.raw, self.draft = model, tokenizer, config, raw, draft
        longest = model.config.max_position_embeddings
        context = min(context or longest, longest)
        self._context, self._room = context, context - min(config.max_new_tokens, context // 2)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.notice = ""
        self.messages: list[Message] = []
        self._prompt: list[int] = []  # token ids of the last prompt
        self._text: list[int] = []  # and of its continuation too
        self._attempt = 0  # number of earlier answers to the last prompt
        self._cache: BatchCache | None = None
        self._cached_ids: list[int] = []

    def say(self, text: str) -> Generator[str, None, None]:
        """Answer `text`, in raw mode continue it (the last text if it is empty); yields the answer in parts.

        An answer that is abandoned stays in the conversation as far as it came.

        Raises:
            InputError: at the call: the text is longer than the context.
        """
        answer = self._continue(text) if self.raw else self._answer([*self.messages, Message("user", text)])
        self._attempt = 0
        return answer

    def retry(self) -> Generator[str, None, None]:
        """Replace the last answer by a new one, sampled with other random numbers even if the seed is fixed.

        Raises:
            InputError: at the call: there is no answer yet.
        """
        if not self._prompt:
            raise InputError("there is no answer to replace yet")
        self._attempt += 1
        self.notice = "" if self.config.temperature else "the temperature is 0: the answer will be the same"
        if self.raw:
            return self._decode(self._prompt, self.config.stop)
        notice, answer = self.notice, self._answer(self.messages[:-1])
        self.notice = self.notice or notice
        return answer

    def save(self, path: Path) -> None:
        """Write the conversation to a new file: {"messages": [{"role", "content"}, ...]} on one line, or the raw text.

        Raises:
            InputError: the file exists or cannot be written.
        """
        messages = [{"role": message.role, "content": message.text} for message in self.messages]
        text = json.dumps({"messages": messages}, ensure_ascii=False) + "\n"
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(self.tokenizer.decode(self._text) if self.raw else text)
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}): choose another name") from None

    def _answer(self, conversation: Sequence[Message]) -> Generator[str, None, None]:
        messages, ids = without_oldest(self.template, conversation, self._room)
        forgotten = (len(conversation) - len(messages)) // 2
        self._check(ids)
        self.messages = [*messages, Message("assistant", "")]
        self.notice = f"the context is full: the oldest {forgotten} turns are forgotten" if forgotten else ""
        return self._record(self._decode(ids, (*self.config.stop, *self.template.stop)))

    def _record(self, answer: Generator[str, None, None]) -> Generator[str, None, None]:
        said = ""
        try:
            for delta in answer:
                shown = delta if said else delta.lstrip()  # the template's space comes before the answer
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
        return self._decode(ids, self.config.stop)

    def _check(self, ids: Sequence[int]) -> None:
        if len(ids) > self._context:
            raise InputError(f"this is {len(ids)} tokens, the model's context is {self._context}: shorten it")
        check_prompts(self.model, [ids], self.tokenizer.eos_token_id)

    def _decode(self, ids: list[int], stop: Sequence[str]) -> Generator[str, None, None]:
        self._prompt = self._text = ids
        return self._stream(ids, stop)

    def _stream(self, ids: list[int], stop: Sequence[str]) -> Generator[str, None, None]:
        cache = self._cache_for(ids)
        self._cache, self._cached_ids = None, []  # an interrupted step leaves the cache inconsistent
        prompts, generators = {0: ids}, {0: prompt_generators([ids] * (self._attempt + 1), self.config.seed)[-1]}
        eos = self.tokenizer.eos_token_id
        vocab_size = min(self.tokenizer.size, self.model.config.vocab_size)
        guesses = proposers(self.draft, prompts, generators, self.config, vocab_size)
        batch = Batch(self.model, prompts, self.config, generators, eos, vocab_size, cache, guesses)
        try:
            for _, delta in text_deltas(batch, self.tokenizer, stop):
                yield delta
        finally:
            self._text = batch.ids[0]
        self._cache, self._cached_ids = batch.cache, self._text[: batch.cache.lengths[0]]

    def _cache_for(self, ids: Sequence[int]) -> BatchCache:
        """Return the cache with the common beginning of its tokens and `ids`, or a new one."""
        pairs = zip(self._cached_ids, ids, strict=False)
        same = next((n for n, (a, b) in enumerate(pairs) if a != b), len(self._cached_ids))
        same = min(same, len(ids) - 1)  # the last token is always computed: its logits are needed
        if self._cache is None:
            return BatchCache(self.model, 1, self._context)
        self._cache.rewind(0, same)
        return self._cache


def converse(session: Session, read: Callable[[str], str], write: Callable[[str], None]) -> None:
    """Run `session` until the user leaves; `read(prompt)` returns a line as `input` does, `write` shows text."""
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
        command, _, argument = line.strip().partition(" ")
        is_command = command in COMMANDS if session.raw else line.startswith("/")
        if is_command and command == "/exit":
            return
        try:
            if is_command:
                _run_command(session, command, argument.strip(), write)
            elif line.strip() or session.raw:
                _show(session, session.say(line if session.raw else line.strip()), write)
        except (InputError, ValueError) as error:
            write(f"({error})\n")


def _run_command(session: Session, command: str, argument: str, write: Callable[[str], None]) -> None:
    if command == "/help":
        write(RAW_HELP if session.raw else HELP)
    elif command == "/reset":
        session.reset()
        write("(forgotten)\n")
    elif command == "/retry":
        _show(session, session.retry(), write)
    elif command == "/temperature":
        if argument:
            session.config = generation_config(**{**session.config.model_dump(), "temperature": float(argument)})
        write(f"(the temperature is {session.config.temperature:g})\n")
    elif command == "/save":
        if not argument:
            raise InputError("give a file name: /save FILE")
        session.save(expanded(argument))
        write(f"(saved to {argument})\n")
    else:
        near = difflib.get_close_matches(command, COMMANDS, n=1, cutoff=0)[0]
        write(f"({command} is not a command; did you mean {near}? /help lists all)\n")


def _show(session: Session, answer: Generator[str, None, None], write: Callable[[str], None]) -> None:
    if session.notice:
        write(f"({session.notice})\n")
    ending = "(no answer)\n"
    try:
        with contextlib.closing(answer):
            for delta in answer:
                write(delta)
                ending = "\n"
    except KeyboardInterrupt:
        ending = "\n(stopped)\n"
    write(ending)
