"""Settings of `neolm serve`, for its options and its configuration file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from neolm.core.config import Config, Unit

Positive = Annotated[int, Field(ge=1)]


class ServeConfig(Config):
    """Address, access, models and limits of a server."""

    host: str = "127.0.0.1"
    """Address to listen on; any other than the machine's own requires `keys`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port; 0 chooses a free one and prints it."""
    hosts: tuple[str, ...] = ()
    """Further names of this server, such as that of a proxy."""
    cors: tuple[Annotated[str, Field(pattern=r"^https?://[^/\s]+$")], ...] = ()
    """Origins whose web pages may use the API, such as https://example.org."""
    keys: str | None = None
    """File of API keys, made by `neolm keys new`; null: no key is required."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$")] = "auto"
    """Auto, cpu, cuda, cuda:1 or mps."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Number format of the weights; null: as stored."""
    quantize: Literal["int8", "int4"] | None = None
    """Quantise weights while they are loaded."""
    strict: bool = False
    """The same bits under any load, with less sharing of prefixes."""
    memory: Annotated[float, Field(gt=0, le=2**20), Unit("GiB")] | None = None
    """For the weights and KV caches of all models; null: 80% of the free memory."""
    preload: bool = True
    """Load models at the start, in their order, as long as they fit; otherwise at the first request."""
    text_memory: Annotated[float, Field(gt=0, le=2**20), Unit("GiB")] = 1.0
    """KV cache of each model, part of `memory`; more if one text as long as the context needs more."""

    context: Annotated[int, Field(ge=1), Unit("tokens")] | None = None
    """Longest text, prompt and answer together; null: the model's context, or less if `memory` does not hold it."""

    moderation: str | None = None
    """File of a moderation policy that judges prompts and answers; null: nothing is judged."""
    feedback: Annotated[str | None, BeforeValidator(lambda value: "off" if value is False else value)] = None
    """SQLAlchemy URL of the database for feedback; null: a file of the user; off: no feedback."""
    share_prefixes: bool = False
    """Share the prefix cache among all keys: faster, but keys can learn from the time what others have sent."""
    log_text: bool = False
    """Include prompts and answers in the log."""

    queue: Positive = 256
    """Waiting requests of a model, and of one client those whose texts wait to be encoded; further ones get 429."""
    together: Positive = 64
    """Running requests of a model."""
    body_bytes: Annotated[int, Field(ge=1024), Unit("bytes")] = 2**20
    """Largest request body."""
    prompt_tokens: Annotated[int, Field(ge=1), Unit("tokens")] | None = None
    """Longest prompt, or text to classify; null: the model's context, and any text to classify."""
    max_tokens: Annotated[int, Field(ge=1), Unit("tokens")] = 4096
    """Largest `max_tokens` of a request."""
    choices: Annotated[int, Field(ge=1)] = 16
    """Answers to one request, prompts times `n`; more are allowed if `max_tokens` is 0 or 1."""
    inputs: Annotated[int, Field(ge=1, le=2048)] = 2048
    """Texts of one request for embeddings or labels."""
    scores: Positive = 2**19
    """Log-probabilities of prompts in one answer: their tokens times `logprobs` + 1; or probabilities of labels."""
    request_seconds: Annotated[float, Field(gt=0), Unit("s")] = 600.0
    """Time limit of a request, with loading the model and sending the answer."""
    body_seconds: Annotated[float, Field(gt=0), Unit("s")] = 30.0
    """Time limit for receiving a request, and for sending each chunk of the answer."""
    connections: Positive = 1024
    """Open connections. Beyond it, those that wait for their clients are closed, then requests get status 503."""
    shutdown_seconds: Annotated[float, Field(ge=0), Unit("s")] = 30.0
    """Time limit of running requests after the server was told to stop."""
