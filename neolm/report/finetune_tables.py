"""What is in the tables of a fine-tuning, for its page: first what is wrong, then labels and lengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neolm.report.chart import Bar, bar_chart
from neolm.report.finetune_results import FinetuneResults
from neolm.report.pages import Figure, plural
from neolm.report.sizes import Pairs

SHOWN = 6  # labels that a sentence lists
BARS = 20  # labels that are drawn
IMBALANCE = 10.0  # times as many examples as the rarest label from which a warning is shown


@dataclass(frozen=True)
class FinetuneTables:
    """The inventories of a fine-tuning."""

    results: FinetuneResults
    settings: Mapping[str, Any]
    """The section `finetune` of the recipe."""

    @property
    def training(self) -> Mapping[str, Any]:
        """The inventory of the training table."""
        return self.results.part("inventory", "train")

    @property
    def drawn(self) -> bool:
        """Whether the validation examples were drawn from the training table."""
        return not self.results.part("inventory", "validation")

    @property
    def measured_file(self) -> str:
        """Name of the table that the validation examples are in."""
        place = self.results.part("inventory", "train" if self.drawn else "validation").get("path")
        return Path(str(place)).name if place else ""

    @property
    def labels(self) -> Mapping[str, int]:
        """Examples of each label, or of each combination of labels, in the training table."""
        found = self.training.get("labels")
        return found if isinstance(found, Mapping) and not self.results.is_regression else {}

    def problems(self) -> list[str]:
        """Sentences about what is wrong, the worst first."""
        found = [*self._leakage()]
        for table in ("train", "validation"):
            found += self._table_problems(self.results.part("inventory", table))
        return [*found, *self._unmeasured(), *self._lengths()]

    @property
    def several(self) -> Pairs:
        """Of several training tables, the name of each and what its labels were trained on as."""
        found = self.results.part("inventory").get("tables") or []
        of = "{} ({:,}) is {}".format
        rows = [(str(one["path"]), [of(name, n, to or "left out") for name, n, to in one["labels"]]) for one in found]
        return [(name, ", ".join(labels)) for name, labels in rows]

    def facts(self) -> Pairs:
        """The tables with their numbers of examples, and the lengths of the texts."""
        rows: Pairs = []
        for table, name in (("train", "Training table"), ("validation", "Validation table")):
            found = self.results.part("inventory", table)
            if found:
                place = Path(str(found.get("path"))).name
                rows.append((name, f"{place}: {plural(int(found.get('examples') or 0), 'example')}"))
        rows += self.several
        if self.training and self.drawn:
            share = self.settings.get("validation_share")
            share = f" ({share:.0%})" if isinstance(share, float) else ""
            group = self.settings.get("group_column")
            how = f"by the groups in {group}" if group else "by label; equal texts stay together"
            rows.append(("Validation examples", f"drawn from the training table{share}, {how}"))
        if self.results.is_regression and (numbers := _numbers(self.training.get("labels"))):
            rows.append(("Numbers", f"{min(numbers):g} to {max(numbers):g}, {len(numbers):,} different"))
        for key, name in (("words", "Words of a text"), ("characters", "Characters of a text")):
            if lengths := self.results.part("inventory", "train", key):
                longest = f"longest {lengths.get('longest', 0):,} (line {lengths.get('longest_line', 0)})"
                middle = f"median {lengths.get('median', 0):,}, 95% at most {lengths.get('high', 0):,}"
                rows.append((name, f"{middle}, {longest}"))
        if limit := self.results.part("prediction").get("window_tokens"):
            policy = {"windows": "longer texts are read in windows", "truncate": "longer texts are cut"}
            how = policy.get(str(self.results.part("prediction").get("long_text")), "")
            how = "longer pairs are cut" if self.results.part("prediction").get("pair") else how
            rows.append(("Longest input", f"{limit:,} tokens{'; ' if how else ''}{how}"))
        return rows

    @property
    def label_figure(self) -> Figure | None:
        """Bars of the labels with their numbers of examples, if there are not too many."""
        if not 1 < len(self.labels) <= BARS:
            return None
        bars = [Bar(_one_line(name), count, f"{count:,}") for name, count in self.labels.items()]
        heading = "Examples of each combination of labels" if self.results.has_several else "Examples of each label"
        return Figure(lambda width: bar_chart(bars, heading, width), f"{heading} in the training table.")

    @property
    def label_sentence(self) -> str:
        """Number, most frequent and rarest of many labels."""
        if len(self.labels) <= BARS:
            return ""
        ordered = [f"{_one_line(name)} ({count:,})" for name, count in self.labels.items()]
        what = "combinations of labels" if self.results.has_several else "labels"
        most, least = ", ".join(ordered[:3]), ", ".join(ordered[-3:])
        return f"There are {len(ordered):,} {what}. The most frequent are {most}; the rarest are {least}."

    def _leakage(self) -> Iterator[str]:
        leakage = self.results.part("inventory", "leakage")
        shared, total = leakage.get("shared"), leakage.get("examples")
        if isinstance(shared, Mapping):
            yield (
                f"{shared.get('count', 0):,} of {total:,} validation texts are also in the training table: the scores "
                f"are too good. The first is line {shared.get('first_line')}, which is line {shared.get('first_of')} "
                "of the training table."
            )
        if unknown := leakage.get("unknown_labels"):
            names = _listed([f"{name} ({count:,})" for name, count in unknown.items()])
            yield f"Labels of the validation table that the training table does not have: {names}."

    def _table_problems(self, table: Mapping[str, Any]) -> Iterator[str]:
        name = Path(str(table.get("path"))).name
        what = "number" if self.results.is_regression else "label"
        if found := table.get("conflicts"):
            yield f"{name}: {_repeated(found, f'an earlier text with another {what}')} One of the two is wrong."
        for names in table.get("similar_labels") or ():
            counts = table.get("labels") or {}
            listed = _listed([f"{name!r} ({counts.get(name, 0):,})" for name in names])
            yield f"{name}: labels that differ only in case or white space are different labels: {listed}."
        for reason, rows in (table.get("left_out") or {}).items():
            verb = "row is" if rows.get("count") == 1 else "rows are"
            yield f"{name}: {rows.get('count', 0):,} {verb} left out: {reason} (first: line {rows.get('first_line')})."
        if found := table.get("duplicates"):
            yield f"{name}: {_repeated(found, f'an earlier text and its {what}')}"
        shortened = table.get("shortened_labels")
        if shortened and not self.results.is_regression:
            yield f"{name}: {plural(shortened, 'label')} such as 1.0 {'was' if shortened == 1 else 'were'} read as 1."

    def _unmeasured(self) -> Iterator[str]:
        if permuted := self.results.part("details").get("permuted"):
            yield f"{str(permuted)[:1].upper()}{str(permuted)[1:]}."
        missing = [str(row.get("name")) for row in self.results.rows("labels") if row.get("examples") == 0]
        if missing:
            yield f"{plural(len(missing), 'label')} without a validation example, so not measured: {_listed(missing)}."
        ratio = self.training.get("imbalance")
        if self.labels and not self.results.has_several and isinstance(ratio, (int, float)) and ratio >= IMBALANCE:
            most, *_, least = self.labels
            yield (
                f"The most frequent label ({_one_line(most)}) has {ratio:,.0f} times as many examples as the rarest "
                f"({_one_line(least)}). The accuracy says little about rare labels: see macro F1."
            )

    def _lengths(self) -> Iterator[str]:
        limit = self.results.part("prediction").get("window_tokens")
        for part, name in (("train", "training"), ("validation", "validation")):
            lengths = self.results.part("lengths", part)
            cut, divided, total = (int(lengths.get(key) or 0) for key in ("cut", "divided", "texts"))
            if cut:
                yield f"{cut:,} of {total:,} {name} texts are longer than {limit:,} tokens and were cut."
            if divided:
                yield (
                    f"{divided:,} of {total:,} {name} texts are longer than {limit:,} tokens and were read in "
                    f"{lengths.get('windows', 0) - total + divided:,} windows."
                )


def _repeated(found: Mapping[str, Any], what: str) -> str:
    number = int(found.get("count") or 0)
    verb = "repeats" if number == 1 else "repeat"
    return (
        f"{plural(number, 'example')} {verb} {what} (first: line {found.get('first_line')}, which has the text of "
        f"line {found.get('first_of')})."
    )


def _numbers(labels: Any) -> list[float]:
    try:
        return [float(label) for label in labels]
    except (TypeError, ValueError):
        return []


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(_one_line(name) for name in names[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _one_line(name: str) -> str:
    """A label on one line, shortened."""
    words = " ".join(name.split())
    return words if len(words) <= 60 else f"{words[:59]}\u2026"
