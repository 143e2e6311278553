"""Settings of the filters of clean text, and the presets. This module imports nothing slow.

A setting `min_NAME` or `max_NAME` is a limit of the value NAME that the filter measures; null: no limit.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from neolm.core.config import Config, Unit

Kind = Literal["email", "phone", "ip", "iban", "card", "api_key", "private_key"]
"""A kind of personal data or secrets."""
Limit = Annotated[float, Field(ge=0)] | None


class LanguageConfig(Config):
    """Languages that are kept, by the model lid.176 of fastText (Joulin et al. 2016)."""

    languages: Annotated[tuple[str, ...], Field(min_length=1)] = ("en",)
    """Codes (en, eng) or English names."""
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.65
    """Lowest probability of the language; FineWeb has 0.65."""
    min_characters: Annotated[int, Field(ge=0), Unit("characters")] = 30
    """The language of shorter documents is unknown."""
    unknown: Literal["keep", "drop"] = "keep"
    """What happens to documents that are too short."""


class GopherQualityConfig(Config):
    """The quality rules of Gopher (Rae et al. 2021, appendix A.1)."""

    min_words: Limit = 50
    """Words; symbols that stand alone are none."""
    max_words: Limit = 100_000
    """Words."""
    min_mean_word_length: Limit = 3
    """Mean characters of a word."""
    max_mean_word_length: Limit = 10
    """Mean characters of a word."""
    max_hashes_per_word: Limit = 0.1
    """Number signs (#) per word."""
    max_ellipses_per_word: Limit = 0.1
    """Ellipses per word."""
    max_bullet_lines: Limit = 0.9
    """Share of the lines that begin with a bullet."""
    max_ellipsis_lines: Limit = 0.3
    """Share of the lines that end with an ellipsis."""
    min_alphabetic_words: Limit = 0.8
    """Share of the words with a letter."""
    min_stop_words: Limit = 2
    """Number of different words of `stop_words`."""
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")
    """Frequent words of the language."""


class GopherRepetitionConfig(Config):
    """The repetition rules of Gopher (Rae et al. 2021, table A1). All limits are shares."""

    max_duplicate_lines: Limit = 0.3
    """Share of the lines that occurred before."""
    max_duplicate_paragraphs: Limit = 0.3
    """Share of the paragraphs that occurred before."""
    max_duplicate_line_characters: Limit = 0.2
    """Share of the characters in such lines."""
    max_duplicate_paragraph_characters: Limit = 0.2
    """Share of the characters in such paragraphs."""
    max_top_2_gram: Limit = 0.2
    """Share of the characters in the most frequent pair of words."""
    max_top_3_gram: Limit = 0.18
    """Likewise for three words."""
    max_top_4_gram: Limit = 0.16
    """Likewise for four words."""
    max_duplicate_5_grams: Limit = 0.15
    """Share of the characters in sequences of five words that occurred before."""
    max_duplicate_6_grams: Limit = 0.14
    """Likewise for six words."""
    max_duplicate_7_grams: Limit = 0.13
    """Likewise for seven words."""
    max_duplicate_8_grams: Limit = 0.12
    """Likewise for eight words."""
    max_duplicate_9_grams: Limit = 0.11
    """Likewise for nine words."""
    max_duplicate_10_grams: Limit = 0.1
    """Likewise for ten words."""


class C4Config(Config):
    """The rules of C4 (Raffel et al. 2020, section 2.2). Lines are removed from the text; then the rest is judged."""

    terminal_punctuation: bool = True
    """Remove lines that do not end with a full stop, a question or exclamation mark, or a quotation mark."""
    min_line_words: Annotated[int, Field(ge=0), Unit("words")] = 5
    """Remove shorter lines."""
    max_word_characters: Annotated[int, Field(ge=1), Unit("characters")] = 1000
    """Remove lines with a longer word."""
    citations: bool = True
    """Remove marks such as [1], [edit] and [citation needed]."""
    javascript: bool = True
    """Remove lines that mention JavaScript."""
    policies: bool = True
    """Remove lines about cookies, terms of use and privacy."""
    lorem_ipsum: bool = True
    """Reject documents with "lorem ipsum"."""
    curly_brackets: bool = True
    """Reject documents with a curly bracket."""
    min_sentences: Limit = 3
    """Sentences in the lines that stay."""
    blocklist: str | None = None
    """File with a word or phrase on each line; documents with one of them are rejected."""


class FinewebConfig(Config):
    """The quality rules that FineWeb added (Penedo et al. 2024, section 3.6)."""

    min_punctuated_lines: Limit = 0.12
    """Share of the lines that end with a punctuation mark."""
    max_short_lines: Limit = 0.67
    """Share of the lines of at most `short_line_characters`."""
    short_line_characters: Annotated[int, Field(ge=0), Unit("characters")] = 30
    """Length of a short line."""
    max_duplicate_line_characters: Limit = 0.01
    """Share of the characters in lines that occurred before."""
    max_newlines_per_word: Limit = 0.3
    """Line ends per word."""


class WebtextConfig(Config):
    """The rules of WebText (Radford et al. 2019, section 2.1) and of its copy OpenWebText."""

    min_words: Limit = 128
    """Words and punctuation marks. OpenWebText asks for 128 tokens of GPT-2."""
    min_karma: Limit = 3
    """Karma on Reddit: `karma` of the metadata, or the highest of its `reddit_scores`. Documents without it pass."""


class QualityConfig(Config):
    """The classifier that chose GPT-3's Common Crawl (Brown et al. 2020, appendix A)."""

    model: str | None = None
    """Directory that `neolm corpus train-filter` wrote."""
    alpha: Annotated[float, Field(gt=0)] | None = 9
    """Keep a document if a Pareto draw of this shape, made of its text and `seed`, is above 1 - score; null: no draw.
    GPT-3 has 9, Pile-CC 3."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Other seeds keep other documents of low scores."""
    min_score: Limit = None
    """Lowest score."""


class UrlConfig(Config):
    """Rules for the URL in a document's metadata. Documents without one pass. Files have one entry on each line."""

    block: tuple[str, ...] = ()
    """Domains that are rejected with all subdomains, such as example.org; also whole suffixes, such as xxx."""
    blocked_domains: str | None = None
    """File of such domains."""
    allowed_domains: str | None = None
    """File of domains; all others are rejected."""
    words: str | None = None
    """File of words; a URL with one of them is rejected. Words are divided by all that is no letter or digit."""
    subwords: str | None = None
    """File of letters and digits that may stand anywhere in a URL that is rejected, also across words."""


class ModelScoreConfig(Config):
    """A score by a model, of each document that passed the other filters."""

    name: Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]
    """Name of the score in the column `scores`."""
    model: str
    """Model directory, run or hub id."""
    label: str | None = None
    """Of a classifier, the label whose probability is the score; null: the bits per byte of a decoder, or the number of
    a regression."""
    min_score: float | None = None
    """Lowest score."""
    max_score: float | None = None
    """Highest score."""


class PrivacyConfig(Config):
    """Personal data and secrets that placeholders replace."""

    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] = typing.get_args(Kind)
    """What is looked for. IP addresses become those of documentation, such as 192.0.2.7, e-mail addresses those of
    example.com, and the others words such as [PHONE-1a2b3c4d]."""


class CodeConfig(Config):
    """Source code: which files are read and which are rejected as `generated`."""

    max_line_characters: Annotated[int | None, Field(ge=1), Unit("characters")] = 1000
    """The longest line (Codex, The Stack)."""
    max_mean_line_characters: Annotated[float | None, Field(gt=0), Unit("characters")] = 100
    """The mean length of the lines (Codex, The Stack)."""
    min_alphanumeric: Annotated[float | None, Field(ge=0, le=1), Unit("fraction of characters")] = 0.25
    """Share of letters and digits (The Stack)."""
    generated: bool = False
    """Keep files that say in their first five lines that they are generated."""
    vendored: bool = False
    """Keep minified files, and those below node_modules, bower_components, vendor, third_party, site-packages, dist."""


FILTERS: Mapping[str, type[Config]] = {
    "url": UrlConfig,
    "language": LanguageConfig,
    "gopher_repetition": GopherRepetitionConfig,
    "gopher_quality": GopherQualityConfig,
    "c4": C4Config,
    "fineweb": FinewebConfig,
    "webtext": WebtextConfig,
    "quality": QualityConfig,
    "privacy": PrivacyConfig,
}
"""The settings of each filter, in the order in which they run: FineWeb's own."""
FILES = ("url.blocked_domains", "url.allowed_domains", "url.words", "url.subwords", "c4.blocklist", "quality.model")
"""Settings that name a file or folder, which is an input of the stage."""
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "c4": {
        "language": {"min_score": 0.99},
        "c4": {},
        "repeated_text": {"kinds": ("sentences",), "min_words": 1},
    },
    "gopher": {"language": {}, "gopher_repetition": {}, "gopher_quality": {}, "near_duplicates": {"ngram": 13}},
    "fineweb": {
        "language": {},
        "gopher_repetition": {},
        "gopher_quality": {},
        "c4": {"terminal_punctuation": False, "min_line_words": 3, "min_sentences": 5},
        "fineweb": {},
        "privacy": {"kinds": ("email", "ip")},
        "near_duplicates": {"buckets": 14, "rows": 8},
    },
    "webtext": {
        "url": {"block": ("wikipedia.org",)},
        "language": {},
        "webtext": {},
        "near_duplicates": {"threshold": 0.5, "buckets": 30, "rows": 3},
    },
    "gpt3": {"quality": {"alpha": 9}, "near_duplicates": {"buckets": 10, "rows": 1}},
    "pile-cc": {
        "language": {},
        "quality": {"alpha": 3},
        "near_duplicates": {"threshold": 0.5, "buckets": 10, "rows": 1},
    },
}
"""The filters of published corpora, with the settings that are not the defaults."""
LEFT_OUT: Mapping[str, str] = {
    "webtext": "links of Reddit are not collected, pages are not extracted by Dragnet and Newspaper, and words are "
    "counted, not tokens of GPT-2",
    "gpt3": "words in sequence are compared, not sets of words, and texts of GPT-3's other corpora and of evaluation "
    "sets are not removed",
    "pile-cc": "pages are not extracted by jusText, the language is that of lid.176, not of pycld2, the classifier is "
    "no fastText, and texts of evaluation sets are not removed",
}
"""What a preset does not have of the published filters, or has in another form."""
