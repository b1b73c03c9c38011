"""Who may answer what: hands out the right to answer a question for a limited time.

A question has as many slots as it wants answers (its overlap); a lease holds one slot, and a slot is held by one lease.
An annotator gets a question once. When a lease ends without an answer its slot is free again. What is said under a
lease is taken by submissions.py: `lease` and `submit` are the one pair of functions for the web app, simulated people
and AI labelers.

`hand_out` does the same for many at once on a connection that is handed in, each succeeding or failing alone: writer.py
joins what comes at the same time into one transaction. What else the queue goes by is in asking.py.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from prefloop.errors import InputError, PrefloopError
from prefloop.records import Messages
from prefloop.store.annotators import existing_annotators, lock_annotators, no_annotator
from prefloop.store.asking import REPEAT_AFTER, draw, read_options
from prefloop.store.consents import QuizDue, owing_quiz
from prefloop.store.database import ForRows, Row, Store, any_of
from prefloop.store.feedback import candidates_of
from prefloop.store.tables import answers, audiences, guidelines, leases, prompts, questions, refusals, roles, slots
from prefloop.store.tables import gold as gold_table
from prefloop.store.values import check_kind, in_chunks

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
    list means that there is nothing to do now. Raises InputError for an unknown annotator or kind, QuizDue for
    somebody who has yet to pass the newest guideline's quiz.
    """
    request = LeaseRequest(
        annotator=annotator, kinds=None if kinds is None else sorted(set(kinds)), limit=limit, seconds=seconds
    )
    with store.write() as connection:
        (result,) = hand_out(connection, [request], now=now)
    if isinstance(result, PrefloopError):
        raise result
    return result


def hand_out(
    connection: Connection, requests: Sequence[LeaseRequest], *, now: datetime | None = None
) -> list[list[Lease] | PrefloopError]:
    """As `lease`, for many requests in the caller's transaction; an error stands in its request's place."""
    now = now or datetime.now(UTC)
    known = existing_annotators(connection, sorted({one.annotator for one in requests}))
    owing = owing_quiz(connection, known)
    counter = _Counter(connection, known, now, sum(one.limit for one in requests) if len(requests) > 1 else 0)
    claims: list[list[_Claim] | PrefloopError] = []
    for one in requests:
        try:
            _check_request(one)
            if one.annotator not in known:
                raise no_annotator(one.annotator)
            if one.annotator in owing:
                raise QuizDue("there is a new guideline: read it and pass its quiz on the page /quiz first")
            claims.append(counter.claim(one))
        except InputError as error:
            claims.append(error)
    counter.hold()
    told = _tell(connection, [claim for some in claims if isinstance(some, list) for claim in some], now)
    return [some if isinstance(some, PrefloopError) else [told[claim.token] for claim in some] for some in claims]


def release(store: Store, annotator: str, tokens: Sequence[str]) -> int:
    """Give leases back before their time, and return how many slots that freed."""
    freed = 0
    with store.write() as connection:
        lock_annotators(connection, [annotator])
        for chunk in in_chunks(list(tokens)):
            freed += connection.execute(
                sa.update(slots)
                .where(slots.c.token.in_(chunk), slots.c.annotator_id == annotator, slots.c.answer_id.is_(None))
                .values(annotator_id=sa.null(), token=sa.null(), expires_at=sa.null())
            ).rowcount
    return freed


# Put together once: building a statement takes SQLAlchemy several times as long as SQLite takes to run it.
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
    .where(any_of(questions.c.id, "ids"))
)
_ANY_GOLD = sa.select(gold_table.c.question_id).limit(1)
_ADD_LEASES = ForRows(sa.insert(leases))
_HOLD_SLOTS = ForRows(
    sa.update(slots)
    .where(slots.c.id == sa.bindparam("of_slot"))
    .values(annotator_id=sa.bindparam("to_annotator"), expires_at=sa.bindparam("until"), token=sa.bindparam("to_token"))
)


@dataclass(frozen=True)
class _Claim:
    """A slot that somebody gets now."""

    slot: Row
    annotator: str
    token: str
    expires_at: datetime


class _Counter:
    """Hands out slots within one transaction: to each request those that are next for its annotator."""

    def __init__(self, connection: Connection, people: Iterable[str], now: datetime, ahead: int) -> None:
        self.connection = connection
        self.now = now
        self.repeats = _due_repeats(connection, sorted(people), now)
        self.gold_share = 0.0
        if connection.scalar(_ANY_GOLD):
            self.gold_share = read_options(connection).gold_share
        self.ahead = _Ahead(connection, sorted(people), now, ahead)
        self.pending: list[_Claim] = []
        """What was claimed, and does not stand in its slots yet."""

    def claim(self, request: LeaseRequest) -> list[_Claim]:
        """Up to `limit` slots: what is to be repeated first, then what the queue has, some of it gold."""
        who, until = request.annotator, self.now + timedelta(seconds=request.seconds)
        claimed: list[_Claim] = []

        def take(found: Sequence[Row]) -> None:
            # Two free slots of one question may come: the first is ours, the second for somebody else.
            first = {row.question_id: row for row in reversed(found)}
            ours = [row for row in found if first[row.question_id] is row]
            new = [_Claim(row, who, secrets.token_urlsafe(24), until) for row in ours]
            self.pending.extend(new)
            claimed.extend(new)

        again = [row for row in self.repeats.pop(who, []) if request.kinds is None or row.kind in request.kinds]
        take(again[: request.limit])
        n_gold = self._gold_among(who, request.limit - len(claimed))
        if n_gold:
            take(self._free(request, n_gold, gold=True))
        take(self.ahead.next(request, request.limit - len(claimed)))
        while len(claimed) < request.limit:
            free = self._free(request, request.limit - len(claimed), gold=False)
            if not free:
                break
            take(free)
        return claimed

    def _free(self, request: LeaseRequest, limit: int, gold: bool) -> Sequence[Row]:
        self.hold()
        return _free_slots(self.connection, request, limit, self.now, gold)

    def hold(self) -> None:
        """Write down what was claimed, so that it is no longer free."""
        _hold(self.connection, self.pending)
        self.pending = []

    def _gold_among(self, who: str, n: int) -> int:
        """How many of the next `n` questions are gold: drawn anew after each answer, and by nobody to be foreseen."""
        if not self.gold_share or n < 1:
            return 0
        newest = self.connection.scalar(sa.select(sa.func.max(answers.c.number)).where(answers.c.annotator_id == who))
        return sum(draw("gold", who, newest, place) < self.gold_share for place in range(n))


class _Ahead:
    """The next slots of the queue, read once for many requests, each of which then need not look for its own.

    Only where everybody may be asked all of them: a question for some, or with a content warning, leaves each request
    to look for itself, and so does one whose annotator has answered all that was read.
    """

    def __init__(self, connection: Connection, people: Sequence[str], now: datetime, most: int) -> None:
        rows: Sequence[Row] = []
        if most:
            rows = connection.execute(_NEXT_SLOTS, {"moment": now, "most": min(most, MAX_LEASES)}).all()
        if any(row.restricted or row.sensitive is not None for row in rows):
            rows = []
        self.rows = list(rows)
        self.seen: set[tuple[str, str]] = set()
        """(question, annotator): who answered or holds what."""
        for chunk in in_chunks(list({row.question_id for row in rows})):
            found = connection.execute(_WHO_HAS, {"ids": chunk, "people": people, "moment": now})
            self.seen.update((question, who) for question, who in found)

    def next(self, request: LeaseRequest, limit: int) -> list[Row]:
        """Up to `limit` slots that this annotator may have, in the queue's order; they are nobody else's then."""
        found: list[Row] = []
        for row in self.rows:
            if len(found) >= limit:
                break
            asked = (row.question_id, request.annotator)
            if asked not in self.seen and (request.kinds is None or row.kind in request.kinds):
                self.seen.add(asked)
                found.append(row)
        mine = {row.id for row in found}
        self.rows = [row for row in self.rows if row.id not in mine] if mine else self.rows
        return found


def _check_request(one: LeaseRequest) -> None:
    for kind in one.kinds or ():
        check_kind(kind)
    if isinstance(one.limit, bool) or not 1 <= one.limit <= MAX_LEASES:
        raise InputError(f"limit must be from 1 to {MAX_LEASES}, got {one.limit}")
    if not 0 < one.seconds <= MAX_LEASE_SECONDS:
        raise InputError(f"a lease lasts more than 0 and at most {MAX_LEASE_SECONDS:.0f} seconds, got {one.seconds}")


def _free_slots(connection: Connection, request: LeaseRequest, limit: int, now: datetime, gold: bool) -> Sequence[Row]:
    """Unanswered slots that nobody holds, of questions that this annotator may answer, and neither did nor holds."""
    given: dict[str, Any] = {"who": request.annotator, "moment": now, "most": limit}
    if request.kinds is not None:
        given["some_kinds"] = list(request.kinds)
    return connection.execute(_free_slots_query(request.kinds is not None, gold), given).all()


@functools.cache
def _free_slots_query(some_kinds: bool, gold: bool) -> sa.Select[Any]:
    who: sa.BindParameter[str] = sa.bindparam("who", type_=sa.String)
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
        other.c.expires_at > _moment(),
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
    query = _open_slots(gold).where(
        sa.or_(slots.c.restricted.is_(False), invited.limit(1).scalar_subquery().is_not(None)),
        sa.or_(slots.c.sensitive.is_(None), refuses.limit(1).scalar_subquery().is_(None)),
        answered.limit(1).scalar_subquery().is_(None),
        holds.limit(1).scalar_subquery().is_(None),
    )
    if gold:  # few, so they are looked up one by one: by the flag, SQLite would look through every open slot
        query = query.where(slots.c.question_id.in_(sa.select(gold_table.c.question_id)))
    return query.where(slots.c.kind.in_(sa.bindparam("some_kinds", expanding=True))) if some_kinds else query


def _open_slots(gold: bool) -> sa.Select[Any]:
    """The `most` next slots that nobody has answered or holds at the `moment`, in the queue's order, locked."""
    return (
        sa.select(slots)
        .where(
            slots.c.answer_id.is_(None),
            slots.c.gold.is_(gold),
            slots.c.reserved_for.is_(None),
            sa.or_(slots.c.expires_at.is_(None), slots.c.expires_at <= _moment()),
        )
        .order_by(slots.c.priority, slots.c.n, slots.c.id)
        .limit(sa.bindparam("most", type_=sa.Integer))
        .with_for_update(skip_locked=True, of=slots)
    )


def _moment() -> sa.BindParameter[datetime]:
    return sa.bindparam("moment", type_=slots.c.expires_at.type)


def _who_has_query() -> sa.CompoundSelect[Any]:
    return sa.union_all(
        sa.select(answers.c.question_id, answers.c.annotator_id).where(
            any_of(answers.c.question_id, "ids"), any_of(answers.c.annotator_id, "people")
        ),
        sa.select(slots.c.question_id, slots.c.annotator_id).where(
            slots.c.answer_id.is_(None),
            any_of(slots.c.annotator_id, "people"),
            any_of(slots.c.question_id, "ids"),
            slots.c.expires_at > _moment(),
        ),
    )


_NEXT_SLOTS = _open_slots(gold=False)
_WHO_HAS = _who_has_query()


def _due_repeats(connection: Connection, people: Sequence[str], now: datetime) -> dict[str, list[Row]]:
    """The second looks for which each of these annotators has answered enough in between."""
    found: dict[str, list[Row]] = {}
    for chunk in in_chunks(people):
        for row in connection.execute(_DUE_REPEATS, {"people": chunk, "moment": now}):
            found.setdefault(row.reserved_for, []).append(row)
    return found


def _due_repeats_query() -> sa.Select[Any]:
    since, late = answers.alias("since"), answers.alias("late")
    later = (
        sa.select(since.c.id)
        .where(since.c.annotator_id == slots.c.reserved_for, since.c.number > answers.c.number)
        .limit(REPEAT_AFTER)
        .correlate(slots, answers)
        .subquery("later")
    )
    # An answer that came late fills no slot, but it was the second look: another one would be refused.
    looked = sa.exists().where(
        late.c.question_id == slots.c.question_id,
        late.c.repeat_of == slots.c.repeat_of,
        late.c.annotator_id == slots.c.reserved_for,
    )
    return (
        sa.select(slots)
        .select_from(slots.join(answers, answers.c.id == slots.c.repeat_of))
        .where(
            slots.c.answer_id.is_(None),
            slots.c.reserved_for.in_(sa.bindparam("people", expanding=True)),
            sa.or_(slots.c.expires_at.is_(None), slots.c.expires_at <= _moment()),
            answers.c.value.is_not(None),
            ~looked.correlate(slots),
            sa.select(sa.func.count()).select_from(later).scalar_subquery() >= REPEAT_AFTER,
        )
        .order_by(slots.c.id)
        .with_for_update(skip_locked=True, of=slots)
    )


_DUE_REPEATS = _due_repeats_query()


def _hold(connection: Connection, claims: Sequence[_Claim]) -> None:
    _HOLD_SLOTS(
        connection,
        [
            {"of_slot": one.slot.id, "to_annotator": one.annotator, "until": one.expires_at, "to_token": one.token}
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
    _ADD_LEASES(connection, rows)
    return result


def _first_looks(connection: Connection, ids: Sequence[str]) -> dict[str, list[str]]:
    """In which order the candidates were shown when these answers were given."""
    found: dict[str, list[str]] = {}
    for chunk in in_chunks(ids):
        query = sa.select(answers.c.id, answers.c.presented_order).where(answers.c.id.in_(chunk))
        found.update((row.id, row.presented_order) for row in connection.execute(query))
    return found
