"""The run of a fine-tuning to a `Task`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neolm.core.device import choose_device, keep_few_kernels, peak_memory
from neolm.core.errors import SettingError
from neolm.core.files import write_json
from neolm.core.progress import say
from neolm.finetuning.config import FinetuneConfig
from neolm.finetuning.fit import Team, fit, trained_model
from neolm.finetuning.run import RESULTS_FILE
from neolm.finetuning.task import Task
from neolm.finetuning.trainable import freeze
from neolm.generation.generate import check_tokenizer
from neolm.tokenizer.tokenizer import load_tokenizer
from neolm.training.state import Progress


class TaskRun:
    """One fine-tuning of a model to a `Task`."""

    def __init__(self, directory: Path, base: Path, task: Task, config: FinetuneConfig, seed: int, team: Team) -> None:
        """Make the windows. Raises `InputError` if the base is of another kind, or its tokenizer does not fit."""
        self.directory, self.task, self.seed, self.team = directory, task, seed, team
        self.device = choose_device(config.device).value
        if self.device == "cpu":
            keep_few_kernels()  # before the first product
        self.tokenizer = load_tokenizer(base)
        model = task.load(base, self.tokenizer, seed)
        self.architecture = model.config
        check_tokenizer(self.architecture, self.tokenizer)
        self.model = freeze(model, config, seed)
        positions = self.architecture.max_position_embeddings
        if config.max_length is not None and config.max_length > positions:
            raise SettingError("max_length", f"{config.max_length} is more than the model's {positions} positions")
        self.training, self.validation = task.windows(self.tokenizer, positions)
        self.config = team.resolved(config, len(self.training.windows))

    def run(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Train and measure. Returns the counts of the manifest and the energy."""
        config, model = self.config, self.model
        self.team.ranks.tell({"trains": True})
        progress = self.join({})
        found = self.task.measure(trained_model(model, self.directory, config, progress), self.tokenizer)
        for name, scores in found["scores"].items():
            shown = ", ".join(f"{key} {value:.4f}" for key, value in scores.items() if isinstance(value, float))
            say(f"finetune: {name}: {shown}")
        write_json(
            self.directory / RESULTS_FILE,
            {"problem": config.kind, "main": self.task.main, "model": "fine-tuned", **found},
        )
        counts = {
            "parameters": self.model.parameter_count(),
            "windows": {"train": len(self.training.windows), "validation": len(self.validation.windows)},
            "batch_size": config.batch_size,
            "steps": progress.step,
            "ranks": self.team.ranks.count,
            "tokens": progress.tokens,
            "training_seconds": round(progress.seconds, 1),
            "best_step": progress.best_step,
            "peak_memory_bytes": peak_memory(self.device),
        }
        return counts, progress.energy

    def join(self, training: Mapping[str, Any]) -> Progress:
        """Train, with all processes."""
        parts = self.training, self.validation
        return fit(self.model, self.task.objective, *parts, self.directory, self.config, self.seed, self.team)
