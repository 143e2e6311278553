"""What policies would have done with the texts of a table. Nothing is blocked, and nothing is written.

Memory holds one number for each text and category.
"""

from __future__ import annotations

import heapq
import itertools
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neolm.core.errors import InputError, shortened
from neolm.core.progress import table as aligned
from neolm.core.progress import task
from neolm.moderation.moderator import Moderator, Scores, strictest
from neolm.moderation.policy import ACTIONS, Side
from neolm.tables.examples import LeftOut, describe, leave_out
from neolm.tables.table import Table

CURVE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
NEAREST = 5
"""Texts of each category that are shown, those whose scores are nearest to the threshold."""


class DryRun:
    """The scores of several policies over the same texts, and what they would have done."""

    def __init__(self, moderators: Sequence[Moderator], side: Side) -> None:
        self._moderators, self._side = moderators, side
        self._values = [{name: array("d") for name in one.thresholds} for one in moderators]
        self._nearest = [{name: list[tuple[float, int, float, str]]() for name in one.thresholds} for one in moderators]
        self._together = [Counter[str]() for _ in moderators]
        self._blocked = Counter[int]()  # texts by the number of policies that would have blocked them
        self._left_out: dict[str, LeftOut] = {}

    def read(self, table: Table, column: str, batch_size: int) -> None:
        """Judge the texts of a table. Raises `InputError` if it has none that can be used."""
        rows = table.rows()
        with task("Judging", None, "rows") as shown:
            while batch := list(itertools.islice(rows, batch_size)):
                texts, encoded = [], []
                for row in batch:
                    try:
                        text = row.text(column)
                        encoded.append([moderator.encode(text) for moderator in self._moderators])
                        texts.append((row.line, text))
                    except InputError as error:
                        leave_out(self._left_out, str(error), row.line)
                columns = zip(*encoded, strict=True)
                found = [one.scores(rows) for one, rows in zip(self._moderators, columns, strict=False)]
                for (line, text), scores in zip(texts, zip(*found, strict=True), strict=True):
                    self._blocked[sum(self._add(n, line, text, one) for n, one in enumerate(scores))] += 1
                shown.advance(len(batch))
        if not self._blocked:
            raise InputError(f"{table.path}: no row can be judged; " + "; ".join(describe(self._left_out)))

    def _add(self, policy: int, line: int, text: str, scores: Scores) -> bool:
        """Count a text; returns whether it would have been blocked."""
        for name, score in scores.items():
            self._values[policy][name].append(score.value)
            distance = abs(score.value - self._moderators[policy].thresholds[name])
            nearest = self._nearest[policy][name]
            near = (-distance, -line, score.value, shortened(text, 80))
            (heapq.heappush if len(nearest) < NEAREST else heapq.heappushpop)(nearest, near)
        action = strictest(self._moderators[policy].actions(scores, self._side))
        self._together[policy][action] += 1
        return action == "block"

    def as_json(self) -> dict[str, Any]:
        """Counts by action, the share of texts at or above each threshold, and the texts near the policies' own."""
        texts = self._blocked.total()
        policies = []
        for number, one in enumerate(self._moderators):
            facts = {"policy": str(one.path), "version": one.policy.version, "mode": one.policy.mode}
            categories = {name: self._category(number, name) for name in one.thresholds}
            together = {action: self._together[number][action] for action in ACTIONS}
            policies.append({**facts, "digest": one.digest, "categories": categories, "together": together})
        return {
            "texts": texts,
            "side": self._side,
            "left_out": describe(self._left_out),
            "policies": policies,
            "blocked_by_any_policy": (texts - self._blocked[0]) / texts,
            "blocked_by_all_policies": self._blocked[len(self._moderators)] / texts,
        }

    def _category(self, policy: int, name: str) -> dict[str, Any]:
        moderator, values = self._moderators[policy], np.frombuffer(self._values[policy][name])
        reached = int((values >= moderator.thresholds[name]).sum())
        actions: dict[str, int] = {**dict.fromkeys(ACTIONS, 0), "allow": len(values) - reached}
        actions[getattr(moderator.policy.categories[name], self._side)] += reached
        nearest = sorted(self._nearest[policy][name], reverse=True)
        return {
            "threshold": moderator.thresholds[name],
            **actions,
            "share_from_threshold": {f"{at:g}": float((values >= at).mean()) for at in CURVE},
            "nearest": [{"line": -line, "score": score, "text": text} for _, line, score, text in nearest],
        }

    def describe(self) -> str:
        """All counts as tables for a terminal."""
        found = self.as_json()
        texts = found["texts"]
        parts = ["; ".join([f"{texts:,} texts judged as {self._side}s, none blocked", *found["left_out"]])]
        parts += [_described(policy, texts) for policy in found["policies"]]
        if len(self._moderators) > 1:
            rates = f"{found['blocked_by_any_policy']:.1%} by any, {found['blocked_by_all_policies']:.1%} by all"
            parts.append(f"Would be blocked of {len(self._moderators)} policies: {rates}")
        return "\n\n".join(parts)


def _described(found: Mapping[str, Any], texts: int) -> str:
    name = f"{found['policy']}, version {found['version']}, sha256 {found['digest'][:12]}"
    note = "" if found["mode"] == "block" else f"; its mode is {found['mode']}, which blocks nothing"
    rows = [*found["categories"].items(), ("any category", found["together"])]
    counts = [(row, *(f"{one[action]:,} ({one[action] / texts:.1%})" for action in ACTIONS)) for row, one in rows]
    curves: list[tuple[Any, ...]] = [("SHARE FROM THRESHOLD", *(f"{at:g}" for at in CURVE), "NOW")]
    near: list[tuple[Any, ...]] = [("NEAREST TO THE THRESHOLD", "SCORE", "LINE", "TEXT")]
    for row, one in found["categories"].items():
        shares = [f"{share:.1%}" for share in one["share_from_threshold"].values()]
        curves.append((row, *shares, f"{one['threshold']:g}"))
        near += [(row, f"{text['score']:.3f}", text["line"], text["text"]) for text in one["nearest"]]
    tables = [[("CATEGORY", "ALLOWED", "FLAGGED", "BLOCKED"), *counts], curves, near]
    return "\n\n".join([f"{name}{note}", *map(aligned, tables)])
