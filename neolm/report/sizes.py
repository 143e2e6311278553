"""The model, its training and the machine, as lists of names and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neolm.core.progress import count, duration
from neolm.report.pages import data_size
from neolm.report.run_files import Run

Pairs = list[tuple[str, str]]
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def sizes(run: Run) -> dict[str, Pairs]:
    """Architecture, training and machine; empty if no model has been trained."""
    if not run.counts("pretrain"):
        return {}
    return {"Model": model_facts(run), "Training": training_facts(run), "Machine": _machine(run)}


def model_facts(run: Run) -> Pairs:
    """The architecture; values that are not known are empty."""
    shape, counts = run.model_config, run.counts("pretrain")
    stored = run.manifests["model"].sizes if "model" in run.manifests else {}
    weights = sum(size for name, size in stored.items() if name.endswith(".safetensors"))
    layers = shape.get("attention_layers") or ()
    without = counts.get("non_embedding_parameters")
    return [
        ("Architecture", run.family),
        ("Parameters", f"{counts.get('parameters', 0):,}"),
        ("Without embeddings", f"{without:,}" if without else ""),
        ("Layers", _number(shape, "num_layers")),
        ("Hidden size", _number(shape, "hidden_size")),
        ("Embedding size", _number(shape, "embedding_size") if shape.get("embedding_size") else ""),
        ("Shared by the layers", str(shape["sharing"]) if shape.get("groups") else ""),
        ("Attention heads", _number(shape, "num_heads")),
        ("Attention", _attention(run)),
        ("Local window", f"{_number(shape, 'window_size')} tokens" if "local" in layers else ""),
        ("Context", f"{_number(shape, 'max_position_embeddings')} tokens"),
        ("Vocabulary", f"{_number(shape, 'vocab_size')} tokens"),
        ("Weights on disk", data_size(weights) if weights else ""),
    ]


def training_facts(run: Run) -> Pairs:
    """The settings and the totals of the training; values that are not known are empty."""
    counts, config = run.counts("pretrain"), run.config("pretrain").get("pretrain", {})
    text = run.counts("shards").get("train", {})
    batch, length = config.get("batch_size"), config.get("sequence_length")
    segments = (config.get("segments") or {}) if run.is_encoder else {}
    flops, speed = counts.get("flops"), counts.get("tokens_per_second")
    return [
        ("Steps", f"{counts.get('steps', 0):,}"),
        ("Batch", f"{batch:,} \u00d7 {length:,} tokens" if batch and length else ""),
        ("Tokens trained on", ", ".join(filter(None, (count(counts.get("tokens", 0)), run.epochs)))),
        ("Training text", f"{count(text['tokens'])} tokens" if text.get("tokens") else ""),
        ("Bytes per token", f"{text['bytes'] / text['tokens']:.2f}" if text.get("tokens") else ""),
        ("Sentence task", str(segments.get("task", "")).replace("none", "").upper()),
        ("Learning rate", f"{config['learning_rate']:g} at its maximum" if config.get("learning_rate") else ""),
        ("Time", duration(float(counts.get("training_seconds") or 0))),
        ("Speed", f"{speed:,.0f} tokens/s on average" if speed else ""),
        ("Compute", f"{_scientific(flops)} FLOPs" if flops else ""),
    ]


def _machine(run: Run) -> Pairs:
    counts, machine = run.counts("pretrain"), run.manifests["pretrain"].environment
    ceiling, share = counts.get("matrix_ceiling_flops"), counts.get("mfu")
    cores = f"{machine['cores']} cores" if machine.get("cores") else ""
    return [
        ("Processor", ", ".join(str(part) for part in (machine.get("cpu"), cores) if part)),
        ("Memory", f"{machine['memory_gib']:g} GiB" if machine.get("memory_gib") else ""),
        ("Device", _choice(counts.get("device"))),
        ("Precision", _choice(counts.get("precision"))),
        ("Matrix products", f"{ceiling / 1e12:.2f}\u00a0TFLOP/s, measured" if ceiling else ""),
        ("MFU", f"{share:.1%} of that speed, over the whole training" if share and ceiling else ""),
        ("Processes", _processes(counts)),
        ("Energy", "; ".join(run.energy()[1])),
    ]


def _processes(counts: Mapping[str, Any]) -> str:
    """Number of processes and their time in communication; empty for a single one."""
    number, spent = counts.get("ranks") or 1, counts.get("communication") or {}
    slowest = f"; rank {spent['slowest']} was the slowest" if spent.get("slowest") is not None else ""
    share = f", {spent['share']:.0%} of the last measured step in communication{slowest}" if spent else ""
    return f"{number}{share}" if number > 1 else ""


def _attention(run: Run) -> str:
    layers = run.model_config.get("attention_layers") or ()
    if run.is_encoder:
        return "of all tokens to all"
    return f"alternating {' and '.join(dict.fromkeys(layers))}" if "local" in layers else "global"


def _number(values: Mapping[str, Any], key: str) -> str:
    return f"{values[key]:,}" if isinstance(values.get(key), int) else "?"


def _choice(value: Any) -> str:
    """A decision with its reason, as the manifest records it."""
    if not isinstance(value, Mapping):
        return str(value or "")
    return f"{value.get('value')}: {value['reason']}" if value.get("reason") else str(value.get("value"))


def _scientific(number: float) -> str:
    digits, _, exponent = f"{number:.1e}".partition("e")  # 9.1e13 becomes 9.1 × 10¹³
    return f"{digits} \u00d7 10{str(int(exponent)).translate(SUPERSCRIPT)}"
