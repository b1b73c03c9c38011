"""What people agreed to, which guideline they have understood, and what they do not want to see."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from prefloop.errors import InputError
from prefloop.records import content_hash
from prefloop.store.annotators import is_of, require_annotator
from prefloop.store.asking import read_options
from prefloop.store.audit_log import append, audited
from prefloop.store.database import Store, any_of
from prefloop.store.tables import accounts, guidelines, quizzes, refusals
from prefloop.store.tables import consents as consent_table
from prefloop.store.values import check_word, in_chunks

EVERY_TAG = "*"
"""Refuses questions with any content warning."""


class QuizDue(InputError):
    """Somebody asks for a question who has yet to pass the guideline's quiz."""


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


def said_no(store: Store, purpose: str) -> set[str]:
    """Whoever last said no to this purpose; not those who were never asked."""
    query = sa.select(consent_table.c.annotator_id, consent_table.c.given).where(consent_table.c.purpose == purpose)
    with store.read() as connection:
        rows = connection.execute(query.order_by(consent_table.c.number)).all()
    newest = {row.annotator_id: row.given for row in rows}
    return {who for who, given in newest.items() if not given}


def record_quiz(store: Store, annotator: str, guideline_version: int, passed: bool) -> None:
    """Note how somebody did in the quiz of one version of the guideline; they may try again."""
    row = {"annotator_id": annotator, "guideline": guideline_version, "passed": passed, "at": datetime.now(UTC)}
    with audited(store) as connection:
        require_annotator(connection, annotator)
        if connection.scalar(sa.select(guidelines.c.version).where(guidelines.c.version == guideline_version)) is None:
            raise InputError(f"there is no guideline {guideline_version}")
        connection.execute(sa.insert(quizzes).values(row))
        append(connection, "quiz", annotator, annotator, content_hash([guideline_version, passed]))


def quiz_is_due(store: Store, annotator: str) -> bool:
    """Whether somebody has to pass the quiz of the newest guideline before they are asked anything."""
    with store.read() as connection:
        return annotator in owing_quiz(connection, [annotator])


def owing_quiz(connection: Connection, people: Iterable[str]) -> set[str]:
    """Those of these annotators who have to pass the quiz of the newest guideline first.

    A person who can sign in passes it on their page, and may then answer by a token, too. Whoever has no password (a
    machine, a program's token) reads no page and is asked without.
    """
    newest = connection.execute(_NEWEST_QUIZ).first()
    if newest is None or not newest.quiz or not read_options(connection).guideline_gate:
        return set()
    owing: set[str] = set()
    for chunk in in_chunks(sorted(people)):
        owing.update(connection.scalars(_OWING, {"people": chunk, "version": newest.version}))
    return owing


_NEWEST_QUIZ = sa.select(guidelines.c.version, guidelines.c.quiz).order_by(guidelines.c.version.desc()).limit(1)
_OWING = sa.select(accounts.c.annotator_id).where(
    any_of(accounts.c.annotator_id, "people"),
    accounts.c.password.is_not(None),
    ~sa.exists().where(
        quizzes.c.annotator_id == accounts.c.annotator_id,
        quizzes.c.guideline == sa.bindparam("version"),
        quizzes.c.passed.is_(True),
    ),
)


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
