"""How much of everything there is, from counts that triggers keep: as quick with 100,000 questions as with one.

A slot's tallies have two marks, ordinary (neither gold, which is never used up, nor a repeat, which is for one
annotator) and done; an answer's have the annotator's kind and then skipped, late, repeat, adjudication. Only answers
that stand (neither corrected nor erased) are tallied. Which slots are being answered now depends on the time, so they
are counted: by an index that holds just them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from prefloop.store.database import Store
from prefloop.store.tables import activity, annotators, completions, gold, prompts, slots, tallies, tombstones

ORDINARY = slots.c.gold.is_(False) & slots.c.reserved_for.is_(None)


@dataclass(frozen=True)
class SlotCounts:
    """Slots of one kind of question."""

    kind: str
    all: int
    done: int
    leased: int


def counts(store: Store) -> dict[str, Any]:
    """How much of everything there is; `answers` are those that stand (neither corrected nor erased).

    `slots` leaves out gold, which is never used up, and repeats, which are for one annotator each.
    """
    with store.read() as connection:

        def rows_of(table: sa.Table, *where: sa.ColumnElement[bool]) -> int:
            return int(connection.execute(sa.select(sa.func.count()).select_from(table).where(*where)).scalar_one())

        kinds, who, marked, ordinary = Counter[str](), Counter[str](), Counter[int](), Counter[str]()
        for row in connection.execute(sa.select(tallies).where(tallies.c.n != 0)):
            if row.what == "answer":
                kind, _, marks = row.marks.partition(" ")
                kinds[row.kind] += row.n
                who[kind] += row.n
                marked.update({place: row.n for place, mark in enumerate(marks) if mark == "1"})
            elif row.what == "slot" and row.marks[0] == "1":
                ordinary[row.marks[1]] += row.n
        leased = sum(_leased(connection, datetime.now(UTC), ORDINARY).values())
        people = sa.select(annotators.c.kind, sa.func.count()).group_by(annotators.c.kind)
        return {
            "annotators": dict(sorted(tuple(row) for row in connection.execute(people))),
            "prompts": rows_of(prompts),
            "completions": rows_of(completions),
            "questions": question_counts(connection),
            "answers": dict(sorted(kinds.items())),
            "answers_by": dict(sorted(who.items())),
            "skipped": marked[0],
            "late": marked[1],
            "corrections": int(connection.scalar(sa.select(sa.func.sum(activity.c.corrections))) or 0),
            "erased": rows_of(tombstones, tombstones.c.subject == "answer"),
            "repeats": marked[2],
            "adjudications": marked[3],
            "gold": rows_of(gold),
            "slots": {"open": ordinary["0"] - leased, "leased": leased, "done": ordinary["1"]},
        }


def slot_counts(connection: Connection, now: datetime) -> list[SlotCounts]:
    """Slots by kind of question, gold and repeats included."""
    found: dict[str, Counter[str]] = {}
    for row in connection.execute(sa.select(tallies).where(tallies.c.what == "slot")):
        found.setdefault(row.kind, Counter())[row.marks[1]] += int(row.n)
    leased = _leased(connection, now)
    return [SlotCounts(kind, n["0"] + n["1"], n["1"], leased.get(kind, 0)) for kind, n in sorted(found.items())]


def question_counts(connection: Connection) -> dict[str, int]:
    """Questions by kind."""
    rows = connection.execute(sa.select(tallies.c.kind, tallies.c.n).where(tallies.c.what == "question"))
    return dict(sorted(tuple(row) for row in rows))


def _leased(connection: Connection, now: datetime, *which: sa.ColumnElement[bool]) -> dict[str, int]:
    """Slots that somebody holds now, by kind."""
    held = slots.c.answer_id.is_(None) & slots.c.annotator_id.is_not(None)
    query = sa.select(slots.c.kind, sa.func.count()).where(held, slots.c.expires_at > now, *which)
    return {kind: int(n) for kind, n in connection.execute(query.group_by(slots.c.kind))}
