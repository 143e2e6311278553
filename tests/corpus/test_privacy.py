"""Personal data and secrets: what is found, what only looks like it, and placeholders."""

import json
import re
import sysconfig
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolm.corpus.filter_config import PrivacyConfig
from neolm.corpus.privacy import mask

KINDS = PrivacyConfig().kinds
FOUND = {
    "email": ["jane.doe@company.co.uk", "j+list@sub.domain.de", "ops_team@my-host.io"],
    "ip": ["91.198.174.192", "2a02:2e0:3fe:1001:302::1"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB29NWBK60161331926819", "FR1420041010050500013M02606"],
    "card": ["4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005"],
    "phone": ["+49 30 901820", "+1 415 555 2671", "(212) 736-5000", "212-736-5000", "0044 20 7946 0958"],
    "api_key": [
        "ghp_" + "a1B2c3D4e5" * 4,
        "AKIA" + "IOSFODNN7EXAMPLE",
        "sk-proj-" + "Zx9Yw8Vu7T" * 4,
        "AIza" + "SyD3-x_Y" * 4 + "abc",
    ],
    "private_key": ["-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc\n-----END RSA PRIVATE KEY-----"],
}
LOOKALIKES = [
    "version 1.2.3.4 of the driver", "release 10.20.30.40", "OID 1.3.6.1.4.1.311.60.2", "build 100.2.33.4", "1.2.3.4.5",
    "ISBN 978-0-306-40615-7", "ISBN-13: 9780306406157", "ISBN 0-306-40615-2", "EAN 4006381333931",
    "2024-05-01 12:30:45", "12:30:45.123", "2024-05-01T12:30:45+02:00", "20240501123045", "1714566645", "1714566645123",
    "d41d8cd98f00b204e9800998ecf8427e", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "550e8400-e29b-41d4-a716-446655440000", "commit 1a2b3c4d5e6f", "std::vector<int>", "a::b::c", "10:20:30:40",
    "127.0.0.1", "192.168.1.20", "10.0.0.1", "192.0.2.7", "255.255.255.0", "fe80::1", "::1", "2001:db8::1",
    "user@example.com", "someone@localhost", "@decorator", "a@b", "git@", "1234567890123456", "4111 1111 1111 1112",
    "DE89 3704 0044 0532 0130 01", "XX89370400440532013000", "0.123456789012345678", "3.14159265358979",
    "123-45-6789", "100-200-3000 units", "pages 212-736", "1,234,567,890", "EUR 1 234 567", "SKU 55-0000-0000",
    "api_key = your_key_goes_here_please", "token: aaaaaaaaaaaaaaaaaaaaaaaa", "secret_key=os.environ.get",
    "-----BEGIN PUBLIC KEY-----", "from 1914 to 1918", "+5 strength", "room 0049", "00 12",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in FOUND.items() for value in values])
def test_what_is_found(kind: str, value: str) -> None:
    text, counts = mask(f"Write to {value}, or come.", KINDS)
    assert counts == {kind: 1}
    assert value not in text
    assert text.startswith("Write to ")
    assert text.endswith(", or come.")
    assert mask(value, [other for other in KINDS if other != kind]) == (value, Counter())


@pytest.mark.parametrize("text", LOOKALIKES)
def test_what_only_looks_like_it(text: str) -> None:
    assert mask(f"See {text} there.", KINDS) == (f"See {text} there.", Counter())


def test_surroundings() -> None:
    assert mask("ping 1.2.3.4", KINDS)[1] == {"ip": 1}
    assert mask("1.2.3.4", KINDS)[1] == {}
    text, counts = mask("Phone: 736 5000 12. Tel. 0800 123456", KINDS)
    assert counts == {"phone": 2}
    assert re.fullmatch(r"Phone: \[PHONE-\w{8}\]\. Tel\. \[PHONE-\w{8}\]", text)
    key = "f7G2kQ9zLm4XwR8tBn3V"
    text, counts = mask(f'api_key = "{key}"', KINDS)
    assert counts == {"api_key": 1}
    assert re.fullmatch(r'api_key = "\[API_KEY-\w{8}\]"', text)


def test_a_value_has_one_placeholder_in_a_document_and_another_elsewhere() -> None:
    text, counts = mask("a@firm.de wrote to b@firm.de, and a@firm.de again", KINDS)
    assert counts == {"email": 3}
    first, second, third = re.findall(r"\S+@example\.com", text)
    assert first == third
    assert first != second
    assert first not in mask("a@firm.de", KINDS)[0]
    assert mask(text, KINDS) == (text, Counter())  # placeholders are no personal data


@given(st.text(alphabet="ab1234567890 .:@+-()/\nDE", max_size=80))
def test_masking_twice_changes_nothing_more(text: str) -> None:
    masked, counts = mask(text, KINDS)
    if not counts:
        assert masked == text
    assert mask(masked, ["email", "ip", "iban", "card", "api_key"])[0] == masked


def test_code_has_little_that_looks_like_it() -> None:
    """Placeholders in the standard library: what is not an address of its authors or a made-up IP."""
    found: Counter[str] = Counter()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        found += mask(path.read_text("utf-8"), KINDS)[1]
    assert found["card"] == found["iban"] == found["api_key"] == 0
    assert found["phone"] + found["ip"] <= 8, found


def test_a_corpus_without_personal_data(tmp_path: Path, neolm_: Callable[..., tuple[int, str, str]]) -> None:
    rows = [{"id": "a", "text": "Mail me at jane@firm.de or jane@firm.de."}, {"id": "b", "text": "Nothing is here."}]
    (tmp_path / "raw.jsonl").write_text("\n".join(map(json.dumps, rows)))
    place = tmp_path / "run"
    code, _, err = neolm_("corpus", "build", "text", f"corpus.path={tmp_path}", "corpus.privacy={}", f"output={place}")
    assert code == 0, err
    kept = {row["id"]: row for row in pq.read_table(place / "corpus/documents").to_pylist()}
    text = next(row["text"] for name, row in kept.items() if name.startswith("a"))
    assert "jane" not in text
    assert text.count("@example.com") == 2
    assert json.loads((place / "corpus/manifest.json").read_text())["counts"]["masked"] == {"email": 2}
    assert "masked: 2 e-mail addresses" in err
