"""The messages of .mbox files (RFC 4155, with `>From` for lines of a message that start with From)."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Iterable, Iterator

from neolm.core.chunks import ChunkStream, DamageError
from neolm.formats.item import Item


def read_mbox(chunks: Iterable[bytes], limit: int) -> Iterator[Item]:
    """The text of each message without its attachments. A message of more than `limit` bytes is `too_large`.

    Raises:
        DamageError: no message starts at the beginning, or the compressed file is damaged.
    """
    stream, parts, size, number, blank = ChunkStream(chunks), list[bytes](), 0, 0, True
    while True:
        line = stream.readline(limit)
        if not line or (blank and line.startswith(b"From ")):
            if number:
                yield _message(str(number), b"".join(parts), size, limit)
            number, parts, size = number + 1, [], 0
            if not line:
                return
        elif not number:
            raise DamageError("other_format", "no message starts at the beginning of the file")
        size += len(line)
        if size <= limit:
            parts.append(line)
        blank = not line.strip()


def _message(name: str, data: bytes, size: int, limit: int) -> Item:
    if size > limit:
        return Item(name, data, damage=DamageError("too_large", f"the message has more than {limit:,} bytes"))
    try:
        text = re.sub(rb"(?m)^>(>*From )", rb"\1", data.partition(b"\n")[2])
        message = email.message_from_bytes(text, policy=email.policy.default)
        body = message.get_body(("plain", "html"))
        if body is None:
            return Item(name, data, damage=DamageError("missing_text", "the message has no text"))
        facts = {"subject": str(message["subject"] or ""), "date": str(message["date"] or "")}
        kind = "html" if body.get_content_type() == "text/html" else "text"
        content = body.get_payload(decode=True)
        return Item(
            name, content if isinstance(content, bytes) else b"", kind, facts, body.get_content_charset("us-ascii")
        )
    except Exception as error:  # the package raises what it likes for a damaged message
        return Item(name, data, damage=DamageError("broken_record", f"{type(error).__name__}: {error}"[:200]))
