"""The audit log: every change of what people said and may do is an event, and each event's hash holds the one before.

Whoever changes, removes or inserts an event must rewrite all that follow, and the head (the newest event's number and
hash) then differs from one that was exported before. Without such an exported head a chain that was rewritten from
some event on cannot be told from the true one, and `verify` says so.

Events hold commitments, never texts. What an answer says is committed to under the answer's own key, which erasure
destroys: the chain stays verifiable, and confirms no guess of what was erased.

    answer  correction  adjudication  import     what was said; the subject is the answer
    guideline  gold  option                      what is asked for
    ruling                                       what a lead decided about findings on somebody's answers
    person  roles  password  deactivated  reactivated         who may do what
    token  token_revoked  invitation  invitation_used
    consent  quiz  refusal  export  backup  restore  webhook  erasure
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from prefloop.errors import InputError
from prefloop.records import canonical_json, content_hash
from prefloop.store.database import ForRows, Row, Store, in_answer_order
from prefloop.store.tables import EPOCH, answers, events, guidelines, roles, rulings, tombstones

OPERATOR = "operator"
"""Whoever has the command line of the machine that holds the database."""
NOTHING = "0" * 64
"""What the first event has before it."""
SAID = ("answer", "correction", "adjudication", "import")
"""Events whose subject is an answer."""
PAGE = 1000
SHOWN = 20
"""Findings that are listed; more are counted."""


class Entry(NamedTuple):
    """An event that is about to happen."""

    event: str
    by: str
    subject: str
    commitment: str


@dataclass(frozen=True, kw_only=True)
class Head:
    """The newest event. Export it, keep it elsewhere, and hand it to `verify` later."""

    number: int
    hash: str
    at: str | None
    """When that event happened: UTC, ISO 8601. None where nothing has happened."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What an examination of the audit log found."""

    ok: bool
    events: int
    answers: int
    head: Head
    compared: bool
    """Whether an exported head was at hand. Without one, a chain that was rewritten as a whole cannot be told."""
    problems: list[str] = field(default_factory=list)


@contextmanager
def audited(store: Store) -> Iterator[Connection]:
    """A writing transaction that will append events: nobody else appends until it ends."""
    with store.write() as connection:
        in_answer_order(connection)
        yield connection


def append(connection: Connection, event: str, by: str, subject: str, commitment: str) -> None:
    """Add one event to the chain, within the transaction that does what the event tells of."""
    append_many(connection, [Entry(event, by, subject, commitment)])


def append_many(connection: Connection, entries: Sequence[Entry]) -> None:
    """Add events in this order: two statements, however many there are."""
    if not entries:
        return
    in_answer_order(connection)
    last, previous = _newest(connection)
    now = datetime.now(UTC)
    rows = []
    for entry in entries:
        last += 1
        row = {"number": last, "at": now, **entry._asdict(), "previous": previous}
        previous = row["hash"] = event_hash(row)
        rows.append(row)
    _ADD_EVENTS(connection, rows)


def event_hash(row: Mapping[str, Any]) -> str:
    """SHA-256 over everything that an event says, the hash of the one before it included."""
    said = [row["number"], _microseconds(row["at"]), row["event"], row["by"], row["subject"], row["commitment"]]
    return content_hash([*said, row["previous"]])


def answer_entries(rows: Sequence[Mapping[str, Any]], event: str = "answer") -> list[Entry]:
    """The events of new rows of `answers`."""
    return [Entry(event, row["annotator_id"], row["id"], answer_commitment(row)) for row in rows]


def commitment(
    key: str, question: str, annotator: str, value: Mapping[str, Any], presented_order: Sequence[str]
) -> str:
    """HMAC-SHA256 of what was said by whom on what, under the answer's own key."""
    said = canonical_json([question, annotator, value, list(presented_order)])
    return hmac.digest(bytes.fromhex(key), said.encode("utf-8"), "sha256").hex()


def answer_commitment(row: Mapping[str, Any]) -> str:
    """HMAC-SHA256, under the answer's own key, of all that its row says (`hash` covers value, order, question, who)."""
    seconds = row.get("seconds")
    facts = [
        row["hash"],
        row["ordinal"],
        row.get("replaces"),
        bool(row["skipped"]),
        bool(row["late"]),
        None if seconds is None else float(seconds),
        row.get("source"),
        row.get("licence"),
        canonical_json(row.get("columns")),
        _microseconds(row["at"]),
        row.get("repeat_of"),
        bool(row.get("adjudication", False)),
    ]
    return hmac.digest(bytes.fromhex(row["key"]), canonical_json(facts).encode("utf-8"), "sha256").hex()


def guideline_commitment(version: int, text: str, quiz: Any) -> str:
    """SHA-256 of a version of the guideline; it is no secret, so it needs no key."""
    return content_hash([version, text, quiz])


def roles_commitment(held: Sequence[str]) -> str:
    """SHA-256 of the roles that somebody holds from now on."""
    return content_hash(sorted(held))


def ruling_commitment(annotator: str, decision: str, findings: Sequence[str]) -> str:
    """SHA-256 of what a lead decided about somebody's answers."""
    return content_hash([annotator, decision, sorted(findings)])


def head(store: Store) -> Head:
    """The newest event; number 0 while there is none."""
    with store.read() as connection:
        return _head(connection)


def write_head(store: Store, path: str | Path) -> Head:
    """Write the head to a file, to be kept where nobody who can write to the database can write."""
    newest = head(store)
    Path(path).write_text(json.dumps({"prefloop": "audit-log head", **vars(newest)}) + "\n", encoding="utf-8")
    return newest


def read_head(path: str | Path) -> Head:
    """A head that `write_head` wrote. Raises InputError when the file is no such thing."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        return Head(number=int(value["number"]), hash=str(value["hash"]), at=value.get("at"))
    except FileNotFoundError:
        raise InputError(f"no such file: {path}; prefloop audit-log head --out FILE writes one") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InputError(
            f"{path} holds no head of an audit log; prefloop audit-log head --out FILE writes one"
        ) from None


def verify(store: Store, known: Head | None = None) -> Verified:
    """Examine the whole chain, and the answers, guidelines and roles against it.

    `known`: a head that was exported before; any change of what had happened by then is found. Streams; a long chain
    takes about ten seconds for each million events.
    """
    found = _Findings()
    number, previous, seen_known = 0, NOTHING, known is None or known.number == 0
    last_roles: dict[str, str] = {}
    last_guidelines: dict[str, str] = {}
    every_ruling: dict[str, list[str]] = {}
    with store.read() as connection:
        in_answer_order(connection)  # so that what is allowed now is what the events up to now allow
        newest = _head(connection)
        allowed = connection.execute(sa.select(roles)).all()
        rules = connection.execute(sa.select(guidelines)).all()
        ruled = connection.execute(sa.select(rulings).order_by(rulings.c.number)).all()
    for row in _rows(store, newest.number):
        number += 1
        if row["number"] != number:
            found.add(f"event {number} is missing: after {number - 1} comes {row['number']}")
            number = row["number"]
        elif row["previous"] != previous:
            found.add(f"event {number} does not follow from event {number - 1}")
        if event_hash(row) != row["hash"]:
            found.add(f"event {number} ({row['event']}) was changed: its hash does not fit")
        previous = row["hash"]
        if known is not None and number == known.number:
            seen_known = True
            if row["hash"] != known.hash:
                found.add(f"event {number} is not the one of the exported head: the chain before it was rewritten")
        if row["event"] == "roles":
            last_roles[row["subject"]] = row["commitment"]
        elif row["event"] == "guideline":
            last_guidelines[row["subject"]] = row["commitment"]
        elif row["event"] == "ruling":
            every_ruling.setdefault(row["subject"], []).append(row["commitment"])
    if not seen_known and known is not None:
        found.add(f"the exported head is event {known.number}, but the chain ends at {newest.number}: its end is gone")
    n = _check_answers(store, newest.number, found)
    _check_guidelines(rules, last_guidelines, found)
    _check_roles(allowed, last_roles, found)
    _check_rulings(ruled, every_ruling, found)
    return Verified(
        ok=not found.n, events=number, answers=n, head=newest, compared=known is not None, problems=found.listed()
    )


@dataclass
class _Findings:
    first: list[str] = field(default_factory=list)
    n: int = 0

    def add(self, problem: str) -> None:
        self.n += 1
        if self.n <= SHOWN:
            self.first.append(problem)

    def listed(self) -> list[str]:
        return self.first + ([f"and {self.n - SHOWN} more"] if self.n > SHOWN else [])


def _rows(store: Store, last: int) -> Iterator[dict[str, Any]]:
    done = 0
    while True:
        query = sa.select(events).where(events.c.number > done, events.c.number <= last).order_by(events.c.number)
        with store.read() as connection:
            page = [dict(row) for row in connection.execute(query.limit(PAGE)).mappings()]
        yield from page
        if len(page) < PAGE:
            return
        done = page[-1]["number"]


def _check_answers(store: Store, last: int, found: _Findings) -> int:
    """Every answer must have its one event, and say what the event committed to; every event its answer."""
    done = n = 0
    with store.read() as connection:
        newest = connection.scalar(sa.select(sa.func.max(answers.c.number))) or 0
        _check_every_event_has_its_answer(connection, last, found)
    while True:
        with store.read() as connection:
            query = sa.select(answers).where(answers.c.number > done, answers.c.number <= newest)
            page = [dict(row) for row in connection.execute(query.order_by(answers.c.number).limit(PAGE)).mappings()]
            ids = [row["id"] for row in page]
            entered: dict[str, list[str]] = {}
            buried: set[str] = set()
            for start in range(0, len(ids), 500):
                chunk = ids[start : start + 500]
                of_chunk = sa.select(events.c.subject, events.c.event, events.c.commitment).where(
                    events.c.subject.in_(chunk)
                )
                for subject, event, commitment in connection.execute(of_chunk):
                    if event in SAID:
                        entered.setdefault(subject, []).append(commitment)
                    elif event == "erasure":
                        buried.add(subject)
        for row in page:
            n += 1
            _check_answer(row, entered.get(row["id"], []), row["id"] in buried, found)
        if len(page) < PAGE:
            return n
        done = page[-1]["number"]


def _check_answer(row: dict[str, Any], entered: list[str], buried: bool, found: _Findings) -> None:
    if len(entered) != 1:
        found.add(f"answer {row['id']} has {len(entered)} events that tell of it, not one")
    elif row["key"] is None or row["value"] is None:
        if not buried:
            found.add(f"answer {row['id']} was erased, but no event tells of that")
    else:
        said = commitment(row["key"], row["question_id"], row["annotator_id"], row["value"], row["presented_order"])
        if said != row["hash"] or answer_commitment(row) != entered[0]:
            found.add(f"answer {row['id']} was changed: it no longer says what was committed to")


def _check_every_event_has_its_answer(connection: Connection, last: int, found: _Findings) -> None:
    orphans = (
        sa.select(events.c.subject)
        .select_from(events.outerjoin(answers, answers.c.id == events.c.subject))
        .where(events.c.event.in_(SAID), events.c.number <= last, answers.c.id.is_(None))
    )
    for subject in connection.scalars(orphans):
        found.add(f"answer {subject} is gone: an event tells of it, but it is not there")


def _check_guidelines(rows: Sequence[Row], entered: dict[str, str], found: _Findings) -> None:
    for row in rows:
        if entered.get(str(row.version)) != guideline_commitment(row.version, row.text, row.quiz):
            found.add(f"guideline {row.version} was changed: it no longer says what was committed to")


def _check_roles(rows: Sequence[Row], entered: dict[str, str], found: _Findings) -> None:
    held: dict[str, list[str]] = {}
    for row in rows:
        held.setdefault(row.annotator_id, []).append(row.role)
    for who in sorted(held.keys() | entered.keys()):
        if entered.get(who, roles_commitment([])) != roles_commitment(held.get(who, [])):
            found.add(f"the roles of {who} were changed past the audit log")


def _check_rulings(rows: Sequence[Row], entered: dict[str, list[str]], found: _Findings) -> None:
    made: dict[str, list[str]] = {}
    for row in rows:
        made.setdefault(row.annotator_id, []).append(ruling_commitment(row.annotator_id, row.decision, row.findings))
    for who in sorted(made.keys() | entered.keys()):
        if made.get(who, []) != entered.get(who, []):
            found.add(f"the rulings on the answers of {who} were changed past the audit log")


def buried_subjects(connection: Connection, subject: str) -> set[str]:
    """The ids of this kind (answer, completion, prompt, annotator) that were erased."""
    return set(connection.scalars(sa.select(tombstones.c.subject_id).where(tombstones.c.subject == subject)))


_NEWEST = sa.select(events.c.number, events.c.hash).order_by(events.c.number.desc()).limit(1)
_ADD_EVENTS = ForRows(sa.insert(events))


def _newest(connection: Connection) -> tuple[int, str]:
    row = connection.execute(_NEWEST).first()
    return (0, NOTHING) if row is None else (int(row.number), str(row.hash))


def _head(connection: Connection) -> Head:
    row = connection.execute(sa.select(events).order_by(events.c.number.desc()).limit(1)).first()
    if row is None:
        return Head(number=0, hash=NOTHING, at=None)
    return Head(number=int(row.number), hash=str(row.hash), at=row.at.isoformat().replace("+00:00", "Z"))


def _microseconds(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1)
