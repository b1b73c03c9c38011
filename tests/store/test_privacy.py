"""Personal data that has a form: what is found, what is not, and in what time. The numbers are the standards' own."""

from __future__ import annotations

import time

import pytest

from prefloop.store.annotators import add_annotator
from prefloop.store.consents import record_consent
from prefloop.store.database import Store
from prefloop.store.feedback import answers, import_answers
from prefloop.store.privacy import find_pii, redact, redact_value, without_consent


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("write to ada.lovelace+x@mail.example.org.", "write to [email]."),
        ("<bo@example.com>", "<[email]>"),
        ("4111 1111 1111 1111 is the networks' test number", "[card] is the networks' test number"),
        ("card 5500-0055-5555-5559, thanks", "card [card], thanks"),
        ("378282246310005", "[card]"),  # 15 digits
        ("DE89 3704 0044 0532 0130 00 is ISO's example", "[iban] is ISO's example"),
        ("GB82WEST12345698765432", "[iban]"),
        ("pay NO93 8601 1117 947 now", "pay [iban] now"),  # 15 characters, the shortest
        ("from 192.168.0.1 to 2001:db8::8a2e:370:7334", "from [ip] to [ip]"),
        ("127.0.0.1:8000", "[ip]:8000"),
        ("call +49 (0)30 1234-5678 or 0044 20 7946 0958", "call [phone] or [phone]"),
        ("(555) 010-4477", "[phone]"),
        ("555-010-4477", "[phone]"),
        ("030/12345678", "[phone]"),
    ],
)
def test_what_is_found(text: str, redacted: str) -> None:
    assert redact(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # Luhn fails
        "GB83WEST12345698765432",  # MOD 97-10 fails
        "999.1.1.1",
        "version 1.2.3, 10:30:00",
        "on 2026-01-31 and 31.12.2026",
        "1234567",
        "0.1234567890123",
        "3.14159265358979",
        "x = a::b",
        "a@b",
        "std::vector",
        "0000000000000000",
        "the years 1939-1945",
        "Ada Lovelace, 12 Main Street",  # not covered, and said so
    ],
)
def test_what_is_not(text: str) -> None:
    assert find_pii(text) == []


def test_spans_are_of_the_text_as_given() -> None:
    text = "ä bo@example.com ✓ 127.0.0.1"
    assert [(one.kind, text[one.start : one.end]) for one in find_pii(text)] == [
        ("email", "bo@example.com"),
        ("ip", "127.0.0.1"),
    ]


def test_values_are_redacted_within() -> None:
    value = {"text": "a bo@example.com", "spans": [{"start": 1, "note": "127.0.0.1"}], "n": 3}
    assert redact_value(value) == {"text": "a [email]", "spans": [{"start": 1, "note": "[ip]"}], "n": 3}


@pytest.mark.parametrize("bad", ["a." * 100_000, "1 " * 100_000, "a@" * 100_000, ":" * 200_000, "DE12 " * 50_000])
def test_no_text_takes_long(bad: str) -> None:
    began = time.process_time()
    find_pii(bad)
    assert time.process_time() - began < 5


def test_who_did_not_agree(store: Store) -> None:
    ada, bo, cy = (add_annotator(store, name, kind="person") for name in ("Ada", "Bo", "Cy"))
    machine = add_annotator(store, "careful", kind="simulated")
    said = {"kind": "approval", "prompt": "x", "candidates": ["y"], "value": {"approved": True}, "annotator": "w1"}
    import_answers(store, [said | {"source": "s", "licence": "MIT"}])
    (worker,) = {row.annotator for row in answers(store)}
    record_consent(store, ada, "training", 1, True)
    record_consent(store, bo, "training", 1, True)
    record_consent(store, bo, "training", 1, False)
    record_consent(store, cy, "publication", 1, True)
    everybody = [ada, bo, cy, machine, worker, "person:gone"]
    assert without_consent(store, everybody, "training") == {bo, cy, "person:gone"}
    assert without_consent(store, everybody, "publication") == {ada, bo, "person:gone"}
