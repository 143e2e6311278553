"""The files of a run directory, read for the report. Any of them may be missing: a run can be short or unfinished."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neolm.core.errors import InputError
from neolm.core.files import read_json_value
from neolm.core.manifest import Manifest, chain, read_manifest
from neolm.core.metrics import read_metrics
from neolm.models import families

DIGITS = 12  # of a digest that are shown; the manifest has all of them
FIRST = ("bits_per_byte", "masked_loss", "sentence_accuracy")
FAMILIES = {name: family.title for name, family in families.FAMILIES.items()}


@dataclass(frozen=True)
class Run:
    """The manifests of a run by stage, and the files whose content the report shows."""

    output: Path
    manifests: Mapping[str, Manifest]
    metrics: list[dict[str, Any]]
    scores: Mapping[str, Any]
    samples: list[Mapping[str, Any]]

    def counts(self, stage: str) -> Mapping[str, Any]:
        """The counts of a stage; empty if there is no such stage."""
        manifest = self.manifests.get(stage)
        return manifest.counts if manifest else {}

    def config(self, stage: str) -> Mapping[str, Any]:
        """The settings of a stage; empty if there is no such stage."""
        manifest = self.manifests.get(stage)
        return manifest.config if manifest else {}

    @property
    def protocol(self) -> Mapping[str, Any]:
        """The data and the settings of the measurement; empty if there is none."""
        return score_protocol(self.scores)

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

    @property
    def is_encoder(self) -> bool:
        """Whether the run trained an encoder."""
        return self.model_config.get("family") in families.ENCODERS

    @property
    def epochs(self) -> str:
        """The number of passes over the training text: `41% of the text` or `2.3 epochs`; empty if not known."""
        available = self.counts("shards").get("train", {}).get("tokens", 0)
        if not available:
            return ""
        passes = self.counts("pretrain").get("tokens", 0) / available
        return f"{passes:.0%} of the text" if passes < 0.995 else f"{passes:.1f} epochs"

    def stage_seconds(self, stage: str) -> float:
        """Duration of a stage; for a training that was interrupted, of all its sessions together."""
        manifest = self.manifests.get(stage)
        if manifest is None:
            return 0.0
        return max(manifest.duration_seconds, float(manifest.counts.get("training_seconds") or 0))

    def seconds(self) -> float:
        """Duration of all stages."""
        return sum(self.stage_seconds(stage) for stage in self.manifests)

    def energy(self) -> tuple[float, list[str]]:
        """The energy of all stages in kWh, and how it was measured or estimated."""
        records = [manifest.energy for manifest in self.manifests.values()]
        methods = dict.fromkeys(str(record["method"]) for record in records if record.get("method"))
        return sum(float(record.get("kwh") or 0) for record in records), list(methods)

    def lineage(self) -> list[tuple[Path, Manifest]]:
        """Every artefact of this run and those that they were built from, each after what it was built from."""
        found: dict[Path, Manifest] = {}
        for stage in self.manifests:
            for place, manifest in reversed(chain(self.output / stage)):
                found.setdefault(place, manifest)
        return list(found.items())


def read_run(output: Path) -> Run:
    """Read the files under `output`."""
    manifests = {place.name: read_manifest(place) for place in sorted(output.glob("*"))}
    written = optional_json(output / "evaluation" / "samples.json")
    samples = written if isinstance(written, list) else []
    return Run(
        output=output,
        manifests={stage: found for stage, found in manifests.items() if found and found.stage == stage},
        metrics=read_metrics(_training_directory(output) / "metrics.jsonl"),
        scores=read_scores(output),
        samples=[{"document": None, "greedy": None, **sample} for sample in samples if _is_sample(sample)],
    )


def is_finetuning(output: Path) -> bool:
    """Whether the run in `output` is a fine-tuning, finished or not."""
    return (output / "finetune").is_dir()


def _training_directory(output: Path) -> Path:
    """The directory of the training; of a fine-tuning with several seeds, of the one that was kept."""
    if not is_finetuning(output):
        return output / "pretrain"
    found = optional_json(output / "finetune" / "results.json")
    kept = found.get("directory") if isinstance(found, dict) else None
    return output / "finetune" / Path(kept if isinstance(kept, str) else "").name


def read_scores(output: Path) -> Mapping[str, Any]:
    """`evaluation/scores.json` of a run; empty if there is none, or if the model was replaced after the evaluation."""
    manifest = read_manifest(output / "evaluation")
    measured = manifest.inputs.get("model") if manifest else None
    model = read_manifest(output / measured.path) if measured else None
    scores = optional_json(output / "evaluation" / "scores.json")
    is_current = measured is not None and (model is None or model.digest == measured.digest)
    return scores if is_current and isinstance(scores, dict) else {}


def score_protocol(scores: Mapping[str, Any]) -> Mapping[str, Any]:
    """The data and the settings of the first measurement of `FIRST` that was made; empty if they are not known."""
    score, protocols = next((scores[name] for name in FIRST if name in scores), None), scores.get("protocols")
    if not isinstance(score, Mapping) or not isinstance(protocols, Mapping):
        return {}
    return protocols.get(score.get("protocol")) or {}


def _is_sample(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("prompt", "sampled"))


def optional_json(path: Path) -> Any:
    """The content of a JSON file; None if it is missing or broken."""
    try:
        return read_json_value(path)
    except InputError:
        return None
