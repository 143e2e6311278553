"""The reasons for which a document is rejected: in words for people, and what to do if it should be kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Reason(NamedTuple):
    """A reason for rejecting a document."""

    words: str
    """What the document is, for a page."""
    remedy: str
    """What to do, for a message."""


REASONS: Mapping[str, Reason] = {
    "empty": Reason("empty", "give files with text in them"),
    "too_short": Reason("too short", "lower the limit with corpus.min_characters=N"),
    "too_long_lines": Reason("too long lines", "raise the limit with corpus.max_line_characters=N"),
    "mostly_non_text": Reason("mostly not text", "lower the limit with corpus.min_text_fraction=F"),
    "missing_text": Reason("no text", "name the key of the text with corpus.text_key=KEY"),
    "broken_utf8": Reason("not UTF-8", "convert the files to UTF-8"),
    "broken_json": Reason("broken JSON", "each line of a .jsonl file must be one JSON object"),
    "binary": Reason("binary", "give text files"),
    "truncated": Reason("cut off", "the compressed file ends early; download it again"),
    "too_large": Reason("too large", "raise the limit with corpus.max_document_bytes=N, or unpack or divide the files"),
    "generated": Reason("generated, minified or copied code", "change corpus.code, or name other files"),
    "licence": Reason("under another licence", "name the licences with corpus.licences=[MIT,Apache-2.0]"),
    "unreachable": Reason("out of reach", "check the addresses and the network, and run the same command again"),
    "unreadable": Reason("unreadable", "check the files and their permissions"),
    "duplicate": Reason("a copy of another document", "give files that differ"),
    "near_duplicate": Reason("nearly a copy", "raise corpus.near_duplicates.threshold=F"),
    "same_url": Reason("another copy of a page", "keep all copies with corpus.unique_urls=false"),
    "contaminated": Reason("with items of evaluation sets", "keep them with corpus.decontamination.action=report"),
    "repeated_text": Reason(
        "text of other documents", "lower the limit with corpus.repeated_text.min_words_left=N, or set it to null"
    ),
    "broken_record": Reason("a damaged record", "check the archive"),
    "http_error": Reason(
        "an error message of a server", "these are error messages of servers; give an archive with pages"
    ),
    "not_extracted": Reason("without a main text", "give pages with a main text, or convert them to text"),
    "not_article": Reason("not an article of a wiki", "give a dump with articles"),
    "other_format": Reason("of another format", "give archives with pages or texts"),
    "language": Reason("another language", "name the languages with corpus.language.languages=[en,de]"),
    "taken_back": Reason("taken back", "they were dropped on purpose, by neolm corpus drop"),
    "gopher_quality": Reason("low quality (Gopher)", "change the limits of corpus.gopher_quality, or set it to null"),
    "gopher_repetition": Reason(
        "repetitive (Gopher)", "change the limits of corpus.gopher_repetition, or set it to null"
    ),
    "c4": Reason("refused by the rules of C4", "change the rules of corpus.c4, or set it to null"),
    "fineweb": Reason("low quality (FineWeb)", "change the limits of corpus.fineweb, or set it to null"),
    "url": Reason("a URL that is blocked or not allowed", "change the lists of corpus.url, or set it to null"),
    "webtext": Reason("short, or with little karma (WebText)", "change the limits of corpus.webtext"),
    "quality": Reason(
        "unlike the texts of quality", "lower corpus.quality.alpha=F or min_score, or train another model"
    ),
    "perplexity": Reason("unlikely or too likely to a model", "change min_score and max_score of corpus.scores"),
    "model_score": Reason("a score of a model beyond its limit", "change min_score and max_score of corpus.scores"),
}
