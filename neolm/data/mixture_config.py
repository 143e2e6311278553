"""The section `pretrain.mixture` of a recipe: how much of the training sequences each source of the corpus has."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from neolm.core.config import Config, Unit
from neolm.core.errors import SettingError

MAX_SOURCES = 4096
_WAYS = ("preset", "weights", "temperature", "epochs", "tokens")

Amount = Annotated[float, Field(ge=0)]

PRESETS: dict[str, dict[str, float]] = {
    "pile": {  # percent of the bytes, Gao et al. 2020, table 1
        "Pile-CC": 18.11, "PubMed Central": 14.40, "Books3": 12.07, "OpenWebText2": 10.01, "ArXiv": 8.96,
        "Github": 7.59, "FreeLaw": 6.12, "StackExchange": 5.13, "USPTO Backgrounds": 3.65, "PubMed Abstracts": 3.07,
        "Gutenberg (PG-19)": 2.17, "OpenSubtitles": 1.55, "Wikipedia (en)": 1.53, "DM Mathematics": 1.24,
        "Ubuntu IRC": 0.88, "BookCorpus2": 0.75, "EuroParl": 0.73, "HackerNews": 0.62, "YoutubeSubtitles": 0.60,
        "PhilPapers": 0.38, "NIH ExPorter": 0.30, "Enron Emails": 0.14,
    },
    "gpt3": {  # Brown et al. 2020, table 2.2; the printed percentages are 101 together
        "Common Crawl": 60, "WebText2": 22, "Books1": 8, "Books2": 8, "Wikipedia": 3,
    },
}  # fmt: skip


class MixtureConfig(Config):
    """Give one of these, or none: then all documents are read equally often."""

    preset: Literal["pile", "gpt3"] | None = None
    """Weights of The Pile (`meta.pile_set_name` as sources) or of GPT-3; those of missing sources go to the others."""
    weights: dict[str, Amount] | None = None
    """Source and weight: its share of the training tokens is its weight, divided by the sum of all; 0: not read."""
    temperature: Annotated[float | None, Field(gt=0)] = None
    """Shares in proportion to n^(1/temperature), where a source has n tokens; 1: as they come, large: all the same."""
    epochs: Annotated[dict[str, Amount] | None, Unit("epochs")] = None
    """Source and how often it is read, relative to the others: its share is in proportion to its tokens times this."""
    tokens: Annotated[dict[str, Annotated[int, Field(ge=0)]] | None, Unit("tokens")] = None
    """Source and its budget of tokens, relative to the others: its share is in proportion to it."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = [name for name in _WAYS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of {', '.join(_WAYS)}, not {' and '.join(given)}")
        if given and self.temperature is None and not any((self._asked or {}).values()):
            raise ValueError(f"{given[0]}: at least one source must have more than 0")
        return self

    @property
    def active(self) -> bool:
        """Whether sources are mixed."""
        return any(getattr(self, name) is not None for name in _WAYS)

    @property
    def _asked(self) -> Mapping[str, float] | None:
        """What was asked for by source; None: it follows from the sizes of the sources."""
        return PRESETS[self.preset] if self.preset else self.weights or self.epochs or self.tokens

    def check(self, sources: Collection[str]) -> None:
        """Compare the names with the sources of the training documents.

        Raises:
            SettingError: a name is not one of them, or too few or too many are left. Presets may name others.
        """
        way = next(name for name in _WAYS if getattr(self, name) is not None)
        if len(sources) > MAX_SOURCES:
            raise SettingError(
                "mixture",
                f"the corpus has {len(sources):,} sources, and at most {MAX_SOURCES:,} can be mixed. A file is one, if "
                "its records have no `source`",
            )
        known, asked = sorted(sources), self._asked or {}
        shown = f"the corpus has {', '.join(known[:8])}{' and others' if len(known) > 8 else ''}"
        for name in asked if self.preset is None else ():
            if name not in sources:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f"did you mean '{near[0]}'?" if near else shown
                raise SettingError(f"mixture.{way}", f"no training document is from the source '{name}'; {hint}")
        if asked and not any(asked.get(name) for name in sources):
            raise SettingError(f"mixture.{way}", f"none of its sources has training documents; {shown}")

    def shares(self, tokens: Mapping[str, int]) -> dict[str, float]:
        """The share of the training tokens of each source that is read, by the tokens that the sources have."""
        self.check(tokens)
        if self.temperature is not None:
            largest = max(tokens.values())
            amounts = {name: (size / largest) ** (1 / self.temperature) for name, size in tokens.items()}
        elif self.epochs is not None:
            amounts = {name: self.epochs.get(name, 0) * size for name, size in tokens.items()}
        else:
            amounts = {name: (self._asked or {}).get(name, 0) for name in tokens}
        total = sum(amounts.values())
        return {name: amounts[name] / total for name in sorted(amounts) if amounts[name] > 0}

    def budget(self, tokens: Mapping[str, int]) -> float | None:
        """Tokens that `epochs` or `tokens` ask for together; None where only shares are asked for."""
        if self.epochs is not None:
            return sum(times * tokens[name] for name, times in self.epochs.items())
        return None if self.tokens is None else sum(self.tokens.values())

    @property
    def preset_shares(self) -> dict[str, float]:
        """The shares of the preset, with the sources that a corpus does not have."""
        weights = PRESETS.get(self.preset or "", {})
        return {name: weight / sum(weights.values()) for name, weight in weights.items()}
