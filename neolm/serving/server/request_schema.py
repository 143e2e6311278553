"""Request bodies of OpenAI's API, and their validation.

Not supported, and refused by name where it would change the answer: tools, JSON output, images and audio, `suffix`,
`best_of` above `n`. Unknown fields that are null or empty are ignored, because clients send such fields.
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

MAX_STOPS, MAX_PROMPTS, MAX_ALTERNATIVES, MAX_CHOICES, MAX_MESSAGES = 16, 128, 20, 16, 1024
_MAX_SEED = 2**63


def _unicode(text: str) -> str:
    """Refuse text that cannot be encoded: half of a surrogate pair is not a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode: it contains half of a surrogate pair") from None
    return text


def _number(value: Any) -> Any:
    """Refuse booleans and texts, which pydantic would convert."""
    if isinstance(value, bool | str):
        raise ValueError("must be a number")
    return value


NUMBER = BeforeValidator(_number)
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, AfterValidator(_unicode)]
Short = Annotated[str, Field(max_length=1024), AfterValidator(_unicode)]
MAX_TOKEN_ID = 2**31
TokenId = Annotated[int, Field(ge=0, lt=MAX_TOKEN_ID), NUMBER]
_EMPTY: list[Any] = [None, [], {}]
IGNORED: Any = Field(default=None, description="Ignored.")


class Shape(BaseModel):
    """An object with these fields and no others."""

    model_config = ConfigDict(
        extra="forbid", allow_inf_nan=False, protected_namespaces=(), use_attribute_docstrings=True
    )


class RequestShape(Shape):
    """An object that clients send; unknown fields that are null or empty are ignored."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": {"enum": _EMPTY}})

    @model_validator(mode="before")
    @classmethod
    def _ignore_empty(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {name: value for name, value in data.items() if name in known or value not in _EMPTY}


class StreamOptions(RequestShape):
    """Options of a stream."""

    include_usage: Flag = False
    """Send the numbers of tokens in a last chunk without choices."""
    include_obfuscation: Flag | None = IGNORED


def _stops(value: Any) -> Any:
    stops = [value] if isinstance(value, str) else value
    return [stop for stop in stops if stop != ""] if isinstance(stops, list) else stops


Stop = Annotated[str, Field(max_length=256), AfterValidator(_unicode)]
Stops = Annotated[list[Stop], Field(max_length=MAX_STOPS)]
Numeral = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100), NUMBER]


class SamplingRequest(RequestShape):
    """The fields that completions and chat completions share."""

    model: Annotated[Text, Field(max_length=512)]
    """Name of the model, one of `/v1/models`."""
    temperature: Annotated[float, Field(ge=0, le=2), NUMBER] | None = None
    """Divides the logits before the softmax; 0 always takes the most likely token. Default: 1."""
    top_p: Annotated[float, Field(ge=0, le=1), NUMBER] | None = None
    """Sample from the smallest set of most likely tokens whose probability reaches this. Default: 1, all tokens."""
    top_k: Annotated[int, Field(ge=-1), NUMBER] | None = None
    """Sample from the k most likely tokens; 0, -1 and the default mean all. (An addition to OpenAI's API.)"""
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES), NUMBER] | None = None
    """Number of answers to each prompt. Default: 1."""
    stop: Annotated[Stops | None, BeforeValidator(_stops, json_schema_input_type=Stop | Stops | None)] = None
    """Strings that end an answer; they are not part of it."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2), NUMBER] | None = None
    """Subtracted from the logits of tokens that the answer already contains. Default: 0."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2), NUMBER] | None = None
    """Subtracted from the logits of tokens once for each time that the answer contains them. Default: 0."""
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10), NUMBER] | None = None
    """Above 1: makes tokens of prompt and answer less likely. Default: 1. (An addition to OpenAI's API.)"""
    logit_bias: Annotated[dict[Numeral, Bias], Field(max_length=1024)] | None = None
    """Added to the logits of tokens: a mapping from token id to a number from -100 to 100."""
    seed: Annotated[int, Field(ge=-_MAX_SEED, lt=_MAX_SEED), NUMBER] | None = None
    """With a seed, the same request gets the same answer."""
    truncate_prompt_tokens: Annotated[int, Field(ge=1, lt=2**31), NUMBER] | None = None
    """Keep the last tokens of a longer prompt; drop the oldest turns of a longer conversation. (An addition.)"""
    ignore_eos: Flag | None = None
    """Continue after an end-of-text token. (An addition to OpenAI's API.)"""
    stream: Flag | None = None
    """Send the answer in chunks, as server-sent events."""
    stream_options: StreamOptions | None = None
    """Options of a stream; only with `stream`."""
    user: Short | None = IGNORED
    store: Flag | None = IGNORED
    metadata: Annotated[dict[Short, Short], Field(max_length=16)] | None = IGNORED
    service_tier: Short | None = IGNORED
    safety_identifier: Short | None = IGNORED
    prompt_cache_key: Short | None = None
    """Ignored: prefix caching is always on."""
    min_p: Annotated[float, Field(ge=0, le=0), NUMBER] | None = None
    """Not supported: only 0, which keeps all tokens, is accepted."""

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> SamplingRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream to be true")
        return self

    def generation(self, max_tokens: int) -> GenerationConfig:
        """The settings of the engine."""
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


Ids = list[TokenId]


def texts_or_ids(value: Any, limit: int, name: str) -> list[str | list[int]]:
    """Convert a text, a list of token ids, or a list of either, to a list of texts or lists of token ids."""
    if isinstance(value, str):
        return [_unicode(value)]
    if not isinstance(value, list):
        raise ValueError("must be a text, a list of token ids, or a list of either")
    texts = value if any(isinstance(one, str | list) for one in value) else [value]
    if len({type(one) for one in texts}) > 1:
        raise ValueError(f"must have all its {name}s as texts, or all as lists of token ids")
    if len(texts) > limit:
        raise ValueError(f"has {len(texts)} {name}s, the limit is {limit}")
    return [_unicode(one) if isinstance(one, str) else _token_ids(one) for one in texts]


def _prompts(value: Any) -> list[str | list[int]]:
    return texts_or_ids("" if value is None else value, MAX_PROMPTS, "prompt")


def _token_ids(value: Any) -> list[int]:
    # pydantic takes ten times as long for a long list.
    if set(map(type, value)) - {int} or (value and not 0 <= min(value) <= max(value) < MAX_TOKEN_ID):
        raise ValueError("has token ids that are not whole numbers from 0")
    return list(value)


def _no_suffix(value: Any) -> None:
    if value not in (None, ""):
        raise ValueError("is not supported: these models only continue a text")


class CompletionRequest(SamplingRequest):
    """Continue a text."""

    prompt: Annotated[
        list[str | list[int]],
        BeforeValidator(
            _prompts,
            json_schema_input_type=Text
            | Ids
            | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
            | Annotated[list[Ids], Field(min_length=1, max_length=MAX_PROMPTS)]
            | None,
        ),
    ] = Field(default="", validate_default=True)
    """A text, a list of token ids, or a list of either; an empty prompt starts a new document."""
    max_tokens: Annotated[int, Field(ge=0, lt=2**31), NUMBER] | None = None
    """Largest number of tokens to generate. Default: 16."""
    echo: Flag | None = None
    """Return the prompt before the continuation."""
    logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES), NUMBER] | None = None
    """Return log-probabilities, with this number of alternatives; with `echo` those of the prompt too."""
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES), NUMBER] | None = None
    """Only the value of `n` is accepted."""
    suffix: Annotated[None, BeforeValidator(_no_suffix, json_schema_input_type=Literal[""] | None)] = None
    """Not supported: only an empty text is accepted."""

    @model_validator(mode="after")
    def _best_of_is_n(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of must be as many as n: other values are not supported")
        return self


class TextPart(RequestShape):
    """A part of a message."""

    type: Literal["text"]
    """Only text is supported."""
    text: Text
    """The text."""
    cache_control: Annotated[dict[Short, Short], Field(max_length=8)] | None = IGNORED


_PARTS = TypeAdapter(list[TextPart])


def _content(value: Any) -> Any:
    """The text of a message, which may be in parts, or null in an answer that a client sends back."""
    if not isinstance(value, list):
        return value or ""
    try:
        return "".join(part.text for part in _PARTS.validate_python(value))
    except ValidationError:
        raise ValueError('may have parts {"type": "text", "text": ...} only: no pictures, no sound') from None


class ChatMessage(RequestShape):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "developer"]
    """The author; developer means system."""
    content: Annotated[Text, BeforeValidator(_content, json_schema_input_type=Text | list[TextPart] | None)]
    """A text, or a list of text parts."""
    name: Annotated[Text, Field(max_length=64)] | None = IGNORED


class ResponseFormat(RequestShape):
    """The format of the answer."""

    type: Literal["text"]
    """Only text is supported."""


class ChatRequest(SamplingRequest):
    """Answer the last message of a conversation."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    """The conversation, oldest message first."""
    max_tokens: Annotated[int, Field(ge=0, lt=2**31), NUMBER] | None = None
    """Largest number of tokens to generate. Default: as many as the context holds."""
    max_completion_tokens: Annotated[int, Field(ge=0, lt=2**31), NUMBER] | None = None
    """The newer name of `max_tokens`."""
    logprobs: Flag | None = None
    """Return the log-probabilities of the answer."""
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES), NUMBER] | None = None
    """Number of alternatives at each place; only with `logprobs`."""
    response_format: ResponseFormat | None = None
    """Only text is supported."""
    modalities: list[Literal["text"]] | None = None
    """Only text is supported."""
    tool_choice: Literal["none", "auto"] | None = None
    """Ignored: tools are not supported."""
    function_call: Literal["none", "auto"] | None = None
    """Ignored: functions are not supported."""
    parallel_tool_calls: Flag | None = IGNORED
    reasoning_effort: Short | None = IGNORED
    verbosity: Short | None = IGNORED

    @model_validator(mode="after")
    def _top_needs_logprobs(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self
