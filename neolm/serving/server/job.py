"""A job: what one request asks of a model, checked before the model is loaded. The job queue calls this in a thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from neolm.core.errors import InputError
from neolm.generation.config import GenerationConfig
from neolm.serving.server.errors import ApiError
from neolm.serving.server.generation_model import GenerationModel
from neolm.serving.server.request_schema import ChatRequest, CompletionRequest, SamplingRequest
from neolm.serving.server.settings import ServeConfig
from neolm.tokenizer.chat import Message, TooLongError, without_oldest


@dataclass(frozen=True)
class Job:
    """Continue each of `prompts` `samples` times; choice i belongs to prompt i // samples."""

    model: GenerationModel
    prompts: Sequence[list[int]]
    config: GenerationConfig
    samples: int
    logprobs: int | None = None  # number of alternatives
    echo: Sequence[str] | None = None  # the texts of the prompts, if they are returned
    truncated: int | None = None  # tokens left out of longer prompts, if that was allowed
    chat: bool = False  # leave out the space before an answer
    chat_stop: tuple[str, ...] = ()  # stop strings that are not looked for in that space
    scored: Sequence[int] | None = None  # last tokens of each prompt to score, behind a beginning that prompts share

    @property
    def num_choices(self) -> int:
        """Number of answers."""
        return len(self.prompts) * self.samples

    @property
    def prompt_logprobs(self) -> bool:
        """Whether the prompts are scored."""
        return self.scored is not None or (self.echo is not None and self.logprobs is not None)

    @cached_property
    def prompt_tokens(self) -> int:
        """Number of tokens of all prompts; an empty prompt counts as its end-of-text token."""
        return sum(max(1, len(prompt)) for prompt in self.prompts)

    @cached_property
    def max_new_tokens(self) -> int:
        """Largest number of tokens that the job may generate."""
        limit = self.model.context + 1
        longest = (max(0, min(self.config.max_new_tokens, limit - len(prompt))) for prompt in self.prompts)
        return self.samples * sum(longest)

    def check(self, settings: ServeConfig) -> Job:
        """Return the job. Raises `ApiError` (400) if it exceeds a limit of the model or the server."""
        lengths = [len(prompt) for prompt in self.prompts]
        context, max_new_tokens = self.model.context, self.config.max_new_tokens
        if max(lengths) > _max_prompt(self.model, settings):
            raise _too_long(f"{max(lengths)} tokens", self.model, settings)
        if min(max_new_tokens, context + 1 - min(lengths)) > settings.max_tokens:
            problem = f"max_tokens is {max_new_tokens}, the limit of this server is {settings.max_tokens}"
            raise ApiError(400, problem, "max_tokens", "invalid_value")
        if self.num_choices > settings.queue:
            problem = f"{self.num_choices} texts are requested, {settings.queue} may wait at a time"
            raise ApiError(400, problem, "prompt", "invalid_value")
        scores = self.samples * sum(lengths) * (1 + (self.logprobs or 0)) if self.prompt_logprobs else 0
        if scores > settings.scores:
            problem = f"{scores:,} log-probabilities of prompts are requested, the limit is {settings.scores:,}"
            raise ApiError(400, problem, "logprobs", "invalid_value")
        if max_new_tokens > 1 and self.num_choices > settings.choices:
            problem = f"{self.num_choices} answers are requested, the limit is {settings.choices}"
            raise ApiError(400, problem, "n" if self.samples > 1 else "prompt", "invalid_value")
        return self


def _max_prompt(model: GenerationModel, settings: ServeConfig) -> int:
    """Largest number of tokens of a prompt."""
    return min(model.context, settings.prompt_tokens or model.context)


def _too_long(length: str, model: GenerationModel, settings: ServeConfig) -> ApiError:
    most = _max_prompt(model, settings)
    limit = f"the model's context is {model.context}" if most == model.context else f"this server takes {most}"
    return ApiError(400, f"the prompt is {length}, {limit}", None, "context_length_exceeded")


def _truncation(body: SamplingRequest, model: GenerationModel, settings: ServeConfig) -> int | None:
    """The tokens that are kept of a longer prompt. To keep more than a prompt may have means to keep all."""
    limit = body.truncate_prompt_tokens
    return limit if limit is not None and limit <= _max_prompt(model, settings) else None


def completion_job(body: CompletionRequest, model: GenerationModel, settings: ServeConfig) -> Job:
    """The job of a completion request. Raises `ApiError` (400): see `Job.check`."""
    tokenizer, limit = model.tokenizer, _truncation(body, model, settings)
    texts: list[str | list[int]] = list(body.prompt)
    for text in texts:  # refused before it is encoded, which takes long
        if limit is None and isinstance(text, str) and tokenizer.min_tokens(text) > _max_prompt(model, settings):
            raise _too_long("too long", model, settings)
    prompts = [tokenizer.encode(text) if isinstance(text, str) else text for text in texts]
    truncated = None if body.truncate_prompt_tokens is None else 0
    if limit is not None:
        truncated = sum(max(0, len(prompt) - limit) for prompt in prompts)
        texts = [text if len(ids) <= limit else ids[-limit:] for text, ids in zip(texts, prompts, strict=True)]
        prompts = [prompt[-limit:] for prompt in prompts]
    echo = [text if isinstance(text, str) else tokenizer.decode(text) for text in texts] if body.echo else None
    config = body.generation(16 if body.max_tokens is None else body.max_tokens)
    return Job(model, prompts, config, body.n or 1, body.logprobs, echo, truncated).check(settings)


def chat_job(body: ChatRequest, model: GenerationModel, settings: ServeConfig) -> Job:
    """The job of a chat request. Raises `ApiError` (400): the chat template refuses it, or see `Job.check`."""
    roles = {"developer": "system"}
    messages = [Message(roles.get(turn.role, turn.role), turn.content) for turn in body.messages]  # type: ignore[arg-type]
    limit = _truncation(body, model, settings)
    truncated = None if body.truncate_prompt_tokens is None else 0
    try:
        if limit is None:
            prompt = model.template.encode(messages, _max_prompt(model, settings))
        else:
            whole = len(model.template.encode(messages))
            _, prompt = without_oldest(model.template, messages, limit)
            truncated = whole - len(prompt)
    except TooLongError:
        raise _too_long("too long", model, settings) from None
    except InputError as error:
        raise ApiError(400, str(error), "messages") from None
    longest = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    if longest is None:
        longest = max(0, min(model.context - len(prompt) + 1, settings.max_tokens))
    config = body.generation(longest)
    return Job(
        model,
        [prompt],
        config.model_copy(update={"stop": model.template.stop}),
        body.n or 1,
        (body.top_logprobs or 0) if body.logprobs else None,
        truncated=truncated,
        chat=True,
        chat_stop=config.stop,
    ).check(settings)
