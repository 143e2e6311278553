"""A readable view of a masked example, so that a person can check what a model is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from neolm.data.batch import IGNORED, Batch


def masked_text(batch: Batch, row: int, id_to_token: Callable[[int], str]) -> str:
    """The tokens of an example, with those to predict in braces: what the model reads, an arrow and the original.

    `{[MASK]→cat}` is masked, `{dog→cat}` replaced at random and `{cat}` kept. The sentence label is at the end, if
    there is one.
    """
    example = masked_example(batch, row, id_to_token)
    shown = [
        token if original is None else f"{{{token}}}" if original == token else f"{{{token}→{original}}}"
        for token, original in example["tokens"]
    ]
    label = example["sentence_label"]
    return " ".join(shown) + ("" if label is None else f"  (sentence label {label})")


def masked_example(batch: Batch, row: int, id_to_token: Callable[[int], str]) -> dict[str, Any]:
    """An example as JSON.

    Returns:
        `tokens`: what the model reads, each with its original if it is to be predicted, else null; `sentence_label`,
        null if there is none.
    """
    ids, labels, mask = (batch[name][row].tolist() for name in ("input_ids", "labels", "attention_mask"))
    tokens = [
        (id_to_token(token_id), None if label == IGNORED else id_to_token(label))
        for token_id, label, real in zip(ids, labels, mask, strict=True)
        if real
    ]
    sentence_label = int(batch["sentence_labels"][row])
    return {"tokens": tokens, "sentence_label": None if sentence_label == IGNORED else sentence_label}
