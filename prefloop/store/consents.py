"""What people agreed to, which guideline they have understood, and what they do not want to see."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from prefloop.errors import InputError
from prefloop.records import content_hash
from prefloop.store.annotators import is_of, require_annotator
from prefloop.store.audit_log import append, audited
from prefloop.store.database import Store
from prefloop.store.tables import consents as consent_table
from prefloop.store.tables import guidelines, quizzes, refusals
from prefloop.store.values import check_word

EVERY_TAG = "*"
"""Refuses questions with any content warning."""


@dataclass(frozen=True, kw_only=True)
class Consent:
    """What somebody last said about one purpose."""

    version: int
    given: bool
    at: datetime


def record_consent(
    store: Store, annotator: str, purpose: str, version: int, given: bool, *, by: str | None = None
) -> None:
    """Note that somebody agreed to one purpose (say "training"), in this version of its words, or took that back."""
    check_word(purpose, "purpose")
    row = {"annotator_id": annotator, "purpose": purpose, "version": version, "given": given, "at": datetime.now(UTC)}
    with audited(store) as connection:
        require_annotator(connection, annotator)
        connection.execute(sa.insert(consent_table).values(row))
        append(connection, "consent", by or annotator, annotator, content_hash([purpose, version, given]))


def consents(store: Store, annotator: str) -> dict[str, Consent]:
    """What somebody last said about each purpose that they were asked about."""
    query = sa.select(consent_table).where(is_of(consent_table, annotator)).order_by(consent_table.c.number)
    with store.read() as connection:
        rows = connection.execute(query).all()
    return {row.purpose: Consent(version=row.version, given=row.given, at=row.at) for row in rows}


def record_quiz(store: Store, annotator: str, guideline_version: int, passed: bool) -> None:
    """Note how somebody did in the quiz of one version of the guideline; they may try again."""
    row = {"annotator_id": annotator, "guideline": guideline_version, "passed": passed, "at": datetime.now(UTC)}
    with audited(store) as connection:
        require_annotator(connection, annotator)
        if connection.scalar(sa.select(guidelines.c.version).where(guidelines.c.version == guideline_version)) is None:
            raise InputError(f"there is no guideline {guideline_version}")
        connection.execute(sa.insert(quizzes).values(row))
        append(connection, "quiz", annotator, annotator, content_hash([guideline_version, passed]))


def quiz_passed(store: Store, annotator: str, guideline_version: int) -> bool:
    """Whether somebody has ever passed the quiz of this version; one without a quiz needs no passing."""
    passed = sa.exists().where(
        is_of(quizzes, annotator), quizzes.c.guideline == guideline_version, quizzes.c.passed.is_(True)
    )
    with store.read() as connection:
        quiz = connection.scalar(sa.select(guidelines.c.quiz).where(guidelines.c.version == guideline_version))
        return not quiz or bool(connection.scalar(sa.select(passed)))


def set_refusals(store: Store, annotator: str, tags: Iterable[str]) -> None:
    """The content warnings that somebody does not want to see from now on; `*` stands for each and every one."""
    wanted = sorted(set(tags))
    for tag in wanted:
        check_word(tag, "tag")
    with audited(store) as connection:
        require_annotator(connection, annotator)
        connection.execute(sa.delete(refusals).where(is_of(refusals, annotator)))
        if wanted:
            connection.execute(sa.insert(refusals), [{"annotator_id": annotator, "tag": tag} for tag in wanted])
        append(connection, "refusal", annotator, annotator, content_hash(wanted))


def refused(store: Store, annotator: str) -> list[str]:
    """The content warnings that somebody does not want to see."""
    with store.read() as connection:
        query = sa.select(refusals.c.tag).where(is_of(refusals, annotator)).order_by(refusals.c.tag)
        return list(connection.scalars(query))
