"""A document inside a file with many, before its text is extracted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from neolm.core.chunks import DamageError


@dataclass(frozen=True)
class Item:
    """A document of `kind` `html`, `wikitext` or `text`, or the damage for which it has none."""

    name: str
    """What follows the file in its id."""
    data: bytes = b""
    kind: str = "text"
    facts: Mapping[str, Any] = field(default_factory=dict)
    charset: str = ""
    """The declared encoding; empty: not declared."""
    damage: DamageError | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """The facts that are known, and the SHA-256 of the raw bytes."""
        known = {name: value for name, value in self.facts.items() if value}
        return {**known, "digest": digest_of(self.data)}


def digest_of(data: bytes) -> str:
    """The digest of the raw bytes of a document, as its metadata has it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
