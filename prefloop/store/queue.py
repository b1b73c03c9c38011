"""Who may answer what, and what they said: the one pair of functions for the web app, simulated people and AI labelers.

`lease` hands out the right to answer a question for a limited time, `submit` takes the answer. A question has as many
slots as it wants answers (its overlap); a lease holds one slot, and a slot is held by one lease. An annotator gets a
question once. When a lease ends without an answer its slot is free again; work that comes in afterwards is kept and
marked late. A skip is an answer, too, but it frees the slot: somebody else is asked.

`hand_out` and `take` do the same for many at once on a connection that is handed in, each succeeding or failing alone:
writer.py joins what comes at the same time into one transaction. What else the queue goes by is in asking.py.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from prefloop.errors import InputError, PrefloopError
from prefloop.records import Messages
from prefloop.store.asking import FIRST_REPEAT, REPEAT_AFTER, OverlapPolicy, draw, open_repeats, read_options, settle
from prefloop.store.audit_log import answer_entries, append_many, commitment
from prefloop.store.database import Row, Store, in_answer_order, insert_new
from prefloop.store.feedback import candidates_of, check_seconds, new_answer_row
from prefloop.store.tables import (
    annotators,
    answers,
    audiences,
    guidelines,
    leases,
    prompts,
    questions,
    refusals,
    roles,
    slots,
)
from prefloop.store.tables import gold as gold_table
from prefloop.store.values import check_kind, check_storable, in_chunks, validate_value

__all__ = [
    "IdempotencyError",
    "Lease",
    "LeaseError",
    "LeaseRequest",
    "Receipt",
    "Submission",
    "adjudicate",
    "correct",
    "correct_on",
    "hand_out",
    "lease",
    "release",
    "submit",
    "take",
    "validate_value",
]

MAX_LEASES = 1000
MAX_LEASE_SECONDS = 30 * 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class LeaseRequest:
    """Somebody who asks for questions."""

    annotator: str
    kinds: Sequence[str] | None = None
    """Only these kinds; None: any."""
    limit: int = 1
    seconds: float = 1800


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
    sensitive: str | None = None
    """A content warning, to be shown before the texts are."""


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
    request = LeaseRequest(
        annotator=annotator, kinds=None if kinds is None else sorted(set(kinds)), limit=limit, seconds=seconds
    )
    with store.write() as connection:
        (result,) = hand_out(connection, [request], now=now)
    if isinstance(result, PrefloopError):
        raise result
    return result


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
        _check_submission(one.idempotency_key, one.value, one.seconds, f"submissions[{index}]")
    with store.write() as connection:
        in_answer_order(connection)
        desk = _Desk(connection, submissions, now or datetime.now(UTC))
        receipts = [desk.take(one, f"submissions[{index}]") for index, one in enumerate(submissions)]
        desk.write(overlap)
    return receipts


def hand_out(
    connection: Connection, requests: Sequence[LeaseRequest], *, now: datetime | None = None
) -> list[list[Lease] | PrefloopError]:
    """As `lease`, for many requests in the caller's transaction; an error stands in its request's place."""
    now = now or datetime.now(UTC)
    known = _existing_annotators(connection, sorted({one.annotator for one in requests}))
    counter = _Counter(connection, known, now)
    claims: list[list[_Claim] | PrefloopError] = []
    for one in requests:
        try:
            _check_request(one)
            if one.annotator not in known:
                raise _no_annotator(one.annotator)
            claims.append(counter.claim(one))
        except InputError as error:
            claims.append(error)
    told = _tell(connection, [claim for some in claims if isinstance(some, list) for claim in some], now)
    return [some if isinstance(some, PrefloopError) else [told[claim.token] for claim in some] for some in claims]


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
    with store.write() as connection:
        return correct_on(
            connection, annotator, answer_id, value, idempotency_key=idempotency_key, seconds=seconds, now=now
        )


def correct_on(
    connection: Connection,
    annotator: str,
    answer_id: str,
    value: Mapping[str, Any],
    *,
    idempotency_key: str,
    seconds: float | None = None,
    now: datetime | None = None,
) -> Receipt:
    """As `correct`, in the caller's transaction."""
    _check_submission(idempotency_key, value, seconds, "correction")
    now = now or datetime.now(UTC)
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
    aside = old.adjudication or old.repeat_of is not None
    late = old.late or (old.skipped and not row["skipped"] and slot is None and old.overlap > 0 and not aside)
    row |= {"replaces": answer_id, "late": late, "seconds": seconds, "idempotency_key": idempotency_key, "at": now}
    row |= {"repeat_of": old.repeat_of, "adjudication": old.adjudication}
    connection.execute(sa.insert(answers), row)
    append_many(connection, answer_entries([row], "correction"))
    if slot is not None:
        connection.execute(
            sa.update(slots)
            .where(slots.c.id == slot)
            .values(
                answer_id=sa.null() if row["skipped"] and not aside else row["id"],
                annotator_id=sa.null() if row["skipped"] and not aside else annotator,
                token=sa.null(),
                expires_at=sa.null(),
            )
        )
    return Receipt(answer_id=row["id"], replay=False, late=late)


def adjudicate(
    store: Store,
    annotator: str,
    question_id: str,
    value: Mapping[str, Any],
    *,
    presented: Sequence[str] | None = None,
    idempotency_key: str,
    seconds: float | None = None,
    now: datetime | None = None,
) -> Receipt:
    """Settle a question that others disagreed about: an answer beside the overlap, marked `adjudication`.

    `presented`: the candidate ids as they were shown, "a" first; without it, in the stored order. Whether somebody may
    adjudicate is for the caller to check. Raises InputError for an unknown question, a value that does not fit, and
    when this annotator adjudicated the question before (then that answer is to be corrected).
    """
    _check_submission(idempotency_key, value, seconds, "adjudication")
    with store.write() as connection:
        in_answer_order(connection)
        _lock_annotators(connection, [annotator])
        kind = connection.scalar(sa.select(questions.c.kind).where(questions.c.id == question_id))
        if kind is None:
            raise InputError(f"the store has no question {question_id!r:.60}")
        shown = [one["id"] for one in candidates_of(connection, [question_id]).get(question_id, [])]
        order = list(presented) if presented is not None else shown
        if sorted(order) != sorted(shown):
            raise InputError(f"presented must name each of {', '.join(shown)} exactly once, got {order!r:.200}")
        stored = _by_idempotency_key(connection, [annotator], [idempotency_key]).get((annotator, idempotency_key))
        if stored is not None:
            return _replay(stored, question_id, annotator, value, order, "adjudication")
        said = _said(connection, [annotator], [question_id]).get((annotator, question_id), [])
        before = next((one.id for one in said if one.adjudication), None)
        if before is not None:
            raise InputError(f"{annotator} adjudicated this question before, with answer {before}; correct that")
        validate_value(kind, value, order)
        row = new_answer_row(question_id, annotator, len(said), value, order)
        row |= {"late": False, "seconds": seconds, "idempotency_key": idempotency_key}
        row |= {"at": now or datetime.now(UTC), "adjudication": True}
        connection.execute(sa.insert(answers), row)
        append_many(connection, answer_entries([row], "adjudication"))
    return Receipt(answer_id=row["id"], replay=False, late=False)


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


def _any_of(column: sa.Column[Any], name: str) -> sa.ColumnElement[bool]:
    return column.in_(sa.bindparam(name, expanding=True))


# Put together once: building a statement takes SQLAlchemy several times as long as SQLite takes to run it.
_LOCK_ANNOTATORS = (
    sa.select(annotators.c.id)
    .where(_any_of(annotators.c.id, "ids"))
    .order_by(annotators.c.id)
    .with_for_update(key_share=True)
)
_SHOW_QUESTIONS = (
    sa.select(
        questions.c.id,
        questions.c.kind,
        questions.c.seed,
        questions.c.sensitive,
        prompts.c.messages,
        guidelines.c.version,
        guidelines.c.text,
    )
    .select_from(questions.join(prompts).outerjoin(guidelines))
    .where(_any_of(questions.c.id, "ids"))
)
_READ_LEASES = (
    sa.select(leases, questions.c.kind, questions.c.seed)
    .select_from(leases.join(questions))
    .where(_any_of(leases.c.token, "tokens"))
)
_UNANSWERED_SLOTS = (
    sa.select(slots)
    .where(_any_of(slots.c.question_id, "ids"), slots.c.answer_id.is_(None))
    .order_by(slots.c.id)
    .with_for_update(key_share=True)
)
_WHAT_WAS_SAID = (
    sa.select(answers.c.annotator_id, answers.c.question_id, answers.c.id, answers.c.repeat_of, answers.c.adjudication)
    .where(_any_of(answers.c.question_id, "ids"), _any_of(answers.c.annotator_id, "people"))
    .order_by(answers.c.ordinal.desc())
)
_BY_KEY = sa.select(answers).where(
    _any_of(answers.c.idempotency_key, "keys"), _any_of(answers.c.annotator_id, "people")
)
_ANY_GOLD = sa.select(gold_table.c.question_id).limit(1)
_ADD_ANSWER = sa.insert(answers)
_ADD_LEASE = sa.insert(leases)
_USE_LEASE = (
    sa.update(leases).where(leases.c.token == sa.bindparam("of_token")).values(answer_id=sa.bindparam("to_answer"))
)
_HOLD_SLOT = (
    sa.update(slots)
    .where(slots.c.id == sa.bindparam("of_slot"))
    .values(annotator_id=sa.bindparam("to_annotator"), expires_at=sa.bindparam("until"), token=sa.bindparam("to_token"))
)
_FILL_SLOT = (
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
        self.filled: list[tuple[dict[str, Any], Row, Row]] = []

    def take(self, one: Submission, place: str) -> Receipt:
        """Decide what becomes of one submission; `write` makes it so."""
        held = self.leases.get(one.lease_token)
        if held is None:
            raise LeaseError(f"{place}: there is no lease {one.lease_token[:12]}...; ask for a question first")
        who, question = held.annotator_id, held.question_id
        stored = self.stored.get((who, one.idempotency_key))
        if stored is not None:
            return _replay(stored, question, who, one.value, held.presented_order, place)
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
        self.connection.execute(_ADD_ANSWER, self.new_answers)
        append_many(self.connection, answer_entries(self.new_answers))
        self.connection.execute(_USE_LEASE, self.lease_changes)
        if self.slot_changes:
            self.connection.execute(_FILL_SLOT, self.slot_changes)
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
class _Claim:
    """A slot that somebody gets now."""

    slot: Row
    annotator: str
    token: str
    expires_at: datetime


class _Counter:
    """Hands out slots within one transaction: to each request those that are next for its annotator."""

    def __init__(self, connection: Connection, people: Iterable[str], now: datetime) -> None:
        self.connection = connection
        self.now = now
        self.repeats = _due_repeats(connection, sorted(people), now)
        self.gold_share = 0.0
        if connection.scalar(_ANY_GOLD):
            self.gold_share = read_options(connection).gold_share

    def claim(self, request: LeaseRequest) -> list[_Claim]:
        """Up to `limit` slots: what is to be repeated first, then what the queue has, some of it gold."""
        who, until = request.annotator, self.now + timedelta(seconds=request.seconds)
        claimed: list[_Claim] = []

        def hold(found: Sequence[Row]) -> None:
            # Two free slots of one question may come: the first is ours, the second for somebody else.
            first = {row.question_id: row for row in reversed(found)}
            ours = [row for row in found if first[row.question_id] is row]
            new = [_Claim(row, who, secrets.token_urlsafe(24), until) for row in ours]
            _hold(self.connection, new)
            claimed.extend(new)

        again = [row for row in self.repeats.pop(who, []) if request.kinds is None or row.kind in request.kinds]
        hold(again[: request.limit])
        n_gold = self._gold_among(who, request.limit - len(claimed))
        if n_gold:
            hold(_free_slots(self.connection, request, n_gold, self.now, gold=True))
        while len(claimed) < request.limit:
            free = _free_slots(self.connection, request, request.limit - len(claimed), self.now, gold=False)
            if not free:
                break
            hold(free)
        return claimed

    def _gold_among(self, who: str, n: int) -> int:
        """How many of the next `n` questions are gold: drawn anew after each answer, and by nobody to be foreseen."""
        if not self.gold_share or n < 1:
            return 0
        newest = self.connection.scalar(sa.select(sa.func.max(answers.c.number)).where(answers.c.annotator_id == who))
        return sum(draw("gold", who, newest, place) < self.gold_share for place in range(n))


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


def _check_request(one: LeaseRequest) -> None:
    for kind in one.kinds or ():
        check_kind(kind)
    if isinstance(one.limit, bool) or not 1 <= one.limit <= MAX_LEASES:
        raise InputError(f"limit must be from 1 to {MAX_LEASES}, got {one.limit}")
    if not 0 < one.seconds <= MAX_LEASE_SECONDS:
        raise InputError(f"a lease lasts more than 0 and at most {MAX_LEASE_SECONDS:.0f} seconds, got {one.seconds}")


def _wrong_submission(one: Submission) -> InputError | None:
    try:
        _check_submission(one.idempotency_key, one.value, one.seconds, "answer")
    except InputError as error:
        return error
    return None


def _existing_annotators(connection: Connection, ids: Sequence[str]) -> set[str]:
    """Those of these annotators that there are; one transaction at a time for each of them."""
    found: set[str] = set()
    for chunk in in_chunks(sorted(ids)):
        found.update(connection.scalars(_LOCK_ANNOTATORS, {"ids": chunk}))
    return found


def _lock_annotators(connection: Connection, ids: Sequence[str]) -> None:
    """One transaction at a time for each of these annotators. Raises InputError for one that is not there."""
    missing = sorted(set(ids) - _existing_annotators(connection, ids))
    if missing:
        raise _no_annotator(missing[0])


def _no_annotator(identity: str) -> InputError:
    return InputError(f"the store has no annotator {identity!r:.200}; add_annotator gives the id to use")


def _free_slots(connection: Connection, request: LeaseRequest, limit: int, now: datetime, gold: bool) -> Sequence[Row]:
    """Unanswered slots that nobody holds, of questions that this annotator may answer, and neither did nor holds."""
    given: dict[str, Any] = {"who": request.annotator, "moment": now, "most": limit}
    if request.kinds is not None:
        given["some_kinds"] = list(request.kinds)
    return connection.execute(_free_slots_query(request.kinds is not None, gold), given).all()


@functools.cache
def _free_slots_query(some_kinds: bool, gold: bool) -> sa.Select[Any]:
    who: sa.BindParameter[str] = sa.bindparam("who", type_=sa.String)
    moment: sa.BindParameter[datetime] = sa.bindparam("moment", type_=slots.c.expires_at.type)
    other = slots.alias("other")
    # One look into an index for each free slot. Written as NOT EXISTS, PostgreSQL would join whole tables instead, and
    # before its statistics know their size it takes seconds to do so.
    answered = sa.select(answers.c.id).where(
        answers.c.question_id == slots.c.question_id, answers.c.annotator_id == who
    )
    holds = sa.select(other.c.id).where(
        other.c.question_id == slots.c.question_id,
        other.c.annotator_id == who,
        other.c.answer_id.is_(None),
        other.c.expires_at > moment,
    )
    invited = sa.select(audiences.c.member).where(
        audiences.c.question_id == slots.c.question_id,
        sa.or_(
            audiences.c.member == who,
            audiences.c.member.in_(sa.select(roles.c.role).where(roles.c.annotator_id == who)),
        ),
    )
    refuses = sa.select(refusals.c.tag).where(
        refusals.c.annotator_id == who, sa.or_(refusals.c.tag == slots.c.sensitive, refusals.c.tag == "*")
    )
    query = (
        sa.select(slots)
        .where(
            slots.c.answer_id.is_(None),
            slots.c.gold.is_(gold),
            slots.c.reserved_for.is_(None),
            sa.or_(slots.c.expires_at.is_(None), slots.c.expires_at <= moment),
            sa.or_(slots.c.restricted.is_(False), invited.limit(1).scalar_subquery().is_not(None)),
            sa.or_(slots.c.sensitive.is_(None), refuses.limit(1).scalar_subquery().is_(None)),
            answered.limit(1).scalar_subquery().is_(None),
            holds.limit(1).scalar_subquery().is_(None),
        )
        .order_by(slots.c.priority, slots.c.n, slots.c.id)
        .limit(sa.bindparam("most", type_=sa.Integer))
        .with_for_update(skip_locked=True, of=slots)
    )
    if gold:  # few, so they are looked up one by one: by the flag, SQLite would look through every open slot
        query = query.where(slots.c.question_id.in_(sa.select(gold_table.c.question_id)))
    return query.where(slots.c.kind.in_(sa.bindparam("some_kinds", expanding=True))) if some_kinds else query


def _due_repeats(connection: Connection, people: Sequence[str], now: datetime) -> dict[str, list[Row]]:
    """The second looks for which each of these annotators has answered enough in between."""
    found: dict[str, list[Row]] = {}
    for chunk in in_chunks(people):
        for row in connection.execute(_DUE_REPEATS, {"people": chunk, "moment": now}):
            found.setdefault(row.reserved_for, []).append(row)
    return found


def _due_repeats_query() -> sa.Select[Any]:
    since = answers.alias("since")
    moment: sa.BindParameter[datetime] = sa.bindparam("moment", type_=slots.c.expires_at.type)
    later = (
        sa.select(since.c.id)
        .where(since.c.annotator_id == slots.c.reserved_for, since.c.number > answers.c.number)
        .limit(REPEAT_AFTER)
        .correlate(slots, answers)
        .subquery("later")
    )
    return (
        sa.select(slots)
        .select_from(slots.join(answers, answers.c.id == slots.c.repeat_of))
        .where(
            slots.c.answer_id.is_(None),
            slots.c.reserved_for.in_(sa.bindparam("people", expanding=True)),
            sa.or_(slots.c.expires_at.is_(None), slots.c.expires_at <= moment),
            answers.c.value.is_not(None),
            sa.select(sa.func.count()).select_from(later).scalar_subquery() >= REPEAT_AFTER,
        )
        .order_by(slots.c.id)
        .with_for_update(skip_locked=True, of=slots)
    )


_DUE_REPEATS = _due_repeats_query()


def _hold(connection: Connection, claims: Sequence[_Claim]) -> None:
    if claims:
        connection.execute(
            _HOLD_SLOT,
            [
                {
                    "of_slot": one.slot.id,
                    "to_annotator": one.annotator,
                    "until": one.expires_at,
                    "to_token": one.token,
                }
                for one in claims
            ],
        )


def _tell(connection: Connection, claims: Sequence[_Claim], now: datetime) -> dict[str, Lease]:
    """Record the leases, and put together what each annotator is to see: by token."""
    asked: dict[str, Row] = {}
    for chunk in in_chunks(list({one.slot.question_id for one in claims})):
        asked.update((row.id, row) for row in connection.execute(_SHOW_QUESTIONS, {"ids": chunk}))
    shown = candidates_of(connection, asked)
    first_look = _first_looks(connection, [one.slot.repeat_of for one in claims if one.slot.repeat_of is not None])
    result: dict[str, Lease] = {}
    rows = []
    for one in claims:
        question = asked[one.slot.question_id]
        by_id = {candidate["id"]: candidate for candidate in shown.get(question.id, ())}
        if one.slot.repeat_of is None:
            order = presented_order(question.seed, one.annotator, list(by_id))
        else:
            order = first_look[one.slot.repeat_of][::-1]
        result[one.token] = Lease(
            token=one.token,
            question_id=question.id,
            kind=question.kind,
            messages=question.messages,
            candidates=[{"id": candidate, "text": by_id[candidate]["text"]} for candidate in order],
            guideline=None if question.version is None else {"version": question.version, "text": question.text},
            expires_at=one.expires_at,
            sensitive=question.sensitive,
        )
        rows.append(
            {
                "token": one.token,
                "slot_id": one.slot.id,
                "question_id": question.id,
                "annotator_id": one.annotator,
                "presented_order": order,
                "issued_at": now,
                "expires_at": one.expires_at,
                "repeat_of": one.slot.repeat_of,
            }
        )
    if rows:
        connection.execute(_ADD_LEASE, rows)
    return result


def _first_looks(connection: Connection, ids: Sequence[str]) -> dict[str, list[str]]:
    """In which order the candidates were shown when these answers were given."""
    found: dict[str, list[str]] = {}
    for chunk in in_chunks(ids):
        query = sa.select(answers.c.id, answers.c.presented_order).where(answers.c.id.in_(chunk))
        found.update((row.id, row.presented_order) for row in connection.execute(query))
    return found


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


def _said(
    connection: Connection, people: Sequence[str], question_ids: Sequence[str]
) -> dict[tuple[str, str], list[_Said]]:
    """(annotator, question) -> the answers given, newest first."""
    found: dict[tuple[str, str], list[_Said]] = {}
    for some in in_chunks(people):
        for chunk in in_chunks(question_ids):
            for who, question, *said in connection.execute(_WHAT_WAS_SAID, {"ids": chunk, "people": some}):
                found.setdefault((who, question), []).append(_Said(*said))
    return found


def _by_idempotency_key(
    connection: Connection, people: Sequence[str], keys: Sequence[str]
) -> dict[tuple[str, str], _Stored]:
    found: dict[tuple[str, str], _Stored] = {}
    for some in in_chunks(people):
        for chunk in in_chunks(keys):
            for row in connection.execute(_BY_KEY, {"keys": chunk, "people": some}):
                found[row.annotator_id, row.idempotency_key] = _Stored(
                    row.id, row.key, row.hash, row.late, row.question_id
                )
    return found


def _slot_of_correction(connection: Connection, old: Row, skipped: bool, now: datetime) -> int | None:
    """The slot that a correction changes: the old answer's, or, when the old one was a skip, a free one."""
    if not old.skipped or old.adjudication or old.repeat_of is not None:
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
            slots.c.reserved_for.is_(None),
            sa.or_(slots.c.expires_at.is_(None), slots.c.expires_at <= now),
        )
        .order_by(slots.c.n)
        .limit(1)
        .with_for_update(skip_locked=True, key_share=True)
    )
