"""Personal data and secrets in a text, and placeholders in their place.

A candidate is found by its form, and counts if its check digits are right (IBAN, card numbers), if its form is that of
a known key, or if its surroundings do not speak against it. Stand-ins are from ranges that are reserved for
documentation (RFC 2606, 3849 and 5737). One value has one placeholder in a document, by a hash that is salted with the
document, so that the placeholders of two documents cannot be compared.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from neolm.corpus.filter_config import Kind

KIND_WORDS: Mapping[Kind, tuple[str, str]] = {
    "email": ("e-mail address", "e-mail addresses"),
    "phone": ("phone number", "phone numbers"),
    "ip": ("IP address", "IP addresses"),
    "iban": ("IBAN", "IBANs"),
    "card": ("card number", "card numbers"),
    "api_key": ("API key", "API keys"),
    "private_key": ("private key", "private keys"),
}
"""One of a kind, and several, in words."""

_EMAIL = re.compile(
    r"(?<![\w.+%-])[A-Za-z0-9][\w.+%-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![\w-])"
)
_RESERVED = re.compile(
    r"@(?:.*\.)?(?:example\.(?:com|org|net)|[\w-]+\.(?:example|test|invalid|localhost))$", re.IGNORECASE
)
_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:]|\.\d)")
_VERSION = re.compile(
    r"(?:version|release|build|firmware|driver|section|chapter|clause|oid|\bv|§)s?\W{0,3}$", re.IGNORECASE
)
_ADDRESS = re.compile(
    r"(?:\bip|address|host|server|ping|from|gateway|dns|router|subnet|client)\W*(?:\w+\W+)?$", re.IGNORECASE
)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
_CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-]|\.\d)")
_INTERNATIONAL = re.compile(r"(?<![\w+])(?:\+|(?<!\d )00)[1-9]\d{0,2}(?:[ .-]?\(?\d{1,5}\)?){2,6}(?![\w-])")
_AMERICAN = re.compile(r"(?<![\w.-])(?:\([2-9]\d{2}\) ?|[2-9]\d{2}([.-]))[2-9]\d{2}(?:\1|-)\d{4}(?![\w-]|\.\d)")
_CALLED = re.compile(
    r"(?i:\b(?:phone|telephone|tel|fax|mobile|cell|call|whatsapp)\b\.?(?: (?:number|no\.?|us|me|at|on))*[:.]? {0,2})"
    r"(\(?\d(?:[ ()./-]{0,2}\d){6,13})(?![\w-])"
)
_KEYS = re.compile(
    r"(?<![\w-])(?:sk-(?:[a-z]+-)*[A-Za-z0-9_]{20,}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,}"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{35}|xox[abeprs]-[\w-]{10,}|glpat-[\w-]{20,}|hf_[A-Za-z]{30,}"
    r"|SG\.[\w-]{16,}\.[\w-]{16,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,})(?![\w-])"
)
_ASSIGNED = re.compile(
    r"(?i:\b(?:api|access|auth|secret|private|client)[_ -]?(?:key|token|secret)\b[\"']?\s*[:=]\s*[\"']?)"
    r"([A-Za-z0-9+/_-]{20,}={0,2})(?![\w-])"
)
_PRIVATE_KEY = re.compile(r"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.*?(?:-----END \1PRIVATE KEY-----|\Z)", re.DOTALL)
IBAN_LENGTHS = {
    **{"AD": 24, "AE": 23, "AT": 20, "BE": 16, "BG": 22, "CH": 21, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "EE": 20},
    **{"ES": 24, "FI": 18, "FR": 27, "GB": 22, "GR": 27, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IS": 26, "IT": 27},
    **{"LI": 21, "LT": 20, "LU": 20, "LV": 22, "MC": 27, "MT": 31, "NL": 18, "NO": 15, "PL": 28, "PT": 25, "RO": 24},
    **{"RS": 22, "SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TR": 26, "UA": 29},
}
_BRANDS = re.compile(
    r"(?:4\d{12}(?:\d{3}){0,2}|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"
    r"|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}|6(?:011|5\d\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12})"
)
MIN_ENTROPY = 3.5  # bits of a character of a key; words and paths have less


def mask(text: str, kinds: Iterable[Kind]) -> tuple[str, Counter[str]]:
    """The text with placeholders, and the number of them by kind."""
    salt = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    counts: Counter[str] = Counter()
    wanted = {*kinds}
    for kind, pattern, is_one in _DETECTORS:
        if kind not in wanted:
            continue

        def placed(match: re.Match[str], kind: Kind = kind, is_one: Callable[[re.Match[str]], bool] = is_one) -> str:
            if not is_one(match):
                return match[0]
            counts[kind] += 1
            value = match[match.lastindex or 0] if kind in ("phone", "api_key") and match.re in _INNER else match[0]
            return match[0].replace(value, _placeholder(kind, value, salt))

        text = pattern.sub(placed, text)
    return text, counts


def _placeholder(kind: Kind, value: str, salt: bytes) -> str:
    digest = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=4, key=salt).hexdigest()
    if kind == "email":
        return f"user{digest}@example.com"
    if kind == "ip":
        return f"2001:db8::{digest[:4]}:{digest[4:]}" if ":" in value else f"192.0.2.{1 + int(digest, 16) % 254}"
    return f"[{kind.upper()}-{digest}]" if kind != "private_key" else "[PRIVATE_KEY]"


def _is_email(match: re.Match[str]) -> bool:
    return ".." not in match[0] and not _RESERVED.search(match[0])


def _is_ip(match: re.Match[str]) -> bool:
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return False
    if not address.is_global or address.is_multicast:
        return False
    before = match.string[max(0, match.start() - 24) : match.start()]
    if address.version == 6:
        return sum(map(bool, match[0].split(":"))) > 2
    if _VERSION.search(before):
        return False
    return bool(_ADDRESS.search(before)) or any(int(part) > 9 for part in match[0].split("."))


def _is_iban(match: re.Match[str]) -> bool:
    value = match[0].replace(" ", "")
    if IBAN_LENGTHS.get(value[:2]) != len(value):
        return False
    return int("".join(str(int(letter, 36)) for letter in value[4:] + value[:4])) % 97 == 1


def _is_card(match: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", match[0])
    if not _BRANDS.fullmatch(digits) or len(set(digits)) < 2:
        return False
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(one - 9 * (one > 9) for one in doubled) % 10 == 0


def _is_phone(match: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", match[0])
    return 8 <= len(digits.removeprefix("00")) <= 15


def _is_assigned_key(match: re.Match[str]) -> bool:
    value = match[1]
    shares = [count / len(value) for count in Counter(value).values()]
    mixed = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    return mixed and -sum(share * math.log2(share) for share in shares) >= MIN_ENTROPY


def _always(match: re.Match[str]) -> bool:
    return True


_INNER = (_CALLED, _ASSIGNED)
"""Patterns whose group is the value, and the rest its surroundings."""
_DETECTORS: tuple[tuple[Kind, re.Pattern[str], Callable[[re.Match[str]], bool]], ...] = (
    ("private_key", _PRIVATE_KEY, _always),
    ("api_key", _KEYS, _always),
    ("api_key", _ASSIGNED, _is_assigned_key),
    ("email", _EMAIL, _is_email),
    ("iban", _IBAN, _is_iban),
    ("card", _CARD, _is_card),
    ("phone", _INTERNATIONAL, _is_phone),
    ("phone", _AMERICAN, _always),
    ("phone", _CALLED, _always),
    ("ip", _IPV4, _is_ip),
    ("ip", _IPV6, _is_ip),
)
