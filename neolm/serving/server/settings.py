"""What `neolm serve` can be told: one definition for its options and a configuration file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from neolm.core.config import Config, Unit

Positive = Annotated[int, Field(ge=1)]


class ServeConfig(Config):
    """A server: where it listens, whom it lets in, what it holds, and how much one client may ask for."""

    host: str = "127.0.0.1"
    """Address to listen on; any but the machine's own asks for `keys`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """0: one that is free; it is printed."""
    hosts: tuple[str, ...] = ()
    """Names that browsers may know this server by, beside its address; a proxy's name, for example."""
    cors: tuple[Annotated[str, Field(pattern=r"^https?://[^/\s]+$")], ...] = ()
    """Origins whose pages may ask, such as https://example.org; none if empty."""
    keys: str | None = None
    """File of API keys, which `neolm keys` writes; without it everybody who reaches the server may ask."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$")] = "auto"
    """Auto, cpu, cuda, cuda:1 or mps."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of weights; as stored if null."""
    quantize: Literal["int8", "int4"] | None = None
    """Round weights as they are read."""
    strict: bool = False
    """The same bits under any load, at the price of what sharing saves."""
    memory: Annotated[float, Field(gt=0, le=2**20), Unit("GiB")] | None = None
    """For all models together, weights and texts under way; 80% of what is free at the start if null."""
    preload: bool = True
    """Load models at the start, in their order, as long as they fit; else when a request names them."""
    text_memory: Annotated[float, Field(gt=0, le=2**20), Unit("GiB")] = 1.0
    """Of that, for the texts under way of each model; more if one text needs more."""

    feedback: Annotated[str | None, BeforeValidator(lambda value: "off" if value is False else value)] = None
    """SQLAlchemy URL of the database for feedback; null: a file of this user's; off: none is taken."""
    log_text: bool = False
    """Write prompts and answers into the log."""

    queue: Positive = 256
    """Requests to a model that may wait; more are told to come again."""
    together: Positive = 64
    """Texts of a model that are read or written at a time."""
    body_bytes: Annotated[int, Field(ge=1024), Unit("bytes")] = 2**20
    """Largest request."""
    prompt_tokens: Annotated[int, Field(ge=1), Unit("tokens")] | None = None
    """Longest prompt; null: the model's context."""
    max_tokens: Annotated[int, Field(ge=1), Unit("tokens")] = 4096
    """Longest answer that may be asked for."""
    choices: Annotated[int, Field(ge=1)] = 16
    """Most answers to one request, prompts times `n`, unless they are asked for nothing but scores."""
    scores: Positive = 2**19
    """Most log-probabilities of prompts in one answer: their tokens times `logprobs` + 1."""
    request_seconds: Annotated[float, Field(gt=0), Unit("s")] = 600.0
    """Longest that a request may take, loading and sending included."""
    body_seconds: Annotated[float, Field(gt=0), Unit("s")] = 30.0
    """Longest that a client may take to send its request, or to read a piece of the answer."""
    connections: Positive = 1024
    """Open connections; more are told to come again."""
    shutdown_seconds: Annotated[float, Field(ge=0), Unit("s")] = 30.0
    """How long answers under way may go on after the server is told to stop."""
