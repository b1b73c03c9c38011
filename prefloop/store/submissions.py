"""What people said under their leases, taken and kept: the other half of the queue.

An answer is stored once, however often it is sent (its idempotency key). Work that comes in after its lease has ended
is kept and marked late. A skip is an answer, too, but it frees the slot: somebody else is asked.

`take` does as `submit` for many at once on a connection that is handed in, each succeeding or failing alone.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from prefloop.errors import InputError, PrefloopError
from prefloop.store.annotators import lock_annotators
from prefloop.store.asking import FIRST_REPEAT, OverlapPolicy, open_repeats, settle
from prefloop.store.audit_log import answer_entries, append_many, commitment
from prefloop.store.database import ForRows, Row, Store, any_of, in_answer_order, insert_new
from prefloop.store.feedback import new_answer_row
from prefloop.store.items import check_seconds
from prefloop.store.tables import answers, leases, questions, slots
from prefloop.store.values import check_storable, in_chunks, validate_value


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What an annotator says under a lease."""

    lease_token: str
    value: Mapping[str, Any]
    """As in values.py; "a" is the first candidate as presented."""
    idempotency_key: str
    """Chosen by the sender: sending the same submission again with the same key stores nothing new."""
    seconds: float | None = None
    """Time that the annotator took."""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The answer is stored for good."""

    answer_id: str
    replay: bool
    """This very submission had been stored before."""
    late: bool


class LeaseError(InputError):
    """A lease that is unknown or was used already."""

    def __init__(self, message: str, answer_id: str | None = None) -> None:
        super().__init__(message)
        self.answer_id = answer_id
        """The answer that the lease, or its annotator, gave before."""


class IdempotencyError(InputError):
    """A key that came before with something else."""


def submit(
    store: Store,
    submissions: Sequence[Submission],
    *,
    overlap: OverlapPolicy | None = None,
    now: datetime | None = None,
) -> list[Receipt]:
    """Store answers, all or none; when this returns they are on the disk.

    A submission that was stored before (same annotator, same idempotency key) gives its old answer again with
    `replay=True`. An answer whose lease has ended is kept with `late=True`. `overlap` may ask for more answers to a
    question that has as many as were asked for. Raises InputError for a value that does not fit its question,
    LeaseError for an unknown or used lease, IdempotencyError for a key used for something else.
    """
    for index, one in enumerate(submissions):
        check_submission(one.idempotency_key, one.value, one.seconds, f"submissions[{index}]")
    with store.write() as connection:
        in_answer_order(connection)
        desk = _Desk(connection, submissions, now or datetime.now(UTC))
        receipts = [desk.take(one, f"submissions[{index}]") for index, one in enumerate(submissions)]
        desk.write(overlap)
    return receipts


def take(
    connection: Connection,
    submissions: Sequence[Submission],
    *,
    overlap: OverlapPolicy | None = None,
    now: datetime | None = None,
) -> list[Receipt | PrefloopError]:
    """As `submit`, in the caller's transaction and each alone; an error stands in its submission's place."""
    in_answer_order(connection)
    wrong = [_wrong_submission(one) for one in submissions]
    good = [one for one, error in zip(submissions, wrong, strict=True) if error is None]
    desk = _Desk(connection, good, now or datetime.now(UTC))
    results: list[Receipt | PrefloopError] = []
    for one, error in zip(submissions, wrong, strict=True):
        try:
            results.append(error or desk.take(one, "answer"))
        except InputError as refused:
            results.append(refused)
    desk.write(overlap)
    return results


_READ_LEASES = (
    sa.select(leases, questions.c.kind, questions.c.seed)
    .select_from(leases.join(questions))
    .where(any_of(leases.c.token, "tokens"))
)
_UNANSWERED_SLOTS = (
    sa.select(slots)
    .where(any_of(slots.c.question_id, "ids"), slots.c.answer_id.is_(None))
    .order_by(slots.c.id)
    .with_for_update(key_share=True)
)
_WHAT_WAS_SAID = (
    sa.select(answers.c.annotator_id, answers.c.question_id, answers.c.id, answers.c.repeat_of, answers.c.adjudication)
    .where(any_of(answers.c.question_id, "ids"), any_of(answers.c.annotator_id, "people"))
    .order_by(answers.c.ordinal.desc())
)
_BY_KEY = sa.select(answers).where(any_of(answers.c.idempotency_key, "keys"), any_of(answers.c.annotator_id, "people"))
_ADD_ANSWERS = ForRows(sa.insert(answers))
_USE_LEASES = ForRows(
    sa.update(leases).where(leases.c.token == sa.bindparam("of_token")).values(answer_id=sa.bindparam("to_answer"))
)
_FILL_SLOTS = ForRows(
    sa.update(slots)
    .where(slots.c.id == sa.bindparam("of_slot"))
    .values(
        answer_id=sa.bindparam("to_answer"),
        annotator_id=sa.bindparam("to_annotator"),
        token=sa.null(),
        expires_at=sa.null(),
    )
)


class _Desk:
    """Takes the submissions of one transaction: everything is read once, decided here, and written once."""

    def __init__(self, connection: Connection, submissions: Sequence[Submission], now: datetime) -> None:
        self.connection = connection
        self.now = now
        tokens = [one.lease_token for one in submissions]
        self.leases = _leases(connection, tokens)
        people = sorted({row.annotator_id for row in self.leases.values()})
        if connection.dialect.name != "sqlite":  # which has one writer: there, nothing changes while we look
            lock_annotators(connection, people)
            self.leases = _leases(connection, tokens)  # read again: what another transaction did is now done
        asked = sorted({row.question_id for row in self.leases.values()})
        self.used = {token: row.answer_id for token, row in self.leases.items()}
        self.slots = _unanswered_slots(connection, asked)
        self.said = said_before(connection, people, asked)
        self.stored = by_idempotency_key(connection, people, [one.idempotency_key for one in submissions])
        self.new_answers: list[dict[str, Any]] = []
        self.slot_changes: list[dict[str, Any]] = []
        self.lease_changes: list[dict[str, Any]] = []
        self.filled: list[tuple[dict[str, Any], Row, Row]] = []

    def take(self, one: Submission, place: str) -> Receipt:
        """Decide what becomes of one submission; `write` makes it so."""
        held = self.leases.get(one.lease_token)
        if held is None:
            raise LeaseError(f"{place}: there is no lease {one.lease_token[:12]}...; ask for a question first")
        who, question = held.annotator_id, held.question_id
        stored = self.stored.get((who, one.idempotency_key))
        if stored is not None:
            return replay(stored, question, who, one.value, held.presented_order, place)
        said = self.said.setdefault((who, question), [])
        earlier = self.used[one.lease_token] or next((a.id for a in said if a.answers(held)), None)
        if earlier is not None:
            raise LeaseError(
                f"{place}: this question was answered already, with answer {earlier}; correct that", earlier
            )
        try:
            validate_value(held.kind, one.value, held.presented_order)
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        slot = self._slot_for(held)
        row = new_answer_row(question, who, len(said), one.value, held.presented_order) | {
            "late": slot is None,
            "seconds": one.seconds,
            "idempotency_key": one.idempotency_key,
            "at": self.now,
            "repeat_of": held.repeat_of,
        }
        self.new_answers.append(row)
        self.used[one.lease_token] = row["id"]
        said.insert(0, _Said(row["id"], held.repeat_of, False))
        self.stored[who, one.idempotency_key] = _Stored(row["id"], row["key"], row["hash"], row["late"], question)
        self.lease_changes.append({"of_token": one.lease_token, "to_answer": row["id"]})
        if slot is not None:
            self._fill(slot, row, held)
        return Receipt(answer_id=row["id"], replay=False, late=row["late"])

    def _slot_for(self, held: Row) -> Row | None:
        """The slot that this lease still holds, or one that its annotator got anew for the same question meanwhile."""
        mine = [
            slot
            for slot in self.slots.get(held.question_id, ())
            if slot.annotator_id == held.annotator_id
            and slot.repeat_of == held.repeat_of
            and slot.expires_at is not None
            and slot.expires_at > self.now
        ]
        return next((slot for slot in mine if slot.token == held.token), mine[0] if mine else None)

    def _fill(self, slot: Row, row: dict[str, Any], held: Row) -> None:
        """An answer closes the slot; a skip leaves it to somebody else, unless it was a repeat for this one only."""
        open_again = row["skipped"] and slot.reserved_for is None
        self.slot_changes.append(
            {
                "of_slot": slot.id,
                "to_answer": None if open_again else row["id"],
                "to_annotator": None if open_again else row["annotator_id"],
            }
        )
        if not open_again:
            self.slots[held.question_id].remove(slot)
            if slot.reserved_for is None:
                self.filled.append((row, slot, held))

    def write(self, overlap: OverlapPolicy | None) -> None:
        """Everything that was decided, in a few statements."""
        if not self.new_answers:
            return
        _ADD_ANSWERS(self.connection, self.new_answers)
        append_many(self.connection, answer_entries(self.new_answers))
        _USE_LEASES(self.connection, self.lease_changes)
        _FILL_SLOTS(self.connection, self.slot_changes)
        if self.filled:
            self._follow(overlap)

    def _follow(self, overlap: OverlapPolicy | None) -> None:
        """What answers bring about: gold is asked for ever, some questions come again, others are finished."""
        ordinary = [(row, slot, held) for row, slot, held in self.filled if not slot.gold]
        _reopen_gold(self.connection, [slot for _, slot, _ in self.filled if slot.gold])
        open_repeats(self.connection, [(row, slot, held.kind, held.seed) for row, slot, held in ordinary])
        complete = [
            held.question_id
            for _, _, held in ordinary
            if all(slot.reserved_for is not None for slot in self.slots[held.question_id])
        ]
        settle(self.connection, complete, overlap)


@dataclass(frozen=True)
class _Said:
    """An answer that an annotator gave before."""

    id: str
    repeat_of: str | None
    adjudication: bool

    def answers(self, held: Row) -> bool:
        """Whether it is what this lease asks for: the first look at a question and its repeat are two things."""
        return not self.adjudication and self.repeat_of == held.repeat_of


@dataclass(frozen=True)
class _Stored:
    """What is known of an answer whose idempotency key came before; `key` is None once it was erased."""

    id: str
    key: str | None
    hash: str
    late: bool
    question_id: str


def replay(
    stored: _Stored, question: str, who: str, value: Mapping[str, Any], order: Sequence[str], place: str
) -> Receipt:
    """The receipt of a submission that comes again. What an erased answer said can no longer be compared."""
    same = stored.question_id == question and (
        stored.key is None or hmac.compare_digest(commitment(stored.key, question, who, value, order), stored.hash)
    )
    if not same:
        raise IdempotencyError(
            f"{place}: this idempotency key came before with another answer ({stored.id}); "
            "use a new key for each new answer"
        )
    return Receipt(answer_id=stored.id, replay=True, late=stored.late)


def check_submission(key: Any, value: Any, seconds: Any, place: str) -> None:
    """Raises InputError for a key, a value or a time that cannot be."""
    if not isinstance(key, str) or not 1 <= len(key) <= 200:
        raise InputError(f"{place}: an idempotency key is text of 1 to 200 characters, got {key!r:.60}")
    check_storable(key, f"{place}.idempotency_key")
    if not isinstance(value, Mapping):
        raise InputError(f"{place}: the value of an answer must be an object, got {value!r:.80}")
    check_storable(value, f"{place}.value")
    if seconds is not None:
        check_seconds(seconds, place)


def _wrong_submission(one: Submission) -> InputError | None:
    try:
        check_submission(one.idempotency_key, one.value, one.seconds, "answer")
    except InputError as error:
        return error
    return None


def _reopen_gold(connection: Connection, filled: Sequence[Row]) -> None:
    """A gold question is there for everybody: for each slot that is used up there is another."""
    if not filled:
        return
    most: dict[str, int] = {}
    for chunk in in_chunks(sorted({slot.question_id for slot in filled})):
        query = (
            sa.select(slots.c.question_id, sa.func.max(slots.c.n))
            .where(slots.c.question_id.in_(chunk), slots.c.n < FIRST_REPEAT)
            .group_by(slots.c.question_id)
        )
        most.update((question, n) for question, n in connection.execute(query))
    rows = []
    for slot in filled:
        most[slot.question_id] += 1
        same = {name: getattr(slot, name) for name in ("kind", "priority", "gold", "restricted", "sensitive")}
        rows.append({"question_id": slot.question_id, "n": most[slot.question_id], **same})
    insert_new(connection, slots, rows)


def _leases(connection: Connection, tokens: Sequence[str]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for chunk in in_chunks(tokens):
        found.update((row.token, row) for row in connection.execute(_READ_LEASES, {"tokens": chunk}))
    return found


def _unanswered_slots(connection: Connection, question_ids: Sequence[str]) -> dict[str, list[Row]]:
    """The slots of these questions that have no answer, kept from everybody else until the transaction ends."""
    found: dict[str, list[Row]] = {}
    for chunk in in_chunks(question_ids):
        for row in connection.execute(_UNANSWERED_SLOTS, {"ids": chunk}):
            found.setdefault(row.question_id, []).append(row)
    return found


def said_before(
    connection: Connection, people: Sequence[str], question_ids: Sequence[str]
) -> dict[tuple[str, str], list[_Said]]:
    """(annotator, question) -> the answers given, newest first."""
    found: dict[tuple[str, str], list[_Said]] = {}
    for some in in_chunks(people):
        for chunk in in_chunks(question_ids):
            for who, question, *said in connection.execute(_WHAT_WAS_SAID, {"ids": chunk, "people": some}):
                found.setdefault((who, question), []).append(_Said(*said))
    return found


def by_idempotency_key(
    connection: Connection, people: Sequence[str], keys: Sequence[str]
) -> dict[tuple[str, str], _Stored]:
    """(annotator, key) -> the answer that came with it before."""
    found: dict[tuple[str, str], _Stored] = {}
    for some in in_chunks(people):
        for chunk in in_chunks(keys):
            for row in connection.execute(_BY_KEY, {"keys": chunk, "people": some}):
                found[row.annotator_id, row.idempotency_key] = _Stored(
                    row.id, row.key, row.hash, row.late, row.question_id
                )
    return found
