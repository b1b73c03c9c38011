"""Personal data in texts, what people agreed to, and erasure.

Found are what has a form that can be checked: e-mail addresses, telephone numbers, payment cards (Luhn), bank accounts
(IBAN, ISO 7064 MOD 97-10) and IP addresses. Names, postal addresses, dates of birth, numbers of identity cards and
whatever else says who somebody is are NOT found: no pattern knows them. Whoever shows or exports texts has to say so.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from prefloop.store.database import Store
from prefloop.store.tables import annotators
from prefloop.store.tables import consents as consent_table
from prefloop.store.values import in_chunks

PiiKind = Literal["email", "card", "iban", "ip", "phone"]
NOT_COVERED = "names, postal addresses and other words that tell who somebody is are not found"
LONGEST = 1_000_000
"""Characters of one text that are looked at in one piece."""


@dataclass(frozen=True)
class Pii:
    """A piece of a text that looks like personal data: `text[start:end]`."""

    kind: PiiKind
    start: int
    end: int


def find_pii(text: str) -> list[Pii]:
    """The pieces of `text` that look like personal data, in order, none overlapping another.

    Takes time linear in the length of the text, whatever it holds.
    """
    found: list[Pii] = []
    for kind, pattern, check in PATTERNS:
        for match in pattern.finditer(text):
            span = check(match.group())
            if span:
                found.append(Pii(kind, match.start(), match.start() + span))
    found.sort(key=lambda one: (RANK[one.kind], one.start))
    kept: list[Pii] = []
    taken = bytearray(len(text))
    for one in found:
        if not any(taken[one.start : one.end]):
            taken[one.start : one.end] = b"\x01" * (one.end - one.start)
            kept.append(one)
    return sorted(kept, key=lambda one: one.start)


def redact(text: str) -> str:
    """`text` with each such piece replaced by its kind in brackets: `write to [email]`."""
    parts, done = [], 0
    for one in find_pii(text):
        parts += [text[done : one.start], f"[{one.kind}]"]
        done = one.end
    return "".join([*parts, text[done:]])


def redact_value(value: Any) -> Any:
    """As `redact`, for every text within lists and mappings (whose keys stay)."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [redact_value(inner) for inner in value]
    return value


def without_consent(store: Store, ids: Iterable[str], purpose: str) -> set[str]:
    """Those of these annotators whose answers may not be used for `purpose`.

    A person must have given consent and not taken it back since. Machines need none, and people whose answers were
    imported (`imported:`) stand on the source and licence that came with the answers.
    """
    wanted = sorted(set(ids))
    given: dict[str, bool] = {}
    known: dict[str, Any] = {}
    with store.read() as connection:
        for chunk in in_chunks(wanted):
            of_chunk = sa.select(annotators.c.id, annotators.c.kind, annotators.c.profile).where(
                annotators.c.id.in_(chunk)
            )
            known.update((row.id, row) for row in connection.execute(of_chunk))
            said = (
                sa.select(consent_table)
                .where(consent_table.c.annotator_id.in_(chunk), consent_table.c.purpose == purpose)
                .order_by(consent_table.c.number)
            )
            given.update((row.annotator_id, row.given) for row in connection.execute(said))
    return {who for who in wanted if not given.get(who, False) and _needs_consent(who, known.get(who))}


def _needs_consent(identity: str, row: Any) -> bool:
    if identity.partition(":")[0] in ("simulated", "ai", "imported"):
        return False
    return row is None or row.kind == "person"


# What each pattern matches is checked further by a function that returns how much of it counts, 0 for none. No pattern
# has nested repetition, so none takes more than linear time.


def _email(found: str) -> int:
    return len(found) if len(found) <= 254 and ".." not in found else 0


def _card(found: str) -> int:
    """13 to 19 digits that pass the Luhn test, ISO/IEC 7812-1."""
    digits = [int(one) for one in found if one.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return 0
    doubled = [d if place % 2 == 0 else sum(divmod(2 * d, 10)) for place, d in enumerate(reversed(digits))]
    return len(found) if sum(doubled) % 10 == 0 else 0


IBAN_LENGTHS = (15, 34)


def _iban(found: str) -> int:
    """The longest beginning of `found` that passes MOD 97-10, ISO 13616 (a word may follow after a space)."""
    places = [place for place, one in enumerate(found) if one != " "]
    low, high = IBAN_LENGTHS
    for n in range(min(high, len(places)), low - 1, -1):
        text = "".join(found[place] for place in places[:n]).upper()
        number = "".join(str(int(one, 36)) for one in text[4:] + text[:4])
        if int(number) % 97 == 1:
            return places[n - 1] + 1
    return 0


def _ip(found: str) -> int:
    try:
        ipaddress.ip_address(found)
    except ValueError:
        return 0
    return 0 if ":" in found and len(found.replace(":", "")) < 3 else len(found)


def _phone(found: str) -> int:
    """International (+ or 00, 8 to 15 digits, ITU-T E.164) or national with a leading 0 or brackets."""
    digits = sum(one.isdigit() for one in found)
    if re.fullmatch(r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}", found):  # a date
        return 0
    return len(found) if 8 <= digits <= 15 else 0


PATTERNS: tuple[tuple[PiiKind, re.Pattern[str], Callable[[str], int]], ...] = (
    (
        "email",
        re.compile(
            r"(?<![\w.+%-])[A-Za-z0-9_](?:[A-Za-z0-9_.+%'-]{0,63})@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b",
        ),
        _email,
    ),
    ("card", re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d])"), _card),
    ("iban", re.compile(r"\b[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){11,30}\b"), _iban),
    ("ip", re.compile(r"(?<![\w.:])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)"), _ip),
    ("ip", re.compile(r"(?<![\w.:])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])"), _ip),
    (
        "phone",
        re.compile(r"(?<![\w+.,/-])(?:\+|00|\(0?|0)\d(?:[ ()./-]{0,2}\d){6,14}(?![\w-])"),
        _phone,
    ),
    ("phone", re.compile(r"(?<![\w+.,/-])\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?![\w-])"), _phone),
)
RANK: dict[PiiKind, int] = {"email": 0, "iban": 1, "card": 2, "ip": 3, "phone": 4}


def pii_kinds(texts: Iterable[str]) -> Iterator[tuple[int, PiiKind]]:
    """For each of the texts by its number, the kinds that were found in it, each once."""
    for number, text in enumerate(texts):
        for kind in sorted({one.kind for one in find_pii(text)}):
            yield number, kind
