"""Scores as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neolm.core.progress import table
from neolm.corpus.build import describe_rejected
from neolm.corpus.sources import describe_ignored

ENCODER_SCORES = {
    "masked_loss": "masked loss, nats per token",
    "unigram_entropy": "unigram entropy of these tokens",
    "masked_gain": "gain over the unigram entropy",
    "masked_accuracy": "masked accuracy",
    "sentence_accuracy": "sentence accuracy",
    "pseudo_perplexity": "pseudo-perplexity per token",
}


def scores_table(result: Mapping[str, Any]) -> str:
    """The scores of a model for a terminal."""
    return _decoder_table(result) if "bits_per_byte" in result else _encoder_table(result)


def _encoder_table(result: Mapping[str, Any]) -> str:
    """The scores that an encoder has."""
    first: Mapping[str, Any] = next(iter(result["protocols"].values()))
    rows: list[tuple[Any, ...]] = [("", "this model", f"{first['confidence']:.0%} interval")]
    details = ""
    for name, label in ENCODER_SCORES.items():
        score = result.get(name)
        if score is None:
            continue
        form = ".1%" if name.endswith("accuracy") else ".3f"
        low, high = score["low"], score["high"]
        rows.append((label, f"{score['value']:{form}}", "" if low is None else f"{low:{form}} to {high:{form}}"))
        protocol = result["protocols"][score["protocol"]]
        if name == "unigram_entropy":
            unigram = protocol["unigram"]
            details += f"\nunigram: frequencies of {unigram['tokens']:,} tokens of the {unigram['text']}"
        elif name == "sentence_accuracy":
            task, without = protocol["segments"]["task"], protocol["without_label"]
            details += f"\n{task}: {protocol['pairs']:,} pairs" + (
                f"; left out, because they are one sentence and have no label: {without:,}" if without else ""
            )
    length = first.get("sequence_length") or first["window"]
    how = f"at most {length} tokens, {_weights(first)}{_left_out(first)}"
    return f"evaluation: {_amount(first)}; {how}\n{table(rows)}{details}"


def _amount(protocol: Mapping[str, Any]) -> str:
    data, available = protocol["data"], protocol["available"]
    return f"{data['documents']} of {available['documents']} documents, {data['bytes'] / 1000:,.0f} kB"


def _weights(protocol: Mapping[str, Any]) -> str:
    return str(protocol["precision"]) + (f", {protocol['quantize']}" if protocol["quantize"] else "")


def _decoder_table(result: Mapping[str, Any]) -> str:
    """The model and the compressors in bits per byte."""
    own = result["bits_per_byte"]
    protocol = result["protocols"][own["protocol"]]
    rows: list[tuple[Any, ...]] = [("", "bits per byte", f"{protocol['confidence']:.0%} interval")]
    for found in ({**own, "name": "this model"}, *own["baselines"].values()):
        size = f" ({found['dictionary_bytes'] / 2**20:.2g} MiB)" if "dictionary_bytes" in found else ""
        interval = f"{found['low']:.3f} to {found['high']:.3f}" if found["low"] is not None else ""
        rows.append((found["name"] + size, f"{found['value']:.3f}", interval))
    how = f"window {protocol['window']}, stride {protocol['stride']}, {_weights(protocol)}"
    loss, perplexity = result["loss"]["value"], result["token_perplexity"]["value"]
    shown = "beyond a float" if perplexity is None else f"{perplexity:.2f}"
    left_out = _left_out(protocol)
    return f"evaluation: {_amount(protocol)}; {how}{left_out}\n{table(rows)}" + (
        f"\nloss {loss:.4f} nats per token, token perplexity {shown}"
    )


def _left_out(protocol: Mapping[str, Any]) -> str:
    """The records and files that were not measured, for the end of a line, and a line each for links."""
    found = ""
    if protocol.get("rejected"):
        found += f"; rejected: {describe_rejected(protocol['rejected'])}"
    if protocol.get("ignored_kinds"):
        found += f"; {describe_ignored(protocol['ignored_kinds'])}"
    return found + "".join(f"\nevaluation: {sentence}" for sentence in protocol.get("links", ()))
