"""Who may answer what, and what they said: the one pair of functions for the web app, simulated people and AI labelers.

`lease` hands out the right to answer a question for a limited time, `submit` takes the answer. A question has as many
slots as it wants answers (its overlap); a lease holds one slot, and a slot is held by one lease. An annotator gets a
question once. When a lease ends without an answer its slot is free again; work that comes in afterwards is kept and
marked late. A skip is an answer, too, but it frees the slot: somebody else is asked.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from prefloop.errors import InputError
from prefloop.records import Messages
from prefloop.store.audit_log import answer_entries, append_many, commitment
from prefloop.store.database import Row, Store, in_answer_order
from prefloop.store.feedback import candidates_of, check_seconds, new_answer_row
from prefloop.store.tables import annotators, answers, guidelines, leases, prompts, questions, slots
from prefloop.store.values import check_kind, check_storable, in_chunks, validate_value

__all__ = ["Lease", "LeaseError", "Receipt", "Submission", "correct", "lease", "release", "submit", "validate_value"]

MAX_LEASES = 1000
MAX_LEASE_SECONDS = 30 * 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to answer one question until `expires_at`."""

    token: str
    question_id: str
    kind: str
    messages: Messages
    candidates: list[dict[str, Any]]
    """As this annotator is to see them: `id` and `text`; the first one is "a"."""
    guideline: dict[str, Any] | None
    """`version` and `text`, when the question has one."""
    expires_at: datetime


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


def presented_order(seed: int, annotator: str, candidate_ids: Sequence[str]) -> list[str]:
    """The candidates in an order that is random, but always the same for this question's seed and this annotator."""
    return sorted(candidate_ids, key=lambda one: hashlib.sha256(f"{seed}:{annotator}:{one}".encode()).digest())


def lease(
    store: Store,
    annotator: str,
    *,
    kinds: Iterable[str] | None = None,
    limit: int = 1,
    seconds: float = 1800,
    now: datetime | None = None,
) -> list[Lease]:
    """Up to `limit` questions for this annotator, who may answer each of them within `seconds`.

    Those with the smallest priority come first, then those with the fewest slots given out, then the oldest. An empty
    list means that there is nothing to do now. Raises InputError for an unknown annotator or kind.
    """
    wanted = None if kinds is None else sorted(set(kinds))
    for kind in wanted or ():
        check_kind(kind)
    if not 1 <= limit <= MAX_LEASES:
        raise InputError(f"limit must be from 1 to {MAX_LEASES}, got {limit}")
    if not 0 < seconds <= MAX_LEASE_SECONDS:
        raise InputError(f"a lease lasts more than 0 and at most {MAX_LEASE_SECONDS:.0f} seconds, got {seconds}")
    now = now or datetime.now(UTC)
    expires_at = now + timedelta(seconds=seconds)
    with store.write() as connection:
        _lock_annotators(connection, [annotator])
        claimed: list[tuple[Row, str]] = []
        while len(claimed) < limit:
            free = _free_slots(connection, annotator, wanted, limit - len(claimed), now)
            if not free:
                break
            # Two free slots of one question may come back: the first is ours, the second for somebody else.
            first = {row.question_id: row for row in reversed(free)}
            ours = [(row, secrets.token_urlsafe(24)) for row in free if first[row.question_id] is row]
            _hold(connection, ours, annotator, expires_at)
            claimed += ours
        return _hand_out(connection, annotator, claimed, now, expires_at)


def submit(store: Store, submissions: Sequence[Submission], *, now: datetime | None = None) -> list[Receipt]:
    """Store answers, all or none; when this returns they are on the disk.

    A submission that was stored before (same annotator, same idempotency key) gives its old answer again with
    `replay=True`. An answer whose lease has ended is kept with `late=True`. Raises InputError for a value that does
    not fit its question, LeaseError for an unknown or used lease, IdempotencyError for a key used for something else.
    """
    for index, one in enumerate(submissions):
        _check_submission(one.idempotency_key, one.value, one.seconds, f"submissions[{index}]")
    now = now or datetime.now(UTC)
    with store.write() as connection:
        in_answer_order(connection)
        desk = _Desk(connection, submissions, now)
        receipts = [desk.take(one, f"submissions[{index}]") for index, one in enumerate(submissions)]
        desk.write()
    return receipts


def correct(
    store: Store,
    annotator: str,
    answer_id: str,
    value: Mapping[str, Any],
    *,
    idempotency_key: str,
    seconds: float | None = None,
    now: datetime | None = None,
) -> Receipt:
    """Say it anew: a further answer that names the old one, which stays. "a" means what it meant in the old answer.

    Raises InputError when the old answer is somebody else's, erased, or was corrected already (by its newest
    correction one goes on), and for a value that does not fit.
    """
    _check_submission(idempotency_key, value, seconds, "correction")
    now = now or datetime.now(UTC)
    with store.write() as connection:
        in_answer_order(connection)
        _lock_annotators(connection, [annotator])
        old = connection.execute(
            sa.select(answers, questions.c.kind, questions.c.overlap)
            .select_from(answers.join(questions, answers.c.question_id == questions.c.id))
            .where(answers.c.id == answer_id)
        ).first()
        if old is None or old.annotator_id != annotator:
            raise InputError(f"annotator {annotator} has given no answer {answer_id}")
        stored = _by_idempotency_key(connection, [annotator], [idempotency_key]).get((annotator, idempotency_key))
        if stored is not None:
            return _replay(stored, old.question_id, annotator, value, old.presented_order, "correction")
        if old.value is None:
            raise InputError(f"answer {answer_id} was erased and cannot be corrected")
        newer = connection.scalar(sa.select(answers.c.id).where(answers.c.replaces == answer_id))
        if newer is not None:
            raise InputError(f"answer {answer_id} was corrected already; correct {newer} instead")
        validate_value(old.kind, value, old.presented_order)
        ordinal = len(_said(connection, [annotator], [old.question_id])[annotator, old.question_id])
        row = new_answer_row(old.question_id, annotator, ordinal, value, old.presented_order)
        slot = _slot_of_correction(connection, old, row["skipped"], now)
        late = old.late or (old.skipped and not row["skipped"] and slot is None and old.overlap > 0)
        row |= {"replaces": answer_id, "late": late, "seconds": seconds, "idempotency_key": idempotency_key, "at": now}
        connection.execute(sa.insert(answers), row)
        append_many(connection, answer_entries([row], "correction"))
        if slot is not None:
            connection.execute(
                sa.update(slots)
                .where(slots.c.id == slot)
                .values(
                    answer_id=sa.null() if row["skipped"] else row["id"],
                    annotator_id=sa.null() if row["skipped"] else annotator,
                    token=sa.null(),
                    expires_at=sa.null(),
                )
            )
    return Receipt(answer_id=row["id"], replay=False, late=late)


def release(store: Store, annotator: str, tokens: Sequence[str]) -> int:
    """Give leases back before their time, and return how many slots that freed."""
    freed = 0
    with store.write() as connection:
        _lock_annotators(connection, [annotator])
        for chunk in in_chunks(list(tokens)):
            freed += connection.execute(
                sa.update(slots)
                .where(slots.c.token.in_(chunk), slots.c.annotator_id == annotator, slots.c.answer_id.is_(None))
                .values(annotator_id=sa.null(), token=sa.null(), expires_at=sa.null())
            ).rowcount
    return freed


class _Desk:
    """Takes the submissions of one transaction: everything is read once, decided here, and written once."""

    def __init__(self, connection: Connection, submissions: Sequence[Submission], now: datetime) -> None:
        self.connection = connection
        self.now = now
        tokens = [one.lease_token for one in submissions]
        people = sorted({row.annotator_id for row in _leases(connection, tokens).values()})
        _lock_annotators(connection, people)
        self.leases = _leases(connection, tokens)  # read again: what another transaction did is now done
        asked = sorted({row.question_id for row in self.leases.values()})
        self.used = {token: row.answer_id for token, row in self.leases.items()}
        self.slots = _unanswered_slots(connection, asked)
        self.said = _said(connection, people, asked)
        self.stored = _by_idempotency_key(connection, people, [one.idempotency_key for one in submissions])
        self.new_answers: list[dict[str, Any]] = []
        self.slot_changes: list[dict[str, Any]] = []
        self.lease_changes: list[dict[str, Any]] = []

    def take(self, one: Submission, place: str) -> Receipt:
        """Decide what becomes of one submission; `write` makes it so."""
        held = self.leases.get(one.lease_token)
        if held is None:
            raise LeaseError(f"{place}: there is no lease {one.lease_token[:12]}...; ask for a question first")
        who, question = held.annotator_id, held.question_id
        stored = self.stored.get((who, one.idempotency_key))
        if stored is not None:
            return _replay(stored, question, who, one.value, held.presented_order, place)
        earlier = self.used[one.lease_token] or next(iter(self.said.get((who, question), ())), None)
        if earlier is not None:
            raise LeaseError(
                f"{place}: this question was answered already, with answer {earlier}; correct that", earlier
            )
        try:
            validate_value(held.kind, one.value, held.presented_order)
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        slot = self._slot_for(held)
        row = new_answer_row(question, who, 0, one.value, held.presented_order) | {
            "late": slot is None,
            "seconds": one.seconds,
            "idempotency_key": one.idempotency_key,
            "at": self.now,
        }
        self.new_answers.append(row)
        self.used[one.lease_token] = row["id"]
        self.said[who, question] = [row["id"]]
        self.stored[who, one.idempotency_key] = _Stored(row["id"], row["key"], row["hash"], row["late"], question)
        self.lease_changes.append({"of_token": one.lease_token, "to_answer": row["id"]})
        if slot is not None:
            self._fill(slot, row)
        return Receipt(answer_id=row["id"], replay=False, late=row["late"])

    def _slot_for(self, held: Row) -> Row | None:
        """The slot that this lease still holds, or one that its annotator got anew for the same question meanwhile."""
        mine = [
            slot
            for slot in self.slots.get(held.question_id, ())
            if slot.annotator_id == held.annotator_id and slot.expires_at is not None and slot.expires_at > self.now
        ]
        return next((slot for slot in mine if slot.token == held.token), mine[0] if mine else None)

    def _fill(self, slot: Row, row: dict[str, Any]) -> None:
        """An answer closes the slot; a skip leaves it to somebody else."""
        open_again = row["skipped"]
        self.slot_changes.append(
            {
                "of_slot": slot.id,
                "to_answer": None if open_again else row["id"],
                "to_annotator": None if open_again else row["annotator_id"],
            }
        )

    def write(self) -> None:
        """Everything that was decided, in three statements."""
        if not self.new_answers:
            return
        self.connection.execute(sa.insert(answers), self.new_answers)
        append_many(self.connection, answer_entries(self.new_answers))
        self.connection.execute(
            sa.update(leases)
            .where(leases.c.token == sa.bindparam("of_token"))
            .values(answer_id=sa.bindparam("to_answer")),
            self.lease_changes,
        )
        if self.slot_changes:
            self.connection.execute(
                sa.update(slots)
                .where(slots.c.id == sa.bindparam("of_slot"))
                .values(
                    answer_id=sa.bindparam("to_answer"),
                    annotator_id=sa.bindparam("to_annotator"),
                    token=sa.null(),
                    expires_at=sa.null(),
                ),
                self.slot_changes,
            )


@dataclass(frozen=True)
class _Stored:
    """What is known of an answer whose idempotency key came before; `key` is None once it was erased."""

    id: str
    key: str | None
    hash: str
    late: bool
    question_id: str


def _replay(
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


def _check_submission(key: Any, value: Any, seconds: Any, place: str) -> None:
    if not isinstance(key, str) or not 1 <= len(key) <= 200:
        raise InputError(f"{place}: an idempotency key is text of 1 to 200 characters, got {key!r:.60}")
    check_storable(key, f"{place}.idempotency_key")
    if not isinstance(value, Mapping):
        raise InputError(f"{place}: the value of an answer must be an object, got {value!r:.80}")
    check_storable(value, f"{place}.value")
    if seconds is not None:
        check_seconds(seconds, place)


def _lock_annotators(connection: Connection, ids: Sequence[str]) -> None:
    """One transaction at a time for each of these annotators. Raises InputError for one that is not there."""
    for chunk in in_chunks(sorted(ids)):
        query = sa.select(annotators.c.id).where(annotators.c.id.in_(chunk)).order_by(annotators.c.id)
        found = set(connection.scalars(query.with_for_update(key_share=True)))
        missing = sorted(set(chunk) - found)
        if missing:
            raise InputError(f"the store has no annotator {missing[0]!r:.200}; add_annotator gives the id to use")


def _free_slots(
    connection: Connection, annotator: str, kinds: Sequence[str] | None, limit: int, now: datetime
) -> Sequence[Row]:
    """Unanswered slots that nobody holds, of questions that this annotator neither answered nor holds."""
    other = slots.alias("other")
    # One look into an index for each free slot. Written as NOT EXISTS, PostgreSQL would join whole tables instead, and
    # before its statistics know their size it takes seconds to do so.
    answered = sa.select(answers.c.id).where(
        answers.c.question_id == slots.c.question_id, answers.c.annotator_id == annotator
    )
    holds = sa.select(other.c.id).where(
        other.c.question_id == slots.c.question_id,
        other.c.annotator_id == annotator,
        other.c.answer_id.is_(None),
        other.c.expires_at > now,
    )
    query = (
        sa.select(slots.c.id, slots.c.question_id, slots.c.priority, slots.c.n)
        .where(
            slots.c.answer_id.is_(None),
            sa.or_(slots.c.expires_at.is_(None), slots.c.expires_at <= now),
            answered.limit(1).scalar_subquery().is_(None),
            holds.limit(1).scalar_subquery().is_(None),
        )
        .order_by(slots.c.priority, slots.c.n, slots.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True, of=slots)
    )
    if kinds is not None:
        query = query.where(slots.c.kind.in_(kinds))
    return connection.execute(query).all()


def _hold(connection: Connection, ours: Sequence[tuple[Row, str]], who: str, until: datetime) -> None:
    connection.execute(
        sa.update(slots)
        .where(slots.c.id == sa.bindparam("of_slot"))
        .values(annotator_id=who, expires_at=until, token=sa.bindparam("to_token")),
        [{"of_slot": row.id, "to_token": token} for row, token in ours],
    )


def _hand_out(
    connection: Connection,
    annotator: str,
    claimed: Sequence[tuple[Row, str]],
    now: datetime,
    expires_at: datetime,
) -> list[Lease]:
    """Record the leases, and put together what the annotator is to see."""
    asked: dict[str, Row] = {}
    for chunk in in_chunks([row.question_id for row, _ in claimed]):
        query = (
            sa.select(
                questions.c.id,
                questions.c.kind,
                questions.c.seed,
                prompts.c.messages,
                guidelines.c.version,
                guidelines.c.text,
            )
            .select_from(questions.join(prompts).outerjoin(guidelines))
            .where(questions.c.id.in_(chunk))
        )
        asked.update((row.id, row) for row in connection.execute(query))
    shown = candidates_of(connection, asked)
    result, rows = [], []
    for slot, token in claimed:
        question = asked[slot.question_id]
        by_id = {one["id"]: one for one in shown.get(question.id, ())}
        order = presented_order(question.seed, annotator, list(by_id))
        result.append(
            Lease(
                token=token,
                question_id=question.id,
                kind=question.kind,
                messages=question.messages,
                candidates=[{"id": one, "text": by_id[one]["text"]} for one in order],
                guideline=None if question.version is None else {"version": question.version, "text": question.text},
                expires_at=expires_at,
            )
        )
        rows.append(
            {
                "token": token,
                "slot_id": slot.id,
                "question_id": question.id,
                "annotator_id": annotator,
                "presented_order": order,
                "issued_at": now,
                "expires_at": expires_at,
            }
        )
    if rows:
        connection.execute(sa.insert(leases), rows)
    return result


def _leases(connection: Connection, tokens: Sequence[str]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for chunk in in_chunks(tokens):
        query = sa.select(leases, questions.c.kind).select_from(leases.join(questions)).where(leases.c.token.in_(chunk))
        found.update((row.token, row) for row in connection.execute(query))
    return found


def _unanswered_slots(connection: Connection, question_ids: Sequence[str]) -> dict[str, list[Row]]:
    """The slots of these questions that have no answer, kept from everybody else until the transaction ends."""
    found: dict[str, list[Row]] = {}
    for chunk in in_chunks(question_ids):
        query = (
            sa.select(slots)
            .where(slots.c.question_id.in_(chunk), slots.c.answer_id.is_(None))
            .order_by(slots.c.id)
            .with_for_update(key_share=True)
        )
        for row in connection.execute(query):
            found.setdefault(row.question_id, []).append(row)
    return found


def _said(
    connection: Connection, people: Sequence[str], question_ids: Sequence[str]
) -> dict[tuple[str, str], list[str]]:
    """(annotator, question) -> ids of the answers given, newest first."""
    found: dict[tuple[str, str], list[str]] = {}
    for some in in_chunks(people):
        for chunk in in_chunks(question_ids):
            query = (
                sa.select(answers.c.annotator_id, answers.c.question_id, answers.c.id)
                .where(answers.c.question_id.in_(chunk), answers.c.annotator_id.in_(some))
                .order_by(answers.c.ordinal.desc())
            )
            for who, question, identity in connection.execute(query):
                found.setdefault((who, question), []).append(identity)
    return found


def _by_idempotency_key(
    connection: Connection, people: Sequence[str], keys: Sequence[str]
) -> dict[tuple[str, str], _Stored]:
    found: dict[tuple[str, str], _Stored] = {}
    for some in in_chunks(people):
        for chunk in in_chunks(keys):
            query = sa.select(answers).where(answers.c.idempotency_key.in_(chunk), answers.c.annotator_id.in_(some))
            for row in connection.execute(query):
                found[row.annotator_id, row.idempotency_key] = _Stored(
                    row.id, row.key, row.hash, row.late, row.question_id
                )
    return found


def _slot_of_correction(connection: Connection, old: Row, skipped: bool, now: datetime) -> int | None:
    """The slot that a correction changes: the old answer's, or, when the old one was a skip, a free one."""
    if not old.skipped:
        return connection.scalar(
            sa.select(slots.c.id).where(slots.c.answer_id == old.id).with_for_update(key_share=True)
        )
    if skipped or old.late:
        return None
    return connection.scalar(
        sa.select(slots.c.id)
        .where(
            slots.c.question_id == old.question_id,
            slots.c.answer_id.is_(None),
            sa.or_(slots.c.expires_at.is_(None), slots.c.expires_at <= now),
        )
        .order_by(slots.c.n)
        .limit(1)
        .with_for_update(skip_locked=True, key_share=True)
    )
