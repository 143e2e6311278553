"""What clients send, in the shapes of OpenAI's API; it is checked here and nowhere else.

Left out, and refused by name where it would change the answer: tools, answers in JSON, pictures and sound, `suffix`,
`best_of` above `n`. What says nothing (null, an empty list) passes whatever its name is: clients send such fields.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from neolm.generation.config import GenerationConfig

MOST_STOPS, MOST_PROMPTS, MOST_ALTERNATIVES, MOST_CHOICES, MOST_MESSAGES = 16, 128, 20, 16, 1024
_SEEDS = 2**63


def _sendable(text: str) -> str:
    """Half of a surrogate pair is no character: it cannot be encoded, and nobody could be sent it back."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not text: half of a surrogate pair stands alone") from None
    return text


Text = Annotated[str, AfterValidator(_sendable)]
Short = Annotated[str, Field(max_length=1024), AfterValidator(_sendable)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
_NOTHING: list[Any] = [None, [], {}]


class Shape(BaseModel):
    """An object with these fields and no others."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Given(Shape):
    """An object that clients send."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": {"enum": _NOTHING}})

    @model_validator(mode="before")
    @classmethod
    def _without_what_says_nothing(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if name in cls.model_fields or value not in _NOTHING}


class StreamOptions(Given):
    """How to stream."""

    include_usage: bool = False
    """Count tokens in a last chunk without choices."""
    include_obfuscation: bool | None = None
    """Ignored."""


def _stops(value: Any) -> Any:
    several = [value] if isinstance(value, str) else value
    return [stop for stop in several if stop != ""] if isinstance(several, list) else several


Stop = Annotated[str, Field(max_length=256), AfterValidator(_sendable)]
Stops = Annotated[list[Stop], Field(max_length=MOST_STOPS)]
Numeral = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]


class Sampling(Given):
    """What both ways of asking have in common."""

    model: Annotated[Text, Field(max_length=512)]
    """One of `/v1/models`."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Divides the logits before the softmax; 0 takes the likeliest token; 1 if not given."""
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Draw from the smallest set of likeliest tokens that has this probability; 1 if not given."""
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """Draw from the k likeliest tokens only; 0 and -1 mean all. (Not OpenAI's.)"""
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    """Answers to each prompt; 1 if not given."""
    stop: Annotated[Stops | None, BeforeValidator(_stops, json_schema_input_type=Stop | Stops | None)] = None
    """Texts that end an answer; they are not part of it."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Taken from the logits of tokens that the answer has already."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Taken from the logits of tokens for each time that the answer has them."""
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = None
    """Makes tokens of prompt and answer less likely where above 1. (Not OpenAI's.)"""
    logit_bias: Annotated[dict[Numeral, Bias], Field(max_length=1024)] | None = None
    """Added to the logits of tokens, by id."""
    seed: Annotated[int, Field(ge=-_SEEDS, lt=_SEEDS)] | None = None
    """Fixes the draws: the same request gets the same answer."""
    truncate_prompt_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Read only the last tokens of a longer prompt, so many; leave out the oldest turns of a longer conversation."""
    ignore_eos: bool | None = None
    """Go on after the end-of-text token. (Not OpenAI's.)"""
    stream: bool | None = None
    """Send the answer in pieces, as server-sent events."""
    stream_options: StreamOptions | None = None
    """With `stream` only."""
    user: Short | None = None
    """Ignored."""
    store: bool | None = None
    """Ignored."""
    metadata: Annotated[dict[Short, Short], Field(max_length=16)] | None = None
    """Ignored."""
    service_tier: Short | None = None
    """Ignored."""
    safety_identifier: Short | None = None
    """Ignored."""
    prompt_cache_key: Short | None = None
    """Ignored: beginnings of texts are always shared."""
    min_p: Annotated[float, Field(ge=0, le=0)] | None = None
    """Not there but for 0, which means all. (Not OpenAI's.)"""

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> Sampling:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream to be true")
        return self

    @property
    def choices(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    def usage_in_stream(self) -> bool:
        """Whether a last chunk counts tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def generation(self, max_tokens: int) -> GenerationConfig:
        """How to continue, for the engine."""
        greedy = self.top_p == 0  # the smallest set has one token
        return GenerationConfig(
            max_new_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=1 if greedy else max(0, self.top_k or 0) or None,
            top_p=None if greedy or self.top_p in (None, 1) else self.top_p,
            repetition_penalty=self.repetition_penalty or 1.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
            stop=tuple(self.stop or ()),
            ignore_eos=bool(self.ignore_eos),
            seed=self.seed,
        )


Ids = Annotated[list[TokenId], Field(max_length=2**20)]
_IDS = TypeAdapter(Ids)


def _prompts(given: Any) -> list[str | list[int]]:
    """Each prompt, of what may be one or many."""
    if given is None or isinstance(given, str):
        return [_sendable(given or "")]
    if not isinstance(given, list):
        raise ValueError("must be a text, a list of token ids, or a list of either")
    prompts: list[str | list[int]]
    if given and all(isinstance(one, str) for one in given):
        prompts = [_sendable(one) for one in given]
    elif given and all(isinstance(one, list) for one in given):
        prompts = [_ids(one) for one in given]
    elif any(isinstance(one, list | str) for one in given):
        raise ValueError("must have all its prompts as texts, or all as lists of token ids")
    else:
        prompts = [_ids(given)]
    if len(prompts) > MOST_PROMPTS:
        raise ValueError(f"has {len(prompts)} prompts, {MOST_PROMPTS} may be in one request")
    return prompts


def _ids(given: Any) -> list[int]:
    try:
        return _IDS.validate_python(given, strict=True)
    except ValidationError:
        raise ValueError("has token ids that are not whole numbers from 0 on") from None


def _no_suffix(given: Any) -> None:
    if given not in (None, ""):
        raise ValueError("is not there: these models write forwards")


class CompletionRequest(Sampling):
    """Continue a text."""

    prompt: Annotated[
        list[str | list[int]],
        BeforeValidator(
            _prompts,
            json_schema_input_type=Text
            | Ids
            | Annotated[list[Text], Field(min_length=1, max_length=MOST_PROMPTS)]
            | Annotated[list[Ids], Field(min_length=1, max_length=MOST_PROMPTS)]
            | None,
        ),
    ] = Field(default="", validate_default=True)
    """A text, token ids, or a list of either; an empty one begins a document."""
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Longest continuation; 16 if not given."""
    echo: bool | None = None
    """Give the prompt back before the continuation."""
    logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    """Log-probabilities of the tokens, and of so many likeliest ones in their place; with `echo` the prompt's too."""
    best_of: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    """As many as `n`."""
    suffix: Annotated[None, BeforeValidator(_no_suffix, json_schema_input_type=Literal[""] | None)] = None
    """Not there: these models write forwards."""

    @model_validator(mode="after")
    def _no_contest(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != self.choices:
            raise ValueError("best_of must be as many as n: nothing is written to be thrown away")
        return self


class TextPart(Given):
    """A piece of a message."""

    type: Literal["text"]
    text: Text
    cache_control: Annotated[dict[Short, Short], Field(max_length=8)] | None = None
    """Ignored."""


_PARTS = TypeAdapter(list[TextPart])


def _content(given: Any) -> Any:
    """The text of a message, which may be in parts, or null in what a client was given."""
    if not isinstance(given, list):
        return given or ""
    try:
        return "".join(part.text for part in _PARTS.validate_python(given))
    except ValidationError:
        raise ValueError('may have parts {"type": "text", "text": ...} only: no pictures, no sound') from None


class ChatMessage(Given):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "developer"]
    content: Annotated[Text, BeforeValidator(_content, json_schema_input_type=Text | list[TextPart] | None)]
    name: Annotated[Text, Field(max_length=64)] | None = None
    """Ignored."""


class ResponseFormat(Given):
    """The form of the answer."""

    type: Literal["text"]


class ChatRequest(Sampling):
    """Answer the last message of a conversation."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Longest answer; as much as the context holds if not given."""
    max_completion_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """The newer name of `max_tokens`."""
    logprobs: bool | None = None
    """Log-probabilities of the answer's tokens."""
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    """And of so many likeliest tokens in their place."""
    response_format: ResponseFormat | None = None
    """Text."""
    modalities: list[Literal["text"]] | None = None
    """Text."""
    tool_choice: Literal["none", "auto"] | None = None
    """There are no tools."""
    function_call: Literal["none", "auto"] | None = None
    """There are no functions."""
    parallel_tool_calls: bool | None = None
    """Ignored."""
    reasoning_effort: Short | None = None
    """Ignored."""
    verbosity: Short | None = None
    """Ignored."""

    @model_validator(mode="after")
    def _top_needs_logprobs(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self

    @property
    def longest(self) -> int | None:
        """The most tokens asked for."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
