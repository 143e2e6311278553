"""What a run directory holds, read for the report; anything may be missing, since a run can be short or unfinished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neolm.core.artifact import Manifest, chain, read_manifest
from neolm.core.metrics import read_metrics

STAGES = ("corpus", "tokenizer", "shards", "pretrain", "model", "evaluation")

FAMILIES = {"gpt2": "GPT-2", "gpt3": "GPT-3", "gpt-neo": "GPT-Neo", "gpt-neox": "GPT-NeoX"}


@dataclass(frozen=True)
class Run:
    """The manifests of a run by stage, and the files that the report shows."""

    output: Path
    manifests: Mapping[str, Manifest]
    metrics: list[dict[str, Any]]
    scores: Mapping[str, Any]
    samples: list[Mapping[str, Any]]

    def counts(self, stage: str) -> Mapping[str, Any]:
        """The counts of a stage; empty where there is none."""
        manifest = self.manifests.get(stage)
        return manifest.counts if manifest else {}

    def config(self, stage: str) -> Mapping[str, Any]:
        """The settings of a stage; empty where there is none."""
        manifest = self.manifests.get(stage)
        return manifest.config if manifest else {}

    @property
    def protocol(self) -> Mapping[str, Any]:
        """The data and the settings of the measurement; empty if there is none."""
        score = self.scores.get("bits_per_byte")
        found = self.scores.get("protocols", {}).get(score.get("protocol")) if isinstance(score, Mapping) else None
        return found or {}

    @property
    def model_config(self) -> Mapping[str, Any]:
        """The architecture."""
        found: Mapping[str, Any] = self.config("pretrain").get("model") or {}
        return found

    @property
    def family(self) -> str:
        """The architecture's name as it is written in papers."""
        name = str(self.model_config.get("family", ""))
        return FAMILIES.get(name, name or "language model")

    def stage_seconds(self, stage: str) -> float:
        """How long a stage took; for training that was interrupted, all its sessions together."""
        manifest = self.manifests.get(stage)
        if manifest is None:
            return 0.0
        return max(manifest.duration_seconds, float(manifest.counts.get("training_seconds") or 0))

    def seconds(self) -> float:
        """How long all stages took."""
        return sum(self.stage_seconds(stage) for stage in self.manifests)

    def energy(self) -> tuple[float, list[str]]:
        """The kWh of all stages, and by which methods they are known."""
        records = [manifest.energy for manifest in self.manifests.values()]
        methods = dict.fromkeys(str(record["method"]) for record in records if record.get("method"))
        return sum(float(record.get("kwh") or 0) for record in records), list(methods)

    def lineage(self) -> list[tuple[Path, Manifest]]:
        """Every artefact that this run's last ones were made of, the oldest first."""
        found: dict[Path, Manifest] = {}
        for stage in reversed(list(self.manifests)):
            found.update((place, manifest) for place, manifest in chain(self.output / stage) if place not in found)
        order = {stage: number for number, stage in enumerate(STAGES)}
        return sorted(found.items(), key=lambda item: order.get(item[1].stage, -1))


def read_run(output: Path) -> Run:
    """Read what there is under `output`."""
    manifests = {stage: read_manifest(output / stage) for stage in STAGES}
    scores = _read_json(output / "evaluation" / "scores.json")
    samples = _read_json(output / "evaluation" / "samples.json")
    return Run(
        output=output,
        manifests={stage: manifest for stage, manifest in manifests.items() if manifest},
        metrics=read_metrics(output / "pretrain" / "metrics.jsonl"),
        scores=scores if isinstance(scores, dict) else {},
        samples=[sample for sample in samples if isinstance(sample, dict)] if isinstance(samples, list) else [],
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
