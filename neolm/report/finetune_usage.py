"""Commands and code that use the model of a fine-tuning, or its baseline, for the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neolm.report.finetune_results import FinetuneResults

TFIDF_CODE = """\
import pandas
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import {kind}
{several}from sklearn.pipeline import make_pipeline, make_union

table = pandas.{read}
words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=300_000)
characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, max_features=300_000)
model = make_pipeline(make_union(words, characters), {model})
model.fit({texts}, table[{labels}])"""
READ = {
    ".tsv": "read_csv({!r}, sep='\\t')",
    ".jsonl": "read_json({!r}, lines=True)",
    ".parquet": "read_parquet({!r})",
}


@dataclass(frozen=True)
class FinetuneUsage:
    """How to use what a run has trained."""

    output: Path
    settings: Mapping[str, Any]
    """The section `finetune` of the recipe."""
    results: FinetuneResults

    @property
    def python(self) -> str:
        """Lines that use the model."""
        example = '("first text", "second text")' if self.settings.get("second_column") else '"Your text"'
        return f"import neolm\n\nneolm.predict({str(self.output)!r}, [{example}])"

    @property
    def tfidf_code(self) -> str:
        """Lines that train the linear model on TF-IDF features, which is not kept."""
        settings, several = self.settings, self.results.has_several
        labels = [str(name) for name in settings.get("label_column") or ["label"]]
        place = Path(str(settings.get("train")))
        read = next((call for ending, call in READ.items() if ending in place.suffixes), "read_csv({!r})")
        texts = [str(settings.get("text_column") or "text"), *filter(None, [settings.get("second_column")])]
        joined = " + ' \\n ' + ".join(f"table[{name!r}]" for name in texts)
        model = "Ridge()" if self.results.is_regression else "LogisticRegression(C=10, max_iter=200, tol=1e-3)"
        return TFIDF_CODE.format(
            read=read.format(str(place)),
            kind="Ridge" if self.results.is_regression else "LogisticRegression",
            texts=joined,
            labels=repr(labels if several else labels[0]),
            model=f"OneVsRestClassifier({model})" if several else model,
            several="from sklearn.multiclass import OneVsRestClassifier\n" if several else "",
        )

    def columns(self, with_label: bool = False) -> list[str]:
        """Options that name the columns of a table, where they are not the default."""
        settings, found = self.settings, []
        if settings.get("text_column", "text") != "text":
            found += ["--text-column", str(settings["text_column"])]
        if settings.get("second_column"):
            found += ["--second-column", str(settings["second_column"])]
        labels = [str(name) for name in settings.get("label_column") or []]
        if with_label and labels != ["label"]:
            found += [word for name in labels for word in ("--label-column", name)]
        return found
