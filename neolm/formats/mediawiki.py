"""The articles of MediaWiki's XML dumps, page by page.

A page is parsed alone, so a broken one does not stop the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote
from xml.etree import ElementTree as ET

from neolm.core.chunks import DamageError
from neolm.formats.item import Item

_MARKS = (b"<page>", b"</page>")  # texts have &lt; for each <


def read_wiki(chunks: Iterable[bytes], limit: int) -> Iterator[Item]:
    """The articles as wikitext. Redirects and pages of other namespaces are `not_article`.

    Raises:
        DamageError: it has no page, it ends within one, or the compressed file is damaged.
    """
    buffer, number, searched, base = bytearray(), 0, 0, ""
    inside = too_large = False
    for chunk in chunks:
        buffer += chunk
        while (place := buffer.find(_MARKS[inside], searched)) >= 0:
            end = place + len(_MARKS[inside]) * inside
            part, searched = bytes(buffer[:end]), 0
            del buffer[:end]
            if inside:
                number += 1
                yield _article(part, number, base, limit if not too_large else 0)
            elif found := re.search(rb"<base>([^<]+/)[^/<]*</base>", part):
                base = found[1].decode("utf-8", "replace")
            inside, too_large = not inside, False
        if len(buffer) > limit:
            too_large = inside
            del buffer[: -len(_MARKS[1])]
        searched = max(0, len(buffer) - len(_MARKS[1]))
    if inside or not number:
        why = ("truncated", "it ends within a page") if inside else ("other_format", "no page of a MediaWiki")
        raise DamageError(*why)


def _article(page: bytes, number: int, base: str, limit: int) -> Item:
    if len(page) > limit:
        return Item(str(number), damage=DamageError("too_large", "the page is larger than a document may be"))
    try:
        tree = ET.fromstring(page)
    except (ET.ParseError, ValueError) as error:
        return Item(str(number), page, damage=DamageError("broken_record", f"not valid XML: {error}"))
    title, text = tree.findtext("title") or str(number), (tree.findtext("revision[last()]/text") or "").encode()
    url = base and base + quote(title.replace(" ", "_"))
    facts = {"title": title, "url": url, "revised": tree.findtext("revision[last()]/timestamp")}
    plain = tree.findtext("revision[last()]/model") in (None, "wikitext")
    if tree.find("redirect") is None and tree.findtext("ns", "0").strip() == "0" and plain:
        return Item(title, text, "wikitext", facts)
    return Item(title, text, facts=facts, damage=DamageError("not_article", "a redirect, or of another namespace"))
