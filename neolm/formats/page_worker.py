"""Turn web pages and wikitext into text, in a process of its own: it may be ended for its time, its memory or a crash.

A request is a line of JSON (`size`, `task`, `charset`) and `size` bytes; the answer is a line of JSON. This file is
run as a script, so it imports nothing of NeoLM.
"""

from __future__ import annotations

import codecs
import json
import re
import resource
import signal
import sys
from typing import Any

CPU_SECONDS = 20.0  # of a page; most need 2 to 40 ms
MEMORY = 2**31  # address space that a page may need beside that of the imported packages
FEW_CHARACTERS = 400  # with fewer, the other extractor is tried
_META = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_LEFT_OUT = re.compile(r"(?i)\s*(file|image|category|media)\s*:")
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def decode(data: bytes, declared: str) -> tuple[str, str, str]:
    """The text, its encoding, and how it was found: by a mark or as valid UTF-8, declared, or sniffed.

    Bytes that the encoding does not have become U+FFFD. A page may be cut off within a character.
    """
    from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

    for mark, name in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(name, "replace"), name, "mark"
    found = _META.search(data[:4096])
    label = declared or (found[1].decode("ascii") if found else "")
    name = (map_encoding_to_html5(label, fallback_utf8=False) or "") if label else ""
    if not (name == "iso2022_jp" and b"\x1b" in data):
        try:
            return codecs.getincrementaldecoder("utf-8")().decode(data), "utf-8", "valid"
        except UnicodeDecodeError:
            text = data.decode("utf-8", "replace")
        if name == "utf-8" and 2 * text.count("\ufffd") < len(text) - len(text.encode("ascii", "ignore")):
            return text, name, "declared"  # with a few broken characters
    if name and name != "utf-8":
        return data.decode(name, "replace"), name, "declared"
    name = detect_encoding(data) or "utf-8"
    return data.decode(name, "replace"), name, "sniffed"


def by_trafilatura(html: str) -> str:
    """The main text, with lists, tables and code."""
    import trafilatura

    return trafilatura.extract(html, include_comments=False, favor_precision=True) or ""


def by_resiliparse(html: str) -> str:
    """The main text, with lists, tables and code."""
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(html, main_content=True, alt_texts=False)


EXTRACTORS = {"trafilatura": by_trafilatura, "resiliparse": by_resiliparse}


def page_text(html: str, first: str) -> tuple[str, str]:
    """The main text of a page and the extractor that found it: `first`, or the other one where that finds far more."""
    text = EXTRACTORS[first](html).strip()
    if len(text) < FEW_CHARACTERS:
        (second,) = EXTRACTORS.keys() - {first}
        other = EXTRACTORS[second](html).strip()
        if len(text) < len(other) / 4:
            return other, second
    return text, first


def wiki_text(source: str) -> str:
    """The plain text of wikitext, without templates, tables, references, files and categories."""
    import mwparserfromhell

    code = mwparserfromhell.parse(source)
    for link in code.filter_wikilinks():
        if _LEFT_OUT.match(str(link.title)):
            code.remove(link)
    for tag in code.filter_tags(matches=lambda node: str(node.tag).lower() in ("ref", "table", "gallery")):
        code.remove(tag)
    return str(code.strip_code()).strip()


def answer(request: dict[str, Any], data: bytes) -> dict[str, Any]:
    """The answer to a request: `text` and facts about it, or `error`."""
    try:
        if request["task"] == "wikitext":
            return {"text": wiki_text(data.decode("utf-8"))}
        html, encoding, found = decode(data, request["charset"])
        if request["task"] == "text":
            return {"text": html.replace("\0", ""), "encoding": encoding, "encoding_from": found}
        text, extractor = page_text(html.replace("\0", ""), request["task"])
        return {"text": text, "encoding": encoding, "encoding_from": found, "extractor": extractor}
    except Exception as error:  # the packages raise what they like for a hostile page
        return {"error": f"{type(error).__name__}: {error}"[:200]}


def main() -> None:
    """Answer requests until the input ends."""
    page_text("", "trafilatura")  # imports the packages before memory is limited
    wiki_text("")
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            used = int(file.read().split()[0]) * resource.getpagesize()
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = used + MEMORY if most == resource.RLIM_INFINITY else min(used + MEMORY, most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        data = sys.stdin.buffer.read(request["size"])
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # SIGPROF ends the process
        found = answer(request, data)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
