"""Export of feedback as data for preference learning: JSON lines of prompt, chosen and rejected."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neolm.core.files import write_text
from neolm.serving.server.feedback import FeedbackStore, default_url


def preferences(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Pairs from choices without ties, and from opposite ratings of different answers to the same prompt."""
    rated: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: {"up": [], "down": []})
    for row in rows:
        if row["kind"] == "choice":
            if row["chosen"] is not None and row["answers"][0]["text"] != row["answers"][1]["text"]:
                yield _pair(row, row["answers"][row["chosen"]], row["answers"][1 - row["chosen"]])
        else:
            rated[json.dumps([row["mode"], row["prompt"]])][row["rating"]].append(row)
    for sides in rated.values():
        for better, worse in zip(sides["up"], sides["down"], strict=False):
            if better["answers"][0]["text"] != worse["answers"][0]["text"]:
                yield _pair(worse, better["answers"][0], worse["answers"][0])


def ratings(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rated answers with a label: true for a rating up."""
    for row in rows:
        if row["kind"] == "rating":
            [answer] = row["answers"]
            yield {"prompt": row["prompt"], "completion": _text(row, answer), "label": row["rating"] == "up"} | _origin(
                row, completion=answer
            )


def export(url: str | None, target: Path, single: bool = False) -> int:
    """Write preferences, or ratings if `single`, as JSON lines; return the number of lines."""
    store = FeedbackStore(url or default_url())
    try:
        rows = (ratings if single else preferences)(store.rows())
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    finally:
        store.close()
    write_text(target, "".join(lines))
    return len(lines)


def _pair(row: dict[str, Any], chosen: dict[str, Any], rejected: dict[str, Any]) -> dict[str, Any]:
    texts = {"prompt": row["prompt"], "chosen": _text(row, chosen), "rejected": _text(row, rejected)}
    return texts | _origin(row, chosen=chosen, rejected=rejected)


def _text(row: dict[str, Any], answer: dict[str, Any]) -> str | list[dict[str, str]]:
    return answer["text"] if row["mode"] == "completion" else [{"role": "assistant", "content": answer["text"]}]


def _origin(row: dict[str, Any], **answers: dict[str, Any]) -> dict[str, Any]:
    keys = ("model", "digest", "settings")
    models = {name: {key: answer[key] for key in keys} for name, answer in answers.items()}
    return {"id": row["id"], "created": row["created"].isoformat(), "source": row["kind"], "models": models}
