"""The run of a fine-tuning: candidates in the order of their cost, and what the validation examples say about them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neolm.core.device import choose_device, keep_few_kernels, peak_memory
from neolm.core.errors import SettingError
from neolm.core.files import write_json
from neolm.core.progress import say
from neolm.finetuning.candidates import Trained, kept, trained
from neolm.finetuning.config import FinetuneConfig
from neolm.finetuning.encoded_examples import EncodedExamples
from neolm.finetuning.features import frozen_features, text_logits
from neolm.finetuning.finetune_data import FinetuneData
from neolm.finetuning.fit import Team, device_and_type, fit, trained_model
from neolm.finetuning.frozen_states import FrozenStates
from neolm.finetuning.heads import TextModel, TextModelConfig, linear_head, reinitialise, set_head, with_head
from neolm.finetuning.objectives import TextObjective
from neolm.finetuning.probe import fit_probe, refit_probe
from neolm.finetuning.results import results
from neolm.finetuning.search import Cell, cells, search
from neolm.finetuning.tfidf import is_available, tfidf_logits
from neolm.finetuning.trainable import freeze
from neolm.generation.generate import check_tokenizer
from neolm.models.encoder import Encoder
from neolm.models.hf import load_model
from neolm.prediction.text_windows import encode_texts
from neolm.tables.examples import Examples
from neolm.tokenizer.tokenizer import load_tokenizer
from neolm.training.state import Progress

RESULTS_FILE = "results.json"
TFIDF, PROBE, FULL = "tfidf", "probe", "fine-tuned"


class FinetuneRun:
    """One fine-tuning of a model to texts or pairs of texts.

    The numbers of a regression are standardised while it is trained, and the head is scaled back in the end.
    """

    def __init__(
        self,
        directory: Path,
        base: Path,
        architecture: TextModelConfig,
        data: FinetuneData,
        config: FinetuneConfig,
        seed: int,
        team: Team,
    ) -> None:
        """Encode the examples. Raises `InputError` if the tokenizer does not fit the model."""
        self.directory, self.data, self.seed, self.problem = directory, data, seed, data.targets.problem
        self.architecture, self.team = architecture, team
        self.device = choose_device(config.device).value
        if self.device == "cpu":
            keep_few_kernels()  # before the first product
        self.tokenizer = load_tokenizer(base)
        check_tokenizer(architecture, self.tokenizer)
        self.model = with_head(load_model(base, "cpu", "float32"), architecture, seed)
        self.intercept = linear_head(self.model).bias is not None
        positions = architecture.max_position_embeddings
        self.max_length = positions if config.max_length is None else config.max_length
        if self.max_length > positions:
            raise SettingError("max_length", f"{self.max_length} is more than the model's {positions} positions")
        frozen, anew, blocks = config.frozen_layers or 0, config.reinitialised_layers, len(self.model.blocks)
        if config.method == "full" and anew and frozen + anew > blocks:
            raise SettingError("reinitialised_layers", f"{anew} of {blocks} layers, of which {frozen} are frozen")
        self.scale = self._scale()
        self.training, self.validation = (self._encoded(part, config) for part in (data.training, data.validation))
        outside: list[Any] = [[*texts] for texts in zip(*data.outside, strict=True)] or [[]]
        seconds = outside[1] if len(outside) > 1 else None
        self.outside = encode_texts(self.tokenizer, outside[0], seconds, self.max_length, config.long_text)
        size = len(self.training.windows)
        found = cells(config) if config.method != "probe" else []
        self.cells = [replace(cell, config=team.resolved(cell.config, size)) for cell in found]
        self.best: Cell | None = None
        self.config = team.resolved(config, size)
        parts = {"train": self.training, "validation": self.validation}
        self.lengths = {name: self._describe_lengths(part) for name, part in parts.items()}

    def run(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Train and compare the candidates. Returns the counts of the manifest and the energy."""
        candidates = [trained(self.directory, TFIDF, self._tfidf)] if self._wants_tfidf() else []
        candidates.append(probe := trained(self.directory, PROBE, self._probe))
        searched = self._search(probe) if self.cells else None
        runs = [self._run(probe, seed, self.best, self._place(seed)) for seed in self._seeds()]
        for path in self.directory.glob("frozen-*.bin"):
            path.unlink()
        found = results(candidates, [one for one, _ in runs], self.data, self.scale, self.config)
        progress = runs[found["run"]][1] if runs else Progress()
        found["search"] = searched
        found["directory"] = self._place(self.seed + found["run"]).relative_to(self.directory).as_posix()
        found["prediction"] |= {
            "pair": self.data.training.seconds is not None,
            "window_tokens": self.max_length,
            "long_text": self.config.long_text,
        }
        found["lengths"] = self.lengths
        write_json(self.directory / RESULTS_FILE, found)
        counts = {
            "parameters": self.model.parameter_count(),
            "examples": {"train": len(self.training.texts), "validation": len(self.validation.texts)},
            "steps": progress.step,
            "ranks": self.team.ranks.count,
            "batch_size": self.config.batch_size,
            "tokens": progress.tokens,
            "training_seconds": round(progress.seconds, 1),
            "best_step": progress.best_step,
            "peak_memory_bytes": peak_memory(self.device),
            "model": found["model"],
            "recommended": found["comparison"]["recommended"],
        }
        return counts, progress.energy

    def _encoded(self, examples: Examples, config: FinetuneConfig) -> EncodedExamples:
        targets = self.data.targets.tensor(examples.label_sets or examples.labels, str(examples.path))
        if self.problem == "regression":
            targets = (targets - self.scale[0]) / self.scale[1]
        texts = encode_texts(self.tokenizer, examples.texts, examples.seconds, self.max_length, config.long_text)
        repeats = config.class_weights == "resample" and examples is self.data.training
        copies = self._copies(targets) if repeats else None
        return EncodedExamples(
            examples.path, examples.lines, texts, targets, self._weights(targets, config), copies=copies
        )

    def _scale(self) -> tuple[float, float]:
        """Mean and standard deviation of the numbers of a regression."""
        if self.problem != "regression":
            return 0.0, 1.0
        numbers = self.data.targets.tensor(self.data.training.labels, str(self.data.training.path))
        mean = float(numbers.mean()) if self.intercept else 0.0  # without a bias, the head cannot add it back
        return mean, float((numbers - mean).square().mean().sqrt()) or 1.0

    def _weights(self, targets: Tensor, config: FinetuneConfig) -> Tensor:
        """Weight of each example, (N,): 1, or inversely proportional to the frequency of its label, 1 in the mean."""
        if config.class_weights != "balanced" or self.problem != "single_label_classification":
            return torch.ones(len(targets))
        counts = targets.bincount(minlength=len(self.data.targets.names)).float()
        return (len(targets) / (counts > 0).sum() / counts.clamp(min=1))[targets]

    def _copies(self, targets: Tensor) -> list[int] | None:
        """How often an epoch has each example, so that each label is about as frequent as the most frequent one."""
        if self.problem != "single_label_classification":
            return None
        counts = targets.bincount(minlength=len(self.data.targets.names))
        copies = (counts.max() / counts.where(counts > 0, counts.max())).round().long()
        for name, times in zip(self.data.targets.names, copies.tolist(), strict=True):
            if times > 1:
                say(f"finetune: an epoch has each example of {name!r} {times:,} times")
        return copies[targets].tolist()

    def _describe_lengths(self, part: EncodedExamples) -> dict[str, int]:
        """Print how many texts are divided or cut, and return the numbers."""
        long = sum(len(text.windows) > 1 for text in part.texts)
        cut = sum(text.left_out > 0 for text in part.texts)
        of, windows = f"of {len(part.texts):,} texts", sum(len(text.windows) for text in part.texts)
        if long:
            read = f"they are read in {windows:,} windows in all"
            say(f"{part.source}: {long:,} {of} have more than {self.max_length} tokens; {read}")
        if cut:
            say(f"{part.source}: {cut:,} {of} are cut to {self.max_length} tokens")
        return {"texts": len(part.texts), "windows": windows, "divided": long, "cut": cut}

    def _wants_tfidf(self) -> bool:
        if self.config.tfidf and not is_available():
            say("finetune: no TF-IDF baseline, because scikit-learn is not installed: pip install 'neolm[finetune]'")
        return self.config.tfidf and is_available()

    def _tfidf(self) -> Mapping[str, Tensor]:
        logits = tfidf_logits(
            list(self.data.training.inputs()),
            self.training.targets.numpy(),
            self.training.linear_weights().double().numpy(),
            self.problem,
            list(self.data.validation.inputs()),
        )
        return {"logits": torch.from_numpy(logits)}

    def _probe(self) -> Mapping[str, Tensor]:
        device, dtype = device_and_type(self.config)
        model = copy.deepcopy(self.model).to(device, dtype)
        features, unseen = (frozen_features(model, part.texts) for part in (self.training, self.validation))
        examples = features, self.training.targets, self.training.linear_weights()
        outputs = len(self.data.targets.names)
        tested = unseen, self.validation.targets
        probe = fit_probe(*examples, self.problem, outputs, tested, intercept=self.intercept)
        final = probe
        if self.data.drawn:
            others = unseen, self.validation.targets, self.validation.weights
            everything = [torch.cat(both) for both in zip(examples, others, strict=True)]
            final = refit_probe(probe, everything[0], everything[1], everything[2], self.problem, self.intercept)
        weights = {"weight": probe.weight, "bias": probe.bias, "penalty": torch.tensor(probe.penalty)}
        return {
            **weights,
            "final_weight": final.weight.clone(),
            "final_bias": final.bias.clone(),
            "logits": probe.logits(unseen),
            **({"outside": probe.logits(frozen_features(model, self.outside))} if self.outside else {}),
        }

    def _seeds(self) -> range:
        """The seeds of the trainings; none if only the probe is wanted."""
        return range(self.seed, self.seed + (0 if self.config.method == "probe" else self.config.seeds))

    def _place(self, seed: int) -> Path:
        """The directory of a training."""
        if self.best is not None and seed == self.seed:
            return self.directory / "search" / self.best.name
        return self.directory if self.config.seeds == 1 else self.directory / f"seed-{seed}"

    def _search(self, probe: Trained) -> dict[str, Any]:
        """Train each cell of the search and continue with the settings of the best; these, and the score of each."""
        place = self.directory / "search"

        def train(cell: Cell) -> Trained:
            directory = place / cell.name
            if (directory / f"{FULL}.safetensors").is_file() and not (directory / "checkpoints").is_dir():
                return kept(directory, FULL)  # an earlier session found a better one
            return self._run(probe, self.seed, cell, directory)[0]

        self.best, rows = search(self.cells, train, place, self.problem, self.validation.targets.numpy())
        self.config = self.best.config
        return {"chosen": dict(self.best.settings), "tried": rows}

    def _run(self, probe: Trained, seed: int, cell: Cell | None, place: Path) -> tuple[Trained, Progress]:
        """Train with a seed and the settings of a cell; what it gives for the validation examples, and its counters."""
        config = self.config if cell is None else cell.config
        if config.seeds > 1:
            say(f"finetune: seed {seed}")
        model, parts = self._prepared(probe, seed, config)
        number = None if cell is None else self.cells.index(cell)
        where = place.relative_to(self.directory).as_posix()
        self.team.ranks.tell({"trains": True, "seed": seed, "cell": number, "place": where})
        progress = self._fit(model, parts, seed, config, place)
        return trained(place, FULL, partial(self._predict, model, place, config, progress), progress.seconds), progress

    def join(self, training: Mapping[str, Any]) -> Progress:
        """Train together with rank 0, which has told what."""
        number, seed = training["cell"], training["seed"]
        config = self.config if number is None else self.cells[number].config
        model, parts = self._prepared(kept(self.directory, PROBE), seed, config)
        return self._fit(model, parts, seed, config, self.directory / training["place"])

    def _prepared(
        self, probe: Trained, seed: int, config: FinetuneConfig
    ) -> tuple[TextModel, tuple[EncodedExamples, EncodedExamples]]:
        """A model to train, and the training and the validation examples."""
        model = copy.deepcopy(self.model)
        if config.reinitialised_layers:
            reinitialise(model, config.reinitialised_layers, seed)
        else:
            set_head(model, probe.tensors["weight"], probe.tensors["bias"])
        freeze(model, config, seed)
        return model, (self._with_states(self.training, "train"), self._with_states(self.validation, "validation"))

    def _fit(
        self,
        model: TextModel,
        parts: tuple[EncodedExamples, EncodedExamples],
        seed: int,
        config: FinetuneConfig,
        place: Path,
    ) -> Progress:
        objective = TextObjective(self.problem, config.focal_gamma, config.label_smoothing, config.frozen_layers or 0)
        return fit(model, objective, *parts, place, config, seed, self.team)

    def _with_states(self, part: EncodedExamples, name: str) -> EncodedExamples:
        """The examples with the hidden states of the frozen layers, which are computed now if they are not on disk."""
        layers = self.config.frozen_layers
        if not layers or not isinstance(self.model, Encoder) or not self.config.cache_frozen:
            return part
        device, dtype = device_and_type(self.config)
        inputs = [part.texts[number].inputs[place] for number, place in part.windows]
        states = FrozenStates(self.directory / f"frozen-{name}.bin", inputs, self.model.config.hidden_size, dtype)
        if not self.team.ranks.first:  # rank 0 has computed them, or has no room for them
            return replace(part, states=states) if states.is_stored() else part
        if not states.fits():
            return part
        states.compute(copy.deepcopy(self.model).to(device, dtype), layers)
        return replace(part, states=states)

    def _predict(
        self, model: TextModel, place: Path, config: FinetuneConfig, progress: Progress
    ) -> Mapping[str, Tensor]:
        """Logits of the final weights of a training, in its precision."""
        final = trained_model(model, place, config, progress)
        outside = {"outside": text_logits(final, self.outside)} if self.outside else {}
        return {"logits": text_logits(final, self.validation.texts), **outside}
