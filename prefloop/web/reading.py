"""What the pages show, read from the store: small questions with an index behind each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import sqlalchemy as sa

from prefloop.records import as_messages
from prefloop.store.counting import SlotCounts, question_counts, slot_counts
from prefloop.store.database import Store
from prefloop.store.feedback import AnswerRow, answers_by_ids
from prefloop.store.queue import Lease
from prefloop.store.tables import (
    EPOCH,
    activity,
    annotators,
    answers,
    candidates,
    completions,
    guidelines,
    leases,
    prompts,
    questions,
    shared,
    slots,
)

RECENT = 1000
"""Answers that figures about time look at: the newest ones."""
OWN_RECENT = 200
"""The same, of one annotator."""


def lease_holder(store: Store, token: str) -> str | None:
    """Whose lease this is, or None for one that nobody holds."""
    with store.read() as connection:
        return connection.scalar(sa.select(leases.c.annotator_id).where(leases.c.token == token))


def held_lease(store: Store, annotator: str, now: datetime | None = None) -> Lease | None:
    """The question that somebody has before them: a page that is loaded again shows it again."""
    now = now or datetime.now(UTC)
    query = (
        sa.select(leases, questions.c.kind, questions.c.prompt_id, questions.c.guideline, questions.c.sensitive)
        .select_from(
            slots.join(leases, leases.c.token == slots.c.token).join(questions, questions.c.id == slots.c.question_id)
        )
        .where(slots.c.annotator_id == annotator, slots.c.answer_id.is_(None), slots.c.expires_at > now)
        .order_by(leases.c.issued_at)
        .limit(1)
    )
    with store.read() as connection:
        row = connection.execute(query).first()
        if row is None:
            return None
        messages = connection.scalar(sa.select(prompts.c.messages).where(prompts.c.id == row.prompt_id))
        texts = dict(
            connection.execute(
                sa.select(completions.c.id, completions.c.text).where(completions.c.id.in_(row.presented_order))
            ).all()
        )
        guideline = connection.execute(sa.select(guidelines).where(guidelines.c.version == row.guideline)).first()
    if messages is None or any(texts.get(one) is None for one in row.presented_order):
        return None  # erased meanwhile
    return Lease(
        token=row.token,
        question_id=row.question_id,
        kind=row.kind,
        messages=as_messages(messages),
        candidates=[{"id": one, "text": texts[one]} for one in row.presented_order],
        guideline=None if guideline is None else {"version": guideline.version, "text": guideline.text},
        expires_at=row.expires_at,
        sensitive=row.sensitive,
    )


def question_extras(store: Store, question: str) -> dict[str, Any]:
    """`columns` (criteria, flags, ... chosen by who asked) and `sensitive` (a content warning) of a question."""
    with store.read() as connection:
        row = connection.execute(
            sa.select(questions.c.columns, questions.c.sensitive).where(questions.c.id == question)
        ).one()
    return {"columns": row.columns or {}, "sensitive": row.sensitive}


def own_answer(store: Store, annotator: str, answer: str) -> AnswerRow | None:
    """An answer, when it is this annotator's own."""
    found = answers_by_ids(store, [answer]).get(answer)
    return found if found is not None and found.annotator == annotator else None


@dataclass(frozen=True)
class OwnFigures:
    """How somebody's own work goes."""

    today: int
    in_all: int
    skipped: int
    corrected: int
    median_seconds: float | None
    days: list[tuple[str, int]]
    """The last 14 days: (date, answers)."""


def own_figures(store: Store, annotator: str, now: datetime | None = None) -> OwnFigures:
    """From what is tallied per day; the time from the newest answers."""
    now = now or datetime.now(UTC)
    today = (now - EPOCH).days
    mine = activity.c.annotator_id == annotator
    with store.read() as connection:
        rows = connection.execute(sa.select(activity).where(mine)).all()
        times = connection.scalars(
            sa.select(answers.c.seconds)
            .where(answers.c.annotator_id == annotator, answers.c.seconds.is_not(None), answers.c.skipped.is_(False))
            .order_by(answers.c.number.desc())
            .limit(OWN_RECENT)
        ).all()
    given = {row.day: int(row.answers - row.skipped) for row in rows}
    return OwnFigures(
        today=given.get(today, 0),
        in_all=sum(given.values()),
        skipped=sum(int(row.skipped) for row in rows),
        corrected=sum(int(row.corrections) for row in rows),
        median_seconds=median(times) if times else None,
        days=[(_date(day), given.get(day, 0)) for day in range(today - 13, today + 1)],
    )


def _date(day: int) -> str:
    return f"{EPOCH + timedelta(days=day):%Y-%m-%d}"


@dataclass(frozen=True)
class KindProgress:
    """How far the questions of one kind are."""

    kind: str
    questions: int
    slots: int
    done: int
    leased: int
    median_seconds: float | None


def progress(store: Store, now: datetime | None = None) -> list[KindProgress]:
    """Per kind of question: wanted answers (slots), those given, those being given now, and the time one takes."""
    now = now or datetime.now(UTC)
    with store.read() as connection:
        asked = question_counts(connection)
        places = {one.kind: one for one in slot_counts(connection, now)}
        timed = connection.execute(
            sa.select(questions.c.kind, answers.c.seconds)
            .select_from(answers.join(questions, questions.c.id == answers.c.question_id))
            .where(answers.c.seconds.is_not(None), answers.c.skipped.is_(False))
            .order_by(answers.c.number.desc())
            .limit(RECENT)
        ).all()
    times: dict[str, list[float]] = defaultdict(list)
    for kind, seconds in timed:
        times[kind].append(seconds)
    nothing = SlotCounts("", 0, 0, 0)
    return [
        KindProgress(kind, n, of.all, of.done, of.leased, median(times[kind]) if times[kind] else None)
        for kind, n in asked.items()
        for of in [places.get(kind, nothing)]
    ]


@dataclass(frozen=True)
class PersonProgress:
    """What one annotator has done."""

    id: str
    name: str
    answers: int
    skipped: int
    median_seconds: float | None
    last_at: datetime | None


def people_progress(store: Store, limit: int = 500) -> list[PersonProgress]:
    """Answers per annotator, the most active first; times from the newest answers of all."""
    with store.read() as connection:
        n = sa.func.sum(activity.c.answers)
        counted = connection.execute(
            sa.select(
                activity.c.annotator_id,
                annotators.c.name,
                n,
                sa.func.sum(activity.c.skipped),
                sa.type_coerce(sa.func.max(activity.c.last_at), activity.c.last_at.type),
            )
            .select_from(activity.join(annotators))
            .group_by(activity.c.annotator_id, annotators.c.name)
            .having(n > 0)
            .order_by(n.desc(), activity.c.annotator_id)
            .limit(limit)
        ).all()
        timed = connection.execute(
            sa.select(answers.c.annotator_id, answers.c.seconds)
            .where(answers.c.seconds.is_not(None), answers.c.skipped.is_(False))
            .order_by(answers.c.number.desc())
            .limit(RECENT)
        ).all()
    times: dict[str, list[float]] = defaultdict(list)
    for who, seconds in timed:
        times[who].append(seconds)
    return [
        PersonProgress(who, name, int(n), int(skipped or 0), median(times[who]) if times[who] else None, last)
        for who, name, n, skipped, last in counted
    ]


def answers_per_day(store: Store, days: int = 30, now: datetime | None = None) -> list[tuple[str, int]]:
    """(date, answers) for the last days, corrections and skips left out."""
    now = now or datetime.now(UTC)
    today = (now - EPOCH).days
    with store.read() as connection:
        rows = connection.execute(
            sa.select(activity.c.day, sa.func.sum(activity.c.answers - activity.c.skipped))
            .where(activity.c.day > today - days)
            .group_by(activity.c.day)
        ).all()
    counted = {int(day): int(n) for day, n in rows}
    return [(_date(day), counted.get(day, 0)) for day in range(today - days + 1, today + 1)]


@dataclass(frozen=True)
class Disputed:
    """A question that more than one annotator has answered, and what they said."""

    id: str
    number: int
    kind: str
    messages: list[Any]
    answers: list[AnswerRow]
    """Those that stand, in stored order."""
    adjudicated: bool

    @property
    def disagree(self) -> bool:
        said = {str(verdict(answer.kind, answer.value)) for answer in self.answers}
        return len(said) > 1


def verdict(kind: str, value: Mapping[str, Any]) -> Any:
    """What an answer comes down to, for asking whether two say the same."""
    if kind == "comparison":
        return value.get("choice")
    if kind == "ranking":
        return [sorted(group) for group in value.get("order", [])]
    if kind == "rating":
        return sorted(value.get("scores", {}).items())
    if kind == "flags":
        return sorted(value.get("flags", []))
    if kind == "approval":
        return value.get("approved")
    return value.get("text") or value.get("spans")


def answered_together(
    store: Store, *, kind: str | None = None, before: int | None = None, limit: int = 50
) -> list[Disputed]:
    """Questions with two or more answers that stand, newest question first, from below number `before`."""
    newer = answers.alias("newer")
    stands = sa.and_(
        answers.c.value.is_not(None),
        answers.c.skipped.is_(False),
        answers.c.late.is_(False),
        answers.c.repeat_of.is_(None),
        ~sa.exists().where(newer.c.replaces == answers.c.id),
    )
    query = (
        sa.select(questions.c.number, questions.c.id, questions.c.kind)
        .select_from(shared.join(questions, questions.c.number == shared.c.number))
        .order_by(shared.c.number.desc())
        .limit(limit)
    )
    if kind:
        query = query.where(shared.c.kind == kind)
    if before is not None:
        query = query.where(shared.c.number < before)
    with store.read() as connection:
        asked = connection.execute(query).all()
        said = connection.execute(
            sa.select(answers.c.question_id, answers.c.id, answers.c.adjudication)
            .where(answers.c.question_id.in_([row.id for row in asked]), stands)
            .order_by(answers.c.number)
        ).all()
    by_question: dict[str, list[str]] = defaultdict(list)
    for row in said:
        if not row.adjudication:
            by_question[row.question_id].append(row.id)
    settled = {row.question_id for row in said if row.adjudication}
    rows = answers_by_ids(store, [row.id for row in said])
    result = []
    for row in asked:
        own = [rows[one] for one in by_question[row.id] if one in rows]
        if own:  # one of two may be late, skipped or erased: then nothing is in dispute, and it is shown as agreed
            result.append(Disputed(row.id, row.number, row.kind, own[0].messages, own, row.id in settled))
    return result


def one_question(store: Store, question: str) -> Disputed | None:
    """A question with every answer that stands on it, or None where there is no such question or no answer."""
    newer = answers.alias("newer")
    with store.read() as connection:
        row = connection.execute(
            sa.select(questions.c.number, questions.c.id, questions.c.kind).where(questions.c.id == question)
        ).first()
        if row is None:
            return None
        said = connection.execute(
            sa.select(answers.c.id, answers.c.adjudication)
            .where(
                answers.c.question_id == question,
                answers.c.value.is_not(None),
                ~sa.exists().where(newer.c.replaces == answers.c.id),
            )
            .order_by(answers.c.number)
        ).all()
    rows = answers_by_ids(store, [one.id for one in said])
    own = [rows[one.id] for one in said if one.id in rows and not one.adjudication]
    if not own:
        return None
    return Disputed(row.id, row.number, row.kind, own[0].messages, own, any(one.adjudication for one in said))


def names_of(store: Store, ids: Sequence[str]) -> dict[str, str]:
    """Annotator id -> name."""
    with store.read() as connection:
        query = sa.select(annotators.c.id, annotators.c.name).where(annotators.c.id.in_(list(ids)))
        return {row.id: row.name for row in connection.execute(query)}


def all_guidelines(store: Store) -> list[dict[str, Any]]:
    """Every version, newest first: `version`, `text`, `quiz`, `created_at`."""
    with store.read() as connection:
        rows = connection.execute(sa.select(guidelines).order_by(guidelines.c.version.desc())).all()
    return [{"version": r.version, "text": r.text, "quiz": r.quiz, "created_at": r.created_at} for r in rows]


def sensitive_tags(store: Store) -> list[str]:
    """The content warnings that questions carry."""
    with store.read() as connection:
        query = sa.select(questions.c.sensitive).where(questions.c.sensitive.is_not(None)).distinct()
        return sorted(connection.scalars(query))


def candidate_ids(store: Store, question: str) -> list[str]:
    """The candidates of a question in stored order."""
    with store.read() as connection:
        return list(
            connection.scalars(
                sa.select(candidates.c.completion_id)
                .where(candidates.c.question_id == question)
                .order_by(candidates.c.position)
            )
        )
