"""Erasure: what somebody said, or a text, leaves the store; a tombstone stays, and the audit log can still be verified.

    an answer       what it says, its key and its columns
    a completion    its text and sampling settings, and every answer to a question that showed it
    a prompt        its messages, its completions, and every answer to its questions
    an annotator    name, profile, account, ways in and roles, and every answer they gave

Blanked cells are overwritten with zeros (`secure_delete`), then the file is rewritten (`VACUUM`), so that no page holds
the bytes; PostgreSQL rewrites the tables (`VACUUM FULL`), while its write-ahead log and archives of it are the
server's. Ids stay. A prompt's or completion's id is a hash of its content: who has the text can tell that it was here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from prefloop.errors import InputError, RunError
from prefloop.records import content_hash
from prefloop.store.audit_log import OPERATOR, Entry, append, append_many, audited, roles_commitment
from prefloop.store.database import Store
from prefloop.store.sqlite import sqlite3
from prefloop.store.tables import (
    accounts,
    annotators,
    answers,
    audiences,
    candidates,
    completions,
    gold,
    invitations,
    leases,
    prompts,
    questions,
    refusals,
    reports,
    roles,
    sessions,
    slots,
    tokens,
    tombstones,
)
from prefloop.store.values import check_storable, in_chunks

SubjectKind = Literal["answer", "completion", "prompt", "annotator"]


@dataclass
class Erased:
    """What was erased, now or before: ids. `now` counts the rows that still held something."""

    kind: SubjectKind
    subject: str
    now: int = 0
    answers: list[str] = field(default_factory=list)
    completions: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    texts: set[str] = field(default_factory=set, repr=False)
    """What was there, for the caller to look for in files; it must not be kept."""


def subject_kind(store: Store, subject: str) -> SubjectKind:
    """What this id is the id of. Raises InputError, with a hint where the id of a name is meant."""
    tables: dict[SubjectKind, sa.Table] = {
        "annotator": annotators,
        "answer": answers,
        "prompt": prompts,
        "completion": completions,
    }
    check_storable(subject, "subject")
    with store.read() as connection:
        for kind, table in tables.items():
            if connection.scalar(sa.select(table.c.id).where(table.c.id == subject)) is not None:
                return kind
        named = connection.scalar(sa.select(annotators.c.id).where(annotators.c.name == subject))
    hint = f"{subject!r} is the name of {named}: give that id" if named else "give the id of one of these"
    raise InputError(f"the store has no annotator, answer, prompt or completion with the id {subject!r:.80}; {hint}")


def erase_subject(
    store: Store,
    subject: str,
    *,
    reason: str,
    by: str = OPERATOR,
    before: Callable[[Erased], None] | None = None,
) -> Erased:
    """Erase one subject and all that follows from it, in one transaction. What was erased before stays so.

    `before` is called with what is about to go, texts included, and before it is gone for good: to remove it from
    files. When it raises, the store is as it was, and erasing can be tried again.

    Raises InputError for an unknown id and for a machine, which has no personal data (erase its answers).
    Call `scrub` afterwards: until then, freed pages of the database may still be read.
    """
    check_storable(reason, "reason")
    kind = subject_kind(store, subject)
    if kind == "annotator" and subject.partition(":")[0] in ("simulated", "ai"):
        raise InputError(f"{subject} is a machine and no person; give the ids of its answers")
    done = Erased(kind, subject)
    with audited(store) as connection:
        tomb = _Tomb(connection, done, reason, by)
        if kind == "annotator":
            tomb.annotator(subject)
        elif kind == "prompt":
            tomb.prompts([subject])
        elif kind == "completion":
            tomb.completions([subject])
        else:
            tomb.answers(answers.c.id == subject)
        done.answers = list(dict.fromkeys(done.answers))
        done.completions = list(dict.fromkeys(done.completions))
        if before is not None:
            before(done)
    return done


def bury_again(store: Store, known: Sequence[tuple[str, str, str | None]]) -> int:
    """Erase what had been erased before an older copy of the store was restored: (kind, id, reason). Returns how many.

    Ids that the copy does not know are passed over.
    """
    n = 0
    with audited(store) as connection:
        for kind, identity, reason in known:
            tomb = _Tomb(connection, Erased(kind, identity), reason or "", OPERATOR)  # type: ignore[arg-type]
            before = connection.scalar(sa.select(sa.func.count()).select_from(tombstones)) or 0
            if kind == "annotator":
                tomb.annotator(identity)
            elif kind == "prompt":
                tomb.prompts([identity])
            elif kind == "completion":
                tomb.completions([identity])
            else:
                tomb.answers(answers.c.id == identity)
            n += (connection.scalar(sa.select(sa.func.count()).select_from(tombstones)) or 0) - before
    return n


def buried(store: Store) -> list[tuple[str, str, str | None]]:
    """Everything that was erased: (kind, id, reason)."""
    with store.read() as connection:
        rows = connection.execute(sa.select(tombstones).order_by(tombstones.c.at, tombstones.c.subject_id))
        return [(row.subject, row.subject_id, row.reason) for row in rows]


def scrub(store: Store) -> str:
    """Rewrite the database so that no freed page holds what was erased. Returns what this could not reach, in words."""
    if store.dialect == "sqlite":
        _rewrite_sqlite(store)
        return "copies that were made of the database file by other means than prefloop backup"
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in (answers, prompts, completions, annotators, accounts, gold, reports):
            connection.execute(sa.text(f"VACUUM FULL {table.name}"))
    return "the server's write-ahead log and its archives, and copies made by other means than prefloop backup"


def _rewrite_sqlite(store: Store) -> None:
    with store.hold():
        store.engine.dispose()  # a checkpoint waits for readers of this process otherwise
        raw = store.engine.raw_connection()
        try:
            raw.execute("VACUUM")
            if raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                raise sqlite3.OperationalError("somebody is reading it")
        except sqlite3.OperationalError as error:
            raise RunError(
                f"everything was erased, but the database file could not be rewritten ({error}), so that freed pages "
                "may still hold names of what was there; stop the programs that read it, then erase again"
            ) from None
        finally:
            raw.close()


class _Tomb:
    """Blanks rows under tombstones, within one transaction."""

    def __init__(self, connection: Connection, done: Erased, reason: str, by: str) -> None:
        self.connection = connection
        self.done = done
        self.reason = reason
        self.by = by
        self.now = datetime.now(UTC)

    def answers(self, which: sa.ColumnElement[bool]) -> None:
        every = self.connection.execute(sa.select(answers).where(which)).all()
        rows = [row for row in every if row.value is not None]
        for row in rows:
            self.done.texts.update(texts_in(row.value))
            self.done.texts.update(texts_in(row.columns))
        self._bury("answer", [(row.id, row.hash) for row in rows])
        for chunk in in_chunks([row.id for row in rows]):
            self.connection.execute(
                sa.update(answers)
                .where(answers.c.id.in_(chunk))
                .values(value=sa.null(), key=sa.null(), columns=sa.null())
            )
        self.done.answers += [row.id for row in every]
        self.done.now += len(rows)

    def completions(self, ids: Sequence[str]) -> None:
        for chunk in in_chunks(list(ids)):
            shown = sa.select(candidates.c.question_id).where(candidates.c.completion_id.in_(chunk))
            self.answers(answers.c.question_id.in_(shown))
            self._close(shown)
            live = self.connection.execute(
                sa.select(completions).where(completions.c.id.in_(chunk), completions.c.text.is_not(None))
            ).all()
            self.done.texts.update(row.text for row in live)
            self._bury("completion", [(row.id, None) for row in live])
            self.connection.execute(
                sa.update(completions)
                .where(completions.c.id.in_([row.id for row in live]))
                .values(text=sa.null(), sampling=sa.null())
            )
            self.done.completions += chunk
            self.done.now += len(live)

    def prompts(self, ids: Sequence[str]) -> None:
        for chunk in in_chunks(list(ids)):
            about = sa.select(questions.c.id).where(questions.c.prompt_id.in_(chunk))
            self.answers(answers.c.question_id.in_(about))
            self._close(about)
            written = sa.select(completions.c.id).where(completions.c.prompt_id.in_(chunk))
            self.completions(list(self.connection.scalars(written)))
            live = self.connection.execute(
                sa.select(prompts).where(prompts.c.id.in_(chunk), prompts.c.messages.is_not(None))
            ).all()
            for row in live:
                self.done.texts.update(message["content"] for message in row.messages)
                self.done.texts.update(texts_in(row.columns))
            self._bury("prompt", [(row.id, None) for row in live])
            self.connection.execute(
                sa.update(prompts)
                .where(prompts.c.id.in_([row.id for row in live]))
                .values(messages=sa.null(), columns=sa.null())
            )
            self.done.prompts += chunk
            self.done.now += len(live)

    def annotator(self, who: str) -> None:
        self.answers(answers.c.annotator_id == who)
        row = self.connection.execute(sa.select(annotators).where(annotators.c.id == who)).first()
        if row is None or row.name == f"erased {who}":
            return
        self.done.texts.add(row.name)
        self.done.texts.update(texts_in(row.profile))
        for table in (sessions, tokens, refusals, roles, accounts):
            self.connection.execute(sa.delete(table).where(table.c.annotator_id == who))
        self.connection.execute(sa.delete(invitations).where(invitations.c.annotator_id == who))
        self.done.now += 1
        append(self.connection, "roles", self.by, who, roles_commitment([]))
        self._bury("annotator", [(who, None)])
        self.connection.execute(
            sa.update(annotators).where(annotators.c.id == who).values(name=f"erased {who}", profile=sa.null())
        )

    def _bury(self, kind: SubjectKind, ids: Sequence[tuple[str, str | None]]) -> None:
        if not ids:
            return
        self.connection.execute(
            sa.insert(tombstones),
            [
                {"subject": kind, "subject_id": identity, "hash": hashed, "reason": self.reason, "at": self.now}
                for identity, hashed in ids
            ],
        )
        self.connection.execute(sa.delete(reports))  # made from it; made again from what is left
        append_many(
            self.connection,
            [Entry("erasure", self.by, identity, hashed or content_hash([kind, identity])) for identity, hashed in ids],
        )

    def _close(self, about: sa.Select[Any]) -> None:
        """Nobody is asked these questions any more; a known answer to them may quote the text, and goes."""
        leased = sa.select(leases.c.slot_id).where(leases.c.question_id.in_(about))
        free = sa.and_(slots.c.question_id.in_(about), slots.c.answer_id.is_(None))
        self.connection.execute(sa.delete(slots).where(free, slots.c.id.not_in(leased)))
        self.connection.execute(sa.update(slots).where(free).values(restricted=True, gold=False))
        self.connection.execute(sa.delete(audiences).where(audiences.c.question_id.in_(about)))
        self.connection.execute(sa.delete(gold).where(gold.c.question_id.in_(about)))


def texts_in(value: Any) -> Iterable[str]:
    """Every text in a JSON value; not the keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_in(inner)
