"""One form for all spellings of a URL, so that records of the same page are found."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

_TRACKING = re.compile(r"utm_\w+|[gdy]clid|gbraid|wbraid|fbclid|msclkid|mc_[ce]id|igshid|_ga", re.IGNORECASE)
_DEFAULT_PORTS = {"http": 80, "https": 443}


def normalised_url(url: Any) -> str | None:
    """The form that equal URLs share; None: there is no URL.

    http and https, a leading `www.`, the case of the host, default ports, the last slash of the path, escapes, the
    order of parameters, parameters that follow visitors (utm_source, gclid, ...) and fragments make no difference,
    except fragments that name a page (`#!/page`, `#/page`).
    """
    if not isinstance(url, str) or not url.strip():
        return None
    try:
        parts = urlsplit(url.strip())
        port = f":{parts.port}" if parts.port not in (None, _DEFAULT_PORTS.get(parts.scheme)) else ""
        pairs = sorted(pair for pair in parse_qsl(parts.query, True) if not _TRACKING.fullmatch(pair[0]))
    except ValueError:  # a port that is no number, or more parameters than Python reads
        return url.strip()
    scheme = "http" if parts.scheme == "https" else parts.scheme
    host = (parts.hostname or "").rstrip(".").removeprefix("www.")
    path = quote(unquote(parts.path, errors="surrogateescape"), safe="/:@!$&'()*+,;=~-._", errors="surrogateescape")
    page = f"#{parts.fragment}" if parts.fragment.startswith(("!", "/")) else ""
    return f"{scheme}://{host}{port}{path.rstrip('/')}?{urlencode(pairs)}{page}"
