"""Reports that take long to work out, kept: the newest of each name, and up to where in the store it looked.

They follow from the other tables, so one that is gone is made again, and erasure deletes them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from prefloop.store.database import Store, insert_new
from prefloop.store.tables import answers, events, reports

MOST_COUNTED = 10_000
"""Newer answers that are counted; from there on "more" is said."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """How far the store has come: the numbers of the newest event and the newest answer, 0 for none."""

    event: int
    answer: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found, from everything up to a moment."""

    moment: Moment
    made_at: datetime
    seconds: float
    """How long it took."""
    value: Any


def moment(store: Store) -> Moment:
    """How far the store has come."""
    with store.read() as connection:
        newest = [connection.scalar(sa.select(sa.func.max(t.c.number))) or 0 for t in (events, answers)]
    return Moment(event=newest[0], answer=newest[1])


def keep_report(store: Store, name: str, at: Moment, seconds: float, value: Any) -> None:
    """Keep this report, unless one of a later moment is there. One transaction: a crash leaves the old one."""
    row = {"name": name, "event": at.event, "answer": at.answer, "made_at": datetime.now(UTC), "seconds": seconds}
    with store.write() as connection:
        connection.execute(sa.delete(reports).where(reports.c.name == name, reports.c.event <= at.event))
        insert_new(connection, reports, [{**row, "value": value}])


def newest_report(store: Store, name: str, known: Report | None = None) -> Report | None:
    """The report of this name. `known`: one that was read before, which is given back when there is no other."""
    with store.read() as connection:
        made = connection.scalar(sa.select(reports.c.made_at).where(reports.c.name == name))
        if known is not None and made == known.made_at:
            return known
        row = connection.execute(sa.select(reports).where(reports.c.name == name)).first()
    if row is None:
        return None
    at = Moment(event=row.event, answer=row.answer)
    return Report(moment=at, made_at=row.made_at, seconds=row.seconds, value=row.value)


def answers_since(store: Store, at: Moment) -> int:
    """How many answers came after that moment, counted up to MOST_COUNTED."""
    newer = sa.select(answers.c.number).where(answers.c.number > at.answer).limit(MOST_COUNTED).subquery()
    with store.read() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(newer)) or 0)
