"""The section of sizes: the model, what it was trained on, and the machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neolm.core.progress import count, duration
from neolm.report.figure import data_size, missing, section
from neolm.report.headline import passes
from neolm.report.markup import Html, element, pairs
from neolm.report.run_files import Run


def sizes_section(run: Run) -> Html:
    """Architecture, training and machine, each as a list of names and values."""
    if not run.counts("pretrain"):
        return section("sizes", "Sizes", missing("No model has been trained in this run yet."))
    groups = {"Model": _model(run), "Training": _training(run), "Machine": _machine(run)}
    lists = [element("div", element("h3", name), pairs(rows)) for name, rows in groups.items()]
    return section("sizes", "Sizes", element("div", *lists, class_="columns"))


def _model(run: Run) -> list[tuple[str, str]]:
    shape, counts = run.model_config, run.counts("pretrain")
    stored = run.manifests["model"].sizes if "model" in run.manifests else {}
    weights = sum(size for name, size in stored.items() if name.endswith(".safetensors"))
    window = "local" in (shape.get("attention_layers") or ())
    without = counts.get("non_embedding_parameters")
    return [
        ("Architecture", run.family),
        ("Parameters", f"{counts.get('parameters', 0):,}"),
        ("without embeddings", f"{without:,}" if without else ""),
        ("Layers", _number(shape, "num_layers")),
        ("Hidden size", _number(shape, "hidden_size")),
        ("Attention heads", _number(shape, "num_heads")),
        (
            "Attention",
            " and ".join(dict.fromkeys(shape.get("attention_layers") or ())) + " in turn" if window else "global",
        ),
        ("Local window", f"{_number(shape, 'window_size')} tokens" if window else ""),
        ("Context", f"{_number(shape, 'max_position_embeddings')} tokens"),
        ("Vocabulary", f"{_number(shape, 'vocab_size')} tokens"),
        ("Weights on disk", data_size(weights) if weights else ""),
    ]


def _training(run: Run) -> list[tuple[str, str]]:
    counts, config = run.counts("pretrain"), run.config("pretrain").get("pretrain", {})
    text = run.counts("shards").get("train", {})
    batch, length = config.get("batch_size"), config.get("sequence_length")
    flops = counts.get("flops")
    return [
        ("Steps", f"{counts.get('steps', 0):,}"),
        ("Batch", f"{batch:,} \u00d7 {length:,} tokens" if batch and length else ""),
        ("Tokens read", f"{count(counts.get('tokens', 0))}, {passes(run)}".removesuffix(", ")),
        ("Text there is", f"{count(text['tokens'])} tokens" if text.get("tokens") else ""),
        ("Bytes a token", f"{text['bytes'] / text['tokens']:.2f}" if text.get("tokens") else ""),
        ("Learning rate", f"{config['learning_rate']:g} at its peak" if config.get("learning_rate") else ""),
        ("Time", duration(float(counts.get("training_seconds") or 0))),
        ("Speed", f"{counts['tokens_per_second']:,.0f} tokens/s" if counts.get("tokens_per_second") else ""),
        ("Work", _scientific(flops) + " FLOPs" if flops else ""),
    ]


def _machine(run: Run) -> list[tuple[str, str]]:
    counts, machine = run.counts("pretrain"), run.manifests["pretrain"].environment
    ceiling, share = counts.get("matrix_ceiling_flops"), counts.get("mfu")
    cores = f"{machine['cores']} cores" if machine.get("cores") else ""
    processor = ", ".join(str(part) for part in (machine.get("cpu"), cores) if part)
    return [
        ("Processor", processor),
        ("Memory", f"{machine['memory_gib']:g} GiB" if machine.get("memory_gib") else ""),
        ("Device", _choice(counts.get("device"))),
        ("Precision", _choice(counts.get("precision"))),
        ("Matrix ceiling", f"{ceiling / 1e12:.2f}\u00a0TFLOP/s, measured" if ceiling else ""),
        ("MFU", f"{share:.1%} of the ceiling" if share and ceiling else ""),
        ("Energy", "; ".join(run.energy()[1])),
    ]


def _number(values: Mapping[str, Any], key: str) -> str:
    return f"{values[key]:,}" if isinstance(values.get(key), int) else "?"


def _choice(value: Any) -> str:
    """A decision with its reason, as the manifest has it."""
    if not isinstance(value, Mapping):
        return str(value or "")
    return f"{value.get('value')}: {value['reason']}" if value.get("reason") else str(value.get("value"))


def _scientific(number: float) -> str:
    """`9.1e13` to `9.1 × 10¹³`."""
    digits, _, exponent = f"{number:.1e}".partition("e")
    return f"{digits} \u00d7 10{str(int(exponent)).translate(SUPERSCRIPT)}"


SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
