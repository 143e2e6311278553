"""The model card of a model directory: `README.md` with the metadata that the Hugging Face hub reads.

The card is written from the manifests and the scores, and is not an output of a stage: it can be written again, with
scores, without changing the digest of the model. It names no licence of the model, which is for its authors to choose,
and no paths, which can be private.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from neolm.core.compressors import COMPRESSORS
from neolm.core.files import write_text
from neolm.core.manifest import chain, intact_file, recorded_values
from neolm.core.progress import say
from neolm.models.families import ENCODERS
from neolm.report.datasheet import places_of_text
from neolm.report.finetune_results import FinetuneResults, read_results
from neolm.report.finetuned_card import finetuned_card
from neolm.report.pages import render
from neolm.report.run_files import DIGITS, FAMILIES, Run, optional_json, read_scores
from neolm.report.scores import labels, with_interval
from neolm.report.sizes import Pairs, model_facts, training_facts

CARD = "README.md"
MAX_LICENCES = 20
# By the last part of the architecture's name: the hub's task, and the class of transformers that loads the model.
HEADS = {
    "MeanPooledSequenceClassification": ("text-classification", "AutoModel"),  # without the head
    "MeanPooledMultipleChoice": ("multiple-choice", "AutoModel"),
    "PreTraining": ("fill-mask", "AutoModelForMaskedLM"),
    "MaskedLM": ("fill-mask", "AutoModelForMaskedLM"),
    "NextSentencePrediction": ("text-classification", "AutoModelForNextSentencePrediction"),
    "SequenceClassification": ("text-classification", "AutoModelForSequenceClassification"),
    "TokenClassification": ("token-classification", "AutoModelForTokenClassification"),
    "MultipleChoice": ("multiple-choice", "AutoModelForMultipleChoice"),
    "QuestionAnswering": ("question-answering", "AutoModelForQuestionAnswering"),
    "Model": ("feature-extraction", "AutoModel"),
}
MARK = "\n<!-- Written by NeoLM, which replaces this card unless it is edited. "


def write_model_card(directory: Path) -> None:
    """Write `README.md` into a finished model directory (of a run, imported or exported).

    A card that was edited since it was written, or that NeoLM did not write, is left as it is.
    """
    target = directory / CARD
    if target.exists() and not _is_unchanged(target.read_text(encoding="utf-8", errors="replace")):
        say(f"{target} was edited and is kept; delete it to have it written again")
        return
    with recorded_values(directory):
        card = model_card(directory)
    write_text(target, f"{card}{MARK}{_digest(card)} -->\n")


def _is_unchanged(text: str) -> bool:
    card, mark, end = text.rpartition(MARK)
    return bool(mark) and end == f"{_digest(card)} -->\n"


def _digest(card: str) -> str:
    return hashlib.sha256(card.encode()).hexdigest()[:DIGITS]


def model_card(directory: Path) -> str:
    """The card of the model in `directory`."""
    artefacts = chain(directory)
    places = {manifest.stage: place for place, manifest in reversed(artefacts)}  # a base can have the same stages
    raw = optional_json(directory / "config.json")
    is_run = "model" in places
    name = directory.resolve().name
    name = directory.resolve().parent.name if name == "model" and is_run else name
    finetuned = finetuned_card(name, raw, artefacts)
    if finetuned is not None:
        return finetuned.render()
    scores = read_scores(places["model"].parent) if is_run else {}
    tuned = read_results(places["finetune"]) if "finetune" in places else FinetuneResults({})
    run = Run(directory, {manifest.stage: manifest for _, manifest in artefacts}, [], scores, [])
    trained = run.counts("pretrain")
    gguf = next((path.name for path in sorted(directory.glob("*.gguf"))), None)
    transformers = gguf is None and not (isinstance(raw, dict) and "quantization_config" in raw)
    parameters = trained.get("parameters") or run.counts(artefacts[0][1].stage if artefacts else "").get("parameters")
    family = str(next((m.counts["family"] for m in run.manifests.values() if "family" in m.counts), ""))
    family = family or str(run.model_config.get("family", ""))
    sizes: dict[str, Pairs] = {"Model": model_facts(run), "Training": training_facts(run)} if trained else {}
    task, auto_class = _head(family, raw)
    kind = "encoder" if family in ENCODERS else "language model" if task == "text-generation" else "classifier"
    return render(
        "model_card.md",
        metadata=_metadata(name, run, transformers, task),
        kind=kind,
        reads=kind != "language model",
        task=task,
        auto_class=auto_class,
        name=name,
        run=run,
        parameters=parameters,
        family=FAMILIES.get(family, family or "published"),
        source=", ".join(Path(place).name for place in places_of_text(run.config("corpus"))),
        licences=_licences(places["corpus"]) if "corpus" in places else [],
        sizes=sizes,
        scores=_scores(scores),
        tuned=[(row[0], row[1 + tuned.candidates.index(tuned.model)]) for row in tuned.score_table()],
        instruct=tuned.problem == "instruct",
        gguf=gguf,
        transformers=transformers,
        lineage=[(manifest.stage, manifest.digest[:DIGITS]) for _, manifest in artefacts],
    )


def _head(family: str, config: Any) -> tuple[str, str]:
    """The hub's name of what the model does, and the class of transformers that loads it."""
    named = config.get("architectures") if isinstance(config, Mapping) else None
    architecture = str(named[0]) if isinstance(named, list) and named else "Model"
    if family not in ENCODERS and not architecture.endswith("ForSequenceClassification"):
        return "text-generation", "AutoModelForCausalLM"
    return next((found for ending, found in HEADS.items() if architecture.endswith(ending)), HEADS["Model"])


def _metadata(name: str, run: Run, transformers: bool, task: str) -> str:
    """The YAML block at the top of the card."""
    family = run.model_config.get("family")
    found: dict[str, Any] = {
        "library_name": "transformers" if transformers else "neolm",
        "pipeline_tag": task,
        "tags": ["neolm", *([family] if family else [])],
    }
    metrics = [
        {"type": key, "name": label, "value": round(run.scores[key]["value"], 4)}
        for key, label in labels(run.scores).items()
    ]
    if metrics:
        dataset = {"type": "held-out", "name": "held-out text of the training corpus"}
        result = {"task": {"type": task}, "dataset": dataset, "metrics": metrics}
        found["model-index"] = [{"name": name, "results": [result]}]
    return str(yaml.safe_dump(found, sort_keys=False, allow_unicode=True))


def _scores(scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, value with its interval) of the model's scores, then of the compressors."""
    found = [(label, with_interval(scores, name)) for name, label in labels(scores).items()]
    compressors = (scores.get("bits_per_byte") or {}).get("baselines")
    for name, words in COMPRESSORS.items():
        found.append((f"Bits per byte of {words[0]}", with_interval(compressors, name)))
    return [(label, value) for label, value in found if value]


def _licences(corpus: Path) -> list[str]:
    """The licences of the training documents, the most frequent first."""
    found: Counter[str] = Counter()
    for path in sorted((corpus / "documents").glob("train-*.parquet")):
        table = pq.read_table(intact_file(corpus, f"documents/{path.name}"), columns=["licence"])
        for row in table["licence"].value_counts().to_pylist():
            found[str(row["values"])] += row["counts"]
    licences = [licence for licence, _ in found.most_common(MAX_LICENCES)]
    return licences + [f"{len(found) - MAX_LICENCES} others"] * (len(found) > MAX_LICENCES)
