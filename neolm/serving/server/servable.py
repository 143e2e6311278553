"""What the server can serve: a `Servable`, and what the kinds of models that come from a directory have in common."""

from __future__ import annotations

import time
from functools import cached_property
from typing import Any, Literal, Protocol

from torch import Tensor

from neolm.core.files import digest_path
from neolm.core.manifest import chain, read_manifest
from neolm.models.hf import open_model
from neolm.models.stored_model import StoredModel
from neolm.prediction.decision_file import DecisionConfig, read_decision_file
from neolm.prediction.option_scores import OptionEncoder
from neolm.serving.server.errors import ApiError
from neolm.serving.server.job_queue import JobQueue
from neolm.serving.server.response_schema import Link, ModelCard, ModelEntry
from neolm.serving.server.settings import ServeConfig
from neolm.tokenizer.tokenizer import Tokenizer


class Servable(Protocol):
    """A model that the model pool can load and unload."""

    name: str

    @property
    def kind(self) -> str:
        """What it can do."""

    @property
    def size(self) -> int:
        """Bytes of memory that it takes while it is loaded."""

    @property
    def failed(self) -> bool:
        """Whether it is loaded but cannot serve any more; the pool loads it again."""

    def check(self) -> None:
        """Raise an `InputError` if the files are no longer complete; called before memory is freed for it."""

    def start(self) -> None:
        """Load it. Called in a thread; raises a `NeoLMError` if that fails."""

    def close(self) -> None:
        """Free its memory."""


class ServedModel:
    """A model directory that the server offers, with its tokenizer and, while it is loaded, its engine."""

    kind: Literal["generate", "embed", "classify"]
    tokenizer: Tokenizer
    context: int
    size: int
    engine: Any = None  # an `Engine` or `BatchEngine`
    options: OptionEncoder | None = None
    """Reads texts and options for typed decisions, if the model can make them."""
    decisions: DecisionConfig
    limited_because = ""
    """Why the context is shorter than the model's, if memory limits it."""

    def __init__(self, name: str, facts: StoredModel, settings: ServeConfig) -> None:
        self.name, self.facts, self._settings = name, facts, settings
        self.decisions = read_decision_file(facts.directory)
        self.kept: dict[Any, Tensor] = {}
        """What the model has given for options, by client."""
        self.created = int(time.time())
        self.jobs = JobQueue(settings.queue)
        self.reading = JobQueue(settings.queue)  # of files: the digest of a large directory takes a while

    @property
    def failed(self) -> bool:
        """Whether the engine stopped because of an error."""
        return self.engine is not None and bool(self.engine.closed)

    def check(self) -> None:
        """Raise an `InputError` if the directory is no longer a complete model."""
        settings = self._settings
        facts = open_model(self.facts.directory, self.facts.device, settings.dtype, settings.quantize)
        type(self)(self.name, facts, settings)

    def start(self) -> None:
        """Load the weights and start the engine."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop the engine; its requests are cancelled."""
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.close()

    def end(self) -> None:
        """Free what the model holds also while it is not loaded."""

    def own_facts(self) -> dict[str, Any]:
        """Fields of `ModelEntry` that only models of this kind have."""
        raise NotImplementedError

    @cached_property
    def digest(self) -> str:
        """Digest of the directory, from its manifest if it has one. Raises `ApiError` (503) if the files are gone."""
        if not self.facts.directory.is_dir():
            raise ApiError(503, f"the files of {self.name} are gone", None, "model_not_loaded", 30)
        manifest = read_manifest(self.facts.directory)
        return f"sha256:{manifest.digest if manifest is not None else digest_path(self.facts.directory)}"

    def entry(self) -> ModelEntry:
        """The model as one entry of `/v1/models`."""
        return ModelEntry(
            id=self.name,
            kind=self.kind,
            created=self.created,
            context=self.context,
            family=self.facts.config.family,
            parameters=self.facts.parameters,
            loaded=self.engine is not None,
            **self.own_facts(),
        )

    def card(self) -> ModelCard:
        """All that is known about the model; reads files. Raises `ApiError` (503) if the files are gone."""
        facts = self.facts
        return ModelCard(
            id=self.name,
            kind=self.kind,
            dimensions=self.own_facts().get("dimensions"),
            labels=self.own_facts().get("labels"),
            digest=self.digest,
            family=facts.config.family,
            parameters=facts.parameters,
            context=self.context,
            dtype=str(facts.dtype).removeprefix("torch."),
            quantize={8: "int8", 4: "int4"}.get(facts.bits or 0),  # type: ignore[arg-type]
            config=facts.config.model_dump(mode="json"),
            card=self._readme(),
            lineage=[
                Link(
                    stage=manifest.stage,
                    directory=place.name,
                    created=str(manifest.started),
                    details={"digest": f"sha256:{manifest.digest}"} | dict(manifest.counts),
                )
                for place, manifest in chain(facts.directory)
            ],
        )

    def _readme(self) -> str | None:
        path = self.facts.directory / "README.md"
        try:
            return path.read_text(encoding="utf-8") if path.stat().st_size < 2**20 else None
        except (OSError, UnicodeDecodeError):
            return None
