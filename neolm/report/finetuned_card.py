"""What the model card of a fine-tuned classifier or regression says: task, labels, data, scores, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from neolm.core.manifest import Manifest
from neolm.report.finetune_results import FinetuneResults, examples_of, read_results, title, with_interval
from neolm.report.finetune_tables import FinetuneTables
from neolm.report.pages import plural, render
from neolm.report.run_files import DIGITS, FAMILIES
from neolm.report.scores import Score
from neolm.report.sizes import Pairs

MAX_LABELS = 200  # that a card lists
PROBLEMS = ("single_label_classification", "multi_label_classification", "regression")
METHODS = {
    "probe": "a linear head was trained on what the frozen model gives; the other weights are those of the base",
    "fine-tuned": "all weights were trained, from a linear head on what the frozen model gave",
}

Artefacts = Sequence[tuple[Path, Manifest]]


@dataclass(frozen=True)
class FinetunedCard:
    """The records of a fine-tuned model."""

    name: str
    config: Mapping[str, Any]
    """`config.json` of the model."""
    model: Manifest
    finetune: Manifest
    results: FinetuneResults
    lineage: list[tuple[str, str]]
    converted: str = ""
    """What the weights were converted to after the measurement."""

    def render(self) -> str:
        """The whole card."""
        results, data = self.results, FinetuneTables(self.results, self.finetune.config.get("finetune") or {})
        architecture = str((self.config.get("architectures") or [""])[0])
        family = str(self.model.counts.get("family", ""))
        return render(
            "finetuned_card.md",
            metadata=self._metadata(architecture),
            card=self,
            results=results,
            family=FAMILIES.get(family, family or "published"),
            transformers=self._is_known_to_transformers(architecture),
            settings=data.settings,
            problems=data.problems(),
            measured_on=data,
            pair=bool(results.part("prediction").get("pair")),
        )

    @property
    def parameters(self) -> int:
        """Of the model."""
        return int(self.model.counts.get("parameters") or 0)

    @property
    def method(self) -> str:
        """What was trained."""
        return METHODS.get(self.results.model, self.results.model)

    @property
    def task(self) -> str:
        """What the model does, in words."""
        results = self.results
        reads = "two texts" if results.part("prediction").get("pair") else "a text"
        if results.is_regression:
            return f"gives {reads} a number"
        how_many = "any number" if results.has_several else "one"
        return f"gives {reads} {how_many} of {plural(len(results.names), 'label')}"

    @property
    def base(self) -> str:
        """Name of the model that was fine-tuned."""
        given = self.finetune.inputs.get("base")
        return Path(given.path).name if given else "another model"

    @property
    def labels(self) -> str:
        """The labels as code."""
        shown = ", ".join(code(name) for name in self.results.names[:MAX_LABELS])
        more = len(self.results.names) - MAX_LABELS
        return f"{shown} and {more:,} more" if more > 0 else shown

    @property
    def examples(self) -> tuple[int, int]:
        """Numbers of training and validation examples."""
        return examples_of(self.finetune.counts)

    @property
    def tables(self) -> list[tuple[str, str, str]]:
        """What each table was used for, its name and its SHA-256."""
        names = {"train": "training", "validation": "validation"}
        return [
            (names[key.split()[0]], code(Path(place.path).name), place.digest)
            for key, place in sorted(self.finetune.inputs.items())
            if key.split()[0] in names
        ]

    @property
    def scores(self) -> list[tuple[str, ...]]:
        """A row for each score: its name, and the values of the candidates; the main one first, with intervals."""
        main = self.results.main
        first = [with_interval(main, self.results.main_score(name)) for name in self.results.candidates]
        others = [row for row in self.results.score_table() if row[0] != self.results.label(main)]
        return [(self.results.label(main), *first), *others]

    @property
    def candidates(self) -> list[str]:
        """Names of the candidates, with the model's marked."""
        return [
            f"{title(name)} (this model)" if name == self.results.model else title(name)
            for name in self.results.candidates
        ]

    @property
    def calibration(self) -> Pairs:
        """Temperature, calibration error, abstention and thresholds."""
        prediction, (before, after) = self.results.part("prediction"), self.results.calibration_error
        thresholds = self.results.part("prediction", "thresholds")
        listed = [f"{code(name)} {_limit(value)}" for name, value in list(thresholds.items())[:MAX_LABELS]]
        temperature, limit = prediction.get("temperature"), prediction.get("abstain_below")
        rows = [
            ("Temperature of the logits", f"{temperature:.3f}" if isinstance(temperature, float) else ""),
            ("Expected calibration error without it", "" if before is None else f"{before:.3f}"),
            ("Expected calibration error with it", "" if after is None else f"{after:.3f}"),
            ("No label below a probability of", f"{limit:.3f}" if limit else ""),
            ("Probability from which a label is given", ", ".join(listed)),
        ]
        return [(name, value) for name, value in rows if value]

    def _is_known_to_transformers(self, architecture: str) -> bool:
        """Whether transformers loads the model with its head."""
        return "MeanPooled" not in architecture and "quantization_config" not in self.config

    def _metadata(self, architecture: str) -> str:
        """The YAML block at the top of the card."""
        task = {"type": "text-classification"}
        found: dict[str, Any] = {
            "library_name": "transformers" if self._is_known_to_transformers(architecture) else "neolm",
            "pipeline_tag": task["type"],
            "tags": ["neolm", *filter(None, [str(self.model.counts.get("family", ""))])],
        }
        score: Score | None = self.results.main_score(self.results.model)
        if score is not None:
            label = self.results.label(self.results.main)
            metrics = [{"type": self.results.main, "name": label, "value": round(score.value, 4)}]
            dataset = {"type": "validation", "name": "validation examples of the fine-tuning"}
            result = {"task": task, "dataset": dataset, "metrics": metrics}
            found["model-index"] = [{"name": self.name, "results": [result]}]
        return str(yaml.safe_dump(found, sort_keys=False, allow_unicode=True))


def finetuned_card(name: str, config: Any, artefacts: Artefacts) -> FinetunedCard | None:
    """The card of a fine-tuned model; None for other models, and where the results are not at hand.

    Args:
        name: Of the model.
        config: The content of its `config.json`.
        artefacts: The model's directory followed by what it was built from.
    """
    place, model = next(((place, m) for place, m in artefacts if m.stage == "model"), (Path(), None))
    source = model.inputs.get("finetune") if model else None
    if model is None or source is None:
        return None
    directory = (place.parent / source.path).resolve()
    finetune, results = dict(artefacts).get(directory), read_results(directory)
    if finetune is None or not results.candidates or results.problem not in PROBLEMS:
        return None
    export = artefacts[0][1].config if artefacts[0][1].stage == "export" else {}
    converted = str(export.get("quantize") or export.get("dtype") or "")
    lineage = [(manifest.stage, manifest.digest[:DIGITS]) for _, manifest in artefacts]
    return FinetunedCard(name, config if isinstance(config, dict) else {}, model, finetune, results, lineage, converted)


def code(text: str) -> str:
    """`text` as code in Markdown, on one line, with `|` escaped for tables."""
    words = " ".join(text.split()).replace("|", "\\|")
    return f"`` {words} ``" if "`" in words else f"`{words}`"


def _limit(value: Any) -> str:
    return "never" if isinstance(value, (int, float)) and value >= 1 else f"{value:.3f}"
