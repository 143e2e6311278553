"""Documents of web archives (WARC 1.0 and 1.1, ISO 28500): pages of WARC, texts of WET, titles of WAT.

Requests, redirects and records about records are no documents. A record is in memory alone, and a broken one does not
stop the others: reading goes on at the next line that starts a record.

"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from neolm.core.chunks import ChunkStream, DamageError
from neolm.formats.item import Item

HTML = ("text/html", "application/xhtml+xml")
HEADER_BYTES = 2**20  # of a record or a response
KINDS = frozenset({"response", "resource", "conversion", "metadata"})


def read_warc(chunks: Iterable[bytes], limit: int) -> Iterator[Item]:
    """The documents of an archive, record by record. A record of more than `limit` bytes is `too_large`.

    Raises:
        DamageError: the compressed file is damaged, or ends within a record.
    """
    stream, number, lost = ChunkStream(chunks), 0, False
    while line := stream.readline(HEADER_BYTES):
        if not line.startswith(b"WARC/"):
            if line.strip() and not lost:
                lost = True
                yield Item(str(number + 1), damage=DamageError("broken_record", "no record starts here"))
            continue
        number, lost = number + 1, False
        headers = _headers(stream)
        length = headers.get("content-length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 16):
            yield Item(str(number), damage=DamageError("broken_record", "the record has no length"))
            lost = True
            continue
        size = int(length)
        body = stream.read(min(size, limit + 1)) if headers.get("warc-type") in KINDS else b""
        if not stream.skip(size - len(body)):
            raise DamageError("truncated", f"the file ends within record {number:,}")
        if body and (item := _item(headers, body, number, limit)) is not None:
            yield item


def _headers(stream: ChunkStream) -> dict[str, str]:
    """The headers up to a blank line, by lower-case names."""
    found: dict[str, str] = {}
    size, name = 0, ""
    while (line := stream.readline(HEADER_BYTES)).strip() and (size := size + len(line)) < HEADER_BYTES:
        text = line.decode("utf-8", "replace")
        if text[0] in " \t" and name:
            found[name] += " " + text.strip()
        else:
            name, _, value = text.partition(":")
            name = name.strip().lower()
            found[name] = value.strip()
    return found


def _item(headers: dict[str, str], body: bytes, number: int, limit: int) -> Item | None:
    url = headers.get("warc-target-uri", "").strip("<> ")
    name = url or str(number)
    facts = {"url": url, "retrieved": headers.get("warc-date"), "mime": _mime(headers)}
    try:
        if len(body) > limit:
            raise DamageError("too_large", f"the record has more than {limit:,} bytes")
        algorithm, _, digest = headers.get("warc-block-digest", "").partition(":")
        computed = base64.b32encode(hashlib.sha1(body).digest()).decode()
        if algorithm.lower() == "sha1" and len(digest) == 32 and digest.upper() != computed:
            raise DamageError("broken_record", "the digest of the record is wrong")
        if headers["warc-type"] == "metadata":
            return _titles(body, name, facts)
        if facts["mime"] != "application/http":
            default = "charset=utf-8" if headers["warc-type"] == "conversion" else ""  # so is all text of WET
            return _payload(name, body, facts, headers.get("content-type", "") + default)
        return _response(name, body, facts, limit)
    except DamageError as damage:
        return Item(name, body[:limit], facts=facts, damage=damage)


def _mime(headers: dict[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _response(name: str, body: bytes, facts: dict[str, Any], limit: int) -> Item | None:
    """The payload of an HTTP response. Redirects have none."""
    stream = ChunkStream([body])
    status = stream.readline(HEADER_BYTES).split()
    headers = _headers(stream)
    code = status[1] if len(status) > 1 else b""
    if code[:1] == b"3":
        return None
    if code != b"200":
        raise DamageError("http_error", f"the server answered {code.decode('ascii', 'replace')[:20]}")
    payload = stream.read(len(body))
    if headers.get("transfer-encoding", "").lower() == "chunked":
        payload = _dechunked(payload)
    encoding = headers.get("content-encoding", "").lower()
    if encoding in ("gzip", "x-gzip", "deflate") and payload[:1] in (b"\x1f", b"\x78"):
        try:
            decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS + 32)
            payload = decoder.decompress(payload, limit + 1)
        except zlib.error as error:
            raise DamageError("broken_record", f"the payload is damaged: {error}") from None
        if len(payload) > limit:
            raise DamageError("too_large", f"the payload has more than {limit:,} bytes")
    elif encoding in ("br", "zstd"):
        raise DamageError("other_format", f"payloads compressed with {encoding} are not read")
    return _payload(name, payload, {**facts, "mime": _mime(headers)}, headers.get("content-type", ""))


def _payload(name: str, data: bytes, facts: dict[str, Any], content_type: str) -> Item:
    mime = facts["mime"]
    if mime not in HTML and mime != "text/plain":
        raise DamageError("other_format", f"{mime or 'a payload without type'} is not read")
    charset = content_type.lower().partition("charset=")[2].strip("\"' ").partition(";")[0]
    return Item(name, data, "html" if mime in HTML else "text", facts, charset)


def _dechunked(data: bytes) -> bytes:
    """The content of a chunked body; the body itself if it is none, as some archives store it unpacked."""
    stream = ChunkStream([data])
    parts: list[bytes] = []
    while True:
        try:
            size = int(stream.readline(100).partition(b";")[0], 16)
        except ValueError:
            return b"".join(parts) if parts else data
        if size <= 0:
            return b"".join(parts)
        parts.append(stream.read(size))
        stream.readline(2)


def _titles(body: bytes, name: str, facts: dict[str, Any]) -> Item | None:
    """The title and the description of a page, from a record of WAT about its response; None: about something else."""
    try:
        payload = json.loads(body)["Envelope"]["Payload-Metadata"]
        head = payload["HTTP-Response-Metadata"]["HTML-Metadata"]["Head"]
        metas = (meta.get("content") for meta in head.get("Metas", []) if meta.get("name") == "description")
        texts = [head.get("Title"), *metas]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    text = "\n".join(text for text in texts if isinstance(text, str))
    return Item(name, text.encode("utf-8", "backslashreplace"), "text", facts, "utf-8")
