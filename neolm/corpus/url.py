"""Rules for the URL of a document, as in FineWeb (Penedo et al. 2024): domains, words and parts of words."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from neolm.corpus.filter_config import UrlConfig
from neolm.corpus.words import word_list

_BETWEEN_WORDS = re.compile("[^a-z0-9]+")


def url_rules(config: UrlConfig) -> Callable[[str], str | None]:
    """A function of a URL: why a document with it is rejected, or None.

    Raises:
        SettingError: a list cannot be read, or is empty.
    """
    names = ("blocked_domains", "allowed_domains", "words", "subwords")
    lists = {name: word_list(f"url.{name}", path) for name in names if (path := getattr(config, name)) is not None}
    blocked = lists.get("blocked_domains", frozenset()) | {domain.lower() for domain in config.block}
    allowed, words, subwords = lists.get("allowed_domains"), lists.get("words", ()), sorted(lists.get("subwords", ()))

    def refusal(url: str) -> str | None:
        url = url.lower()
        try:
            host = (urlsplit(url if "//" in url else f"//{url}").hostname or "").strip(".")
        except ValueError:  # as in http://[
            host = ""
        labels = host.split(".")
        domains = [".".join(labels[start:]) for start in range(len(labels))]  # the host, and all that it belongs to
        if found := next((domain for domain in domains if domain in blocked), None):
            return f"its domain {found} is blocked"
        if allowed is not None and allowed.isdisjoint(domains):
            return f"its domain {host} is not among those that are allowed"
        pieces = _BETWEEN_WORDS.split(url)
        if found := next((word for word in pieces if word in words), None):
            return f"its URL has the word {found!r}"
        joined = "".join(pieces)
        if found := next((part for part in subwords if part in joined), None):
            return f"its URL has {found!r}"
        return None

    return refusal
