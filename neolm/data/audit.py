"""A readable view of a masked example, so that a person can check what a model is asked."""

from __future__ import annotations

from collections.abc import Callable

from neolm.data.batch import IGNORED, Batch


def masked_text(batch: Batch, row: int, id_to_token: Callable[[int], str]) -> str:
    """The tokens of an example, with those to predict in braces: what the model reads, an arrow and the original.

    `{[MASK]→cat}` is masked, `{dog→cat}` replaced at random and `{cat}` kept. The sentence label is at the end, if
    there is one.
    """
    shown = []
    ids, labels, mask = (batch[name][row].tolist() for name in ("input_ids", "labels", "attention_mask"))
    for token_id, label, real in zip(ids, labels, mask, strict=True):
        if real:
            token = id_to_token(token_id)
            original = "" if label == token_id else f"→{id_to_token(label)}" if label != IGNORED else None
            shown.append(token if original is None else f"{{{token}{original}}}")
    sentence_label = int(batch["sentence_labels"][row])
    return " ".join(shown) + ("" if sentence_label == IGNORED else f"  (sentence label {sentence_label})")
