"""Measure the perplexity and bits per byte of a trained model with weights of 32, 16, 8 and 4 bits.

    python benchmarks/quantization_cost.py --model runs/quickstart/model

The text is the held-out text of the run, measured like `neolm evaluate RUN/model --quantize int4`; `--text` measures on
other text. All formats are measured on the same documents. So the increase has its own interval, which is far narrower
than those of the perplexities: the bootstrap resamples documents together with their losses in both formats.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from machine import revision
from report import command_line, publish, table
from workers import log

# name: (bits per weight including its share of a scale, precision and quantize of neolm evaluate)
FORMATS: dict[str, tuple[float, str, str | None]] = {
    "float32": (32, "float32", None),
    "bfloat16": (16, "bfloat16", None),
    "int8": (8.25, "float32", "int8"),
    "int4": (4.25, "float32", "int4"),
}
BOOTSTRAP_SAMPLES, CONFIDENCE = 1000, 0.95


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the scores of every format, with the increase of perplexity over float32 in percent."""
    from neolm.evaluation.evaluate import evaluate_model

    text = str(options.text) if options.text else None
    scores = {}
    for name, (_, precision, quantize) in FORMATS.items():
        log(f"{name}:")
        settings = [
            f"precision={precision}",
            f"max_bytes={options.bytes}",
            "baselines=false",
            f"device={options.device}",
        ]
        scores[name] = evaluate_model(str(options.model), text, settings, quantize=quantize)
    return {name: {**one, "cost": perplexity_increase(one, scores["float32"])} for name, one in scores.items()}


def perplexity_increase(scores: dict[str, Any], reference: dict[str, Any]) -> dict[str, float | None]:
    """Return the increase of the perplexity over the reference in percent, with its interval."""
    from neolm.metrics.intervals import bootstrap_ratio

    pairs = [*zip(scores["per_document"], reference["per_document"], strict=True)]
    key = "negative_log_likelihood"
    nats, tokens = [ours[key] - theirs[key] for ours, theirs in pairs], [ours["tokens"] for ours, _ in pairs]
    increase = bootstrap_ratio(nats, tokens, [ours["parent"] for ours, _ in pairs], BOOTSTRAP_SAMPLES, CONFIDENCE)
    return increase.map(lambda nats: 100 * math.expm1(nats)).as_json()


def describe_model(model: Path) -> dict[str, Any]:
    """Return the size and family of the model."""
    from neolm.models.decoder import count_parameters
    from neolm.models.hf import model_directory
    from neolm.models.hf_config import read_config

    config = read_config(model_directory(str(model)))
    return {
        "family": config.family,
        "num_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "parameters": count_parameters(config),
    }


def section(results: dict[str, Any]) -> str:
    """Return the results as a section of docs/benchmarks.md."""
    model, formats = results["model"], results["formats"]
    one = formats["float32"]
    data = one["protocols"][one["loss"]["protocol"]]["data"]
    tokens = sum(row["tokens"] for row in one["per_document"])
    rows = []
    for name, scores in formats.items():
        increase = "-" if name == "float32" else interval(scores["cost"], "+.2f", "%")
        perplexity, bits = interval(scores["token_perplexity"], ",.2f"), interval(scores["bits_per_byte"], ".4f")
        rows.append([name, f"{FORMATS[name][0]:g}", perplexity, bits, increase])
    return "\n\n".join(
        [
            f"{model['family']}, {model['num_layers']} layers of {model['hidden_size']}, vocabulary "
            f"{model['vocab_size']:,}, {model['parameters'] / 1e6:,.1f} million parameters; {data['documents']:,} "
            f"documents of {data['bytes'] / 1e3:,.0f} kB, {tokens:,} tokens; intervals of {CONFIDENCE:.0%} over "
            f"documents. NeoLM at revision {results['revision']}.",
            table(["weights", "bits", "perplexity", "bits per byte", "increase over float32"], rows),
            f"Made by `{results['command']}`.",
        ]
    )


def interval(value: dict[str, float | None], number_format: str, unit: str = "") -> str:
    """Format a value with its confidence interval."""
    if value["low"] is None:
        return f"{value['value']:{number_format}}{unit}"
    return f"{value['value']:{number_format}}{unit} ({value['low']:{number_format}} to {value['high']:{number_format}})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="a trained model, such as RUN/model")
    parser.add_argument(
        "--text", type=Path, metavar="PLACE", help="a file or folder; default: the held-out text of the run"
    )
    parser.add_argument("--bytes", type=int, default=400_000, metavar="N", help="bytes of text to measure on (400000)")
    parser.add_argument("--device", default="cpu", help="device (cpu)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the section into this page")
    options = parser.parse_args()
    from neolm.core.errors import NeoLMError

    try:
        results = {
            "command": command_line("quantization_cost"),
            "revision": revision(),
            "model": describe_model(options.model),
            "formats": measure(options),
        }
    except NeoLMError as error:
        raise SystemExit(str(error)) from None
    publish("quantization_cost", section(results), results, options.output, options.docs)


if __name__ == "__main__":
    main()
