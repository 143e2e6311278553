"""The `corpus` section of a recipe. This module imports nothing slow, because `--help` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from neolm.core.config import Config, Unit
from neolm.corpus.filter_config import (
    FILES,
    FILTERS,
    PRESETS,
    C4Config,
    CodeConfig,
    FinewebConfig,
    GopherQualityConfig,
    GopherRepetitionConfig,
    LanguageConfig,
    ModelScoreConfig,
    PrivacyConfig,
    QualityConfig,
    UrlConfig,
    WebtextConfig,
)

DROPPED = "dropped"
"""Key of the settings in the manifest of a corpus that `neolm corpus drop` wrote."""

TextKind = Literal["lines", "paragraphs", "sentences", "spans"]
"""A kind of text that may be repeated."""


class KeepConfig(Config):
    """Which one of some documents with the same text stays."""

    keep: Literal["longest", "first", "source"] = "longest"
    """The document that stays: the one with most characters, with the smallest id, or of the best source."""
    source_order: tuple[str, ...] = ()
    """For keep=source: names of sources, the best first. The others come last."""

    @model_validator(mode="after")
    def _order_is_used(self) -> Self:
        if (self.keep == "source") != bool(self.source_order):
            raise ValueError("keep=source and source_order need each other")
        return self


class NearDuplicatesConfig(KeepConfig):
    """Documents with nearly the same words: found by MinHash and LSH, verified, and grouped into clusters."""

    action: Literal["drop", "report"] = "drop"
    """`drop` keeps one document of each cluster; `report` keeps all, marked, each cluster in one split."""
    threshold: Annotated[float, Field(gt=0, le=1), Unit("Jaccard similarity")] = 0.8
    """The smallest similarity of two near-duplicates."""
    ngram: Annotated[int, Field(ge=1, le=100), Unit("words")] = 5
    """Words of a shingle. Documents of fewer words are never near-duplicates."""
    buckets: Annotated[int, Field(ge=1, le=1000), Unit("buckets")] = 16
    """LSH buckets of a document: two documents are compared if they share one. FineWeb: 14; GPT-3: 10."""
    rows: Annotated[int, Field(ge=1, le=100), Unit("MinHash values")] = 7
    """MinHash values that agree in a shared bucket. FineWeb: 8; GPT-3: 1."""
    max_dropped_share: Annotated[float, Field(ge=0, le=1), Unit("fraction of documents")] = 0.5
    """If more of a source would be dropped, nothing is written and the run ends; 1 consents to any share."""


class EvaluationTableConfig(Config):
    """An evaluation set of yours: a table, and the columns that make an item."""

    name: Annotated[str, Field(min_length=1)]
    """Name of the set in the report."""
    path: Annotated[str, Field(min_length=1)]
    """A table (.csv, .tsv, .jsonl, .json, .parquet, .txt, also compressed) or a folder of them."""
    question: Annotated[tuple[str, ...], Field(min_length=1)]
    """Columns with what is asked."""
    answer: str | None = None
    """Column with the answer, a text or a list of texts of which one is enough. Items without it are not judged."""
    passage: str | None = None
    """Column with a text that the question is about. It proves nothing alone."""


class DecontaminationConfig(Config):
    """Documents that have items of evaluation sets."""

    tasks: tuple[str, ...] = ()
    """Tasks of GLUE and SuperGLUE, such as glue/rte: the validation part of their official files."""
    data: str | None = None
    """For `tasks`: the folder with a subfolder for each task, or with the folders glue and superglue."""
    tables: tuple[EvaluationTableConfig, ...] = ()
    """Evaluation sets of yours, each with name, path, question, and perhaps answer and passage."""
    rule: Literal["careful", "gpt3", "ngram"] = "careful"
    """`careful`: question and answer, rare n-grams; `gpt3`: that of GPT-3 (Brown et al. 2020, appendix C); `ngram`: any
    common n-gram."""
    action: Literal["drop", "cut", "report"] | None = None
    """`drop` the document, `cut` the matches and 200 characters on each side out of it, or only `report`; null: cut for
    the rule gpt3, else drop."""
    ngram: Annotated[int, Field(ge=8, le=100), Unit("words")] = 13
    """Words of an n-gram."""
    max_documents: Annotated[int, Field(ge=1), Unit("documents")] = 10
    """N-grams in more documents do not count; nor, for `careful`, those in more questions."""

    @model_validator(mode="after")
    def _has_sets(self) -> Self:
        if not self.tasks and not self.tables:
            raise ValueError("give tasks=[glue/rte] with data=FOLDER, or tables")
        if bool(self.tasks) != (self.data is not None):
            raise ValueError("tasks and data need each other")
        names = [*self.tasks, *(table.name for table in self.tables)]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two evaluation sets have the name {repeated[0]!r}")
        if self.rule == "ngram" and self.max_documents != 10:
            raise ValueError("max_documents has no effect, because the rule is ngram")
        return self


class RepeatedTextConfig(KeepConfig):
    """Text that occurs again, in another document or later in the same one. Only the first occurrence stays."""

    kinds: Annotated[tuple[TextKind, ...], Field(min_length=1)] = ("spans",)
    """What is looked for: whole `lines`, whole `paragraphs`, `sentences` (C4: three in a row) and `spans` of words."""
    action: Literal["cut", "drop"] = "cut"
    """`cut` removes the repeated text; `drop` rejects every document with text of a document that stays."""
    span_words: Annotated[int, Field(ge=2, le=10_000), Unit("words")] = 50
    """The shortest span."""
    sentences: Annotated[int, Field(ge=1, le=100), Unit("sentences")] = 3
    """Sentences in a row."""
    min_words: Annotated[int, Field(ge=1), Unit("words")] = 10
    """Shorter lines, paragraphs and sentences in a row stay: a bracket in code, a greeting."""
    min_words_left: Annotated[int, Field(ge=1), Unit("words")] = 20
    """A document with fewer words after a cut is rejected. Reason: `repeated_text`."""
    max_dropped_share: Annotated[float, Field(ge=0, le=1), Unit("fraction of characters")] = 0.5
    """If more of a source would be removed, nothing is written and the run ends; 1 consents to any share."""

    @model_validator(mode="after")
    def _settings_are_used(self) -> Self:
        used = {"sentences": "sentences" in self.kinds, "span_words": "spans" in self.kinds}
        used |= {"min_words": self.kinds != ("spans",), "min_words_left": self.action == "cut"}
        if unused := sorted(self.model_fields_set & {name for name, is_used in used.items() if not is_used}):
            raise ValueError(f"{', '.join(unused)} has no effect with kinds={list(self.kinds)}, action={self.action}")
        return self


_COMPARISONS: Mapping[str, type[Config]] = {
    "near_duplicates": NearDuplicatesConfig,
    "repeated_text": RepeatedTextConfig,
}


class CorpusConfig(Config):
    """Where the raw text is, and which documents are kept."""

    source: Literal["python-stdlib", "files"] = "python-stdlib"
    """`python-stdlib`: the standard library of the running Python, without a download; `files`: your text in `path`."""
    path: str | tuple[str, ...] | None = None
    """For `files`: a file, folder or glob, or a list of them, of .txt, .md, .py, .jsonl, .parquet,
    HTML, WARC, CSV, MediaWiki XML, .mbox, .zip and .tar, also compressed (.gz, .zst, .xz, .bz2);
    also https://, s3://, gs:// and hf://datasets/ORG/NAME."""
    licence: str = "unknown"
    """The licence of documents of `files` that have none of their own, preferably an SPDX name."""
    extractor: Literal["trafilatura", "resiliparse"] = "trafilatura"
    """What finds the main text of a web page: `trafilatura` (precise) or `resiliparse` (ten times as fast)."""
    text_key: Annotated[str, Field(min_length=1)] = "text"
    """The key (.jsonl) or column (.parquet) of the text."""
    max_document_bytes: Annotated[int, Field(ge=1), Unit("bytes")] = 2**27
    """Larger documents (a text file, a line of .jsonl, a text of .parquet) are rejected as `too_large`."""
    min_characters: Annotated[int, Field(ge=0), Unit("characters")] = 10
    """Shorter documents (without white space at the ends) are rejected as `too_short`."""
    max_line_characters: Annotated[int, Field(ge=1), Unit("characters")] = 100_000
    """Documents with a longer line (dumps, minified code) are rejected as `too_long_lines`."""
    min_text_fraction: Annotated[float, Field(ge=0, le=1), Unit("fraction of characters")] = 0.5
    """Documents with a smaller share of letters, digits and white space are rejected as `mostly_non_text`."""
    preset: Literal["webtext", "c4", "gopher", "gpt3", "pile-cc", "fineweb"] | None = None
    """The filters of a published corpus where they are not given. `gpt3` and `pile-cc` need `quality.model`."""
    url: UrlConfig | None = None
    """Reject documents by their URL. Reason: `url`."""
    language: LanguageConfig | None = None
    """Keep documents in these languages; needs the extra [corpus]. Reason: `language`."""
    gopher_repetition: GopherRepetitionConfig | None = None
    """Reject repetitive documents. Reason: `gopher_repetition`."""
    gopher_quality: GopherQualityConfig | None = None
    """Reject documents that are unlike prose in English. Reason: `gopher_quality`."""
    c4: C4Config | None = None
    """Remove lines, and reject documents of which too little is left. Reason: `c4`."""
    fineweb: FinewebConfig | None = None
    """Reject documents of lists and short lines. Reason: `fineweb`."""
    webtext: WebtextConfig | None = None
    """Reject short documents, and those that few readers liked. Reason: `webtext`."""
    quality: QualityConfig | None = None
    """Keep documents that a classifier likes, by chance. Reason: `quality`."""
    scores: tuple[ModelScoreConfig, ...] = ()
    """Scores by models, and their limits. Reasons: `perplexity` and `model_score`."""
    code: CodeConfig | None = None
    """Read source code of all common languages, with the licence of each file; {}: with the default limits."""
    licences: tuple[str, ...] = ()
    """Keep only documents under these licences, SPDX names such as MIT; empty: under any. Reason: `licence`."""
    privacy: PrivacyConfig | None = None
    """Replace personal data and secrets by placeholders, which are counted."""
    split_characters: Annotated[int | None, Field(ge=1), Unit("characters")] = None
    """Divide longer documents into parts of at most this size, between paragraphs if possible; null: do not divide."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1), Unit("fraction of documents")] = 0.05
    """The share of documents that are held out to validate the model, chosen by a hash of their ids."""

    unique_urls: bool = False
    """Keep one document of those with the same `url` in their metadata: the one that was `retrieved` last, then the
    longest, then that with the smallest id. Reason: `same_url`."""
    near_duplicates: NearDuplicatesConfig | None = None
    """Drop or report documents with nearly the same words; null: only exact duplicates are dropped."""
    decontamination: DecontaminationConfig | None = None
    """Drop, cut or report documents that have items of evaluation sets. Reason: `contaminated`."""
    repeated_text: RepeatedTextConfig | None = None
    """Remove text that occurs again: lines, paragraphs, sentences, long spans of words; null: it stays."""

    @model_validator(mode="after")
    def _with_preset(self) -> Self:
        """The filters of the preset; what is given replaces single settings of a filter, or all of it by null."""
        for name, settings in PRESETS.get(self.preset or "", {}).items():
            given = getattr(self, name)
            if name not in self.model_fields_set:
                self.__dict__[name] = ({**FILTERS, **_COMPARISONS}[name])(**settings)
            elif given is not None:
                missing = {key: value for key, value in settings.items() if key not in given.model_fields_set}
                self.__dict__[name] = given.model_copy(update=missing)
        return self

    @model_validator(mode="after")
    def _scores_differ(self) -> Self:
        if len({score.name for score in self.scores}) < len(self.scores):
            raise ValueError("two scores have the same name")
        return self

    def files(self) -> dict[str, str]:
        """The files and folders that the filters read, by the dotted key that names each."""
        found = {}
        for key in FILES:
            filter_, _, name = key.partition(".")
            if path := getattr(getattr(self, filter_), name, None):
                found[key] = path
        return found

    def without_effect(self) -> dict[str, str]:
        """Fields that other fields make meaningless, each with the reason."""
        names = ("licence", "extractor", "text_key", "code") if self.source != "files" else ()
        return dict.fromkeys(names, "source is python-stdlib")
