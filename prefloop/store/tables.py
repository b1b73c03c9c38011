"""The tables of the store. What people said is only ever added to; nothing is overwritten.

    annotators ─┐                     who answers: a person, or a machine that is marked as one
    prompts ────┼─ completions        what is asked about
    questions ──┴─ candidates         one request for feedback, its candidates in stored order
    slots ── leases                   the right to answer, and who holds it until when
    answers                           what was said, as it was said; a correction names the old answer
    tombstones                        what was erased: id and hash stay, the text and its key do not
    events                            the audit log: a hash chain over every change of what people said and may do
    accounts, roles, refusals         who may sign in, and what they may and want to answer
    sessions, tokens, invitations     the ways in; only hashes of their secrets are kept
    consents, quizzes                 what people agreed to, and which guideline they have understood
    gold, audiences, options          what the queue goes by: known answers, who may answer, shares
    rulings                           what leads decided about findings on somebody's answers
    exports                           every file that left, so that erasure can name or remove it
    webhooks, outbox                  who is told of finished questions, and what they have yet to be told
    tallies, activity, shared         counts of the above, kept by triggers, so that a page need not count
    reports                           figures that take long, worked out from the above beside the running app

Triggers (made by the migrations) let prompts, completions, questions, candidates, answers, events, consents, quizzes
and rulings be neither changed nor deleted; the one exception is blanking a text, or a person's name, under a tombstone.
`alembic` owns the schema: a change here needs a revision in `migrations/versions`, and a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
    true,
)
from sqlalchemy.engine import Dialect

from prefloop.records import canonical_json

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class Json(TypeDecorator[Any]):
    """A JSON value as canonical text: the same bytes on every database, so that it can be hashed again."""

    impl = Text
    cache_ok = True

    # The processors themselves, where a `process_bind_param` would be called by one for each value.
    def bind_processor(self, dialect: Dialect) -> Callable[[Any], str | None]:
        return lambda value: None if value is None else canonical_json(value)

    def result_processor(self, dialect: Dialect, coltype: Any) -> Callable[[str | None], Any]:
        return lambda value: None if value is None else json.loads(value)


class Time(TypeDecorator[datetime]):
    """An aware UTC time as microseconds since 1970: exact, and ordered alike on every database."""

    impl = BigInteger
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[datetime | None], int | None]:
        return lambda value: None if value is None else (value - EPOCH) // MICROSECOND

    def result_processor(self, dialect: Dialect, coltype: Any) -> Callable[[int | None], datetime | None]:
        return lambda value: None if value is None else EPOCH + timedelta(microseconds=value)


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

# SQLite counts rows by itself only when the key is exactly INTEGER.
Counter = BigInteger().with_variant(Integer, "sqlite")

annotators = Table(
    "annotators",
    metadata,
    Column("id", String(200), primary_key=True),  # pseudonymous; `simulated:` and `ai:` mark machines
    Column("name", String(400), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("profile", Json),
    Column("created_at", Time, nullable=False),
    CheckConstraint("kind IN ('person', 'simulated', 'ai')", name="kind"),
    CheckConstraint("(kind = 'simulated') = (id LIKE 'simulated:%')", name="simulated"),
    CheckConstraint("(kind = 'ai') = (id LIKE 'ai:%')", name="ai"),
)

prompts = Table(
    "prompts",
    metadata,
    Column("id", String(16), primary_key=True),  # records.prompt_id
    Column("messages", Json),  # NULL once erased
    Column("source", Text),
    Column("licence", Text),
    Column("columns", Json),
    Column("created_at", Time, nullable=False),
)

completions = Table(
    "completions",
    metadata,
    Column("id", String(24), primary_key=True),
    Column("prompt_id", String(16), ForeignKey("prompts.id"), nullable=False),
    Column("text", Text),  # NULL once erased
    Column("policy", Text),  # hash or name of the policy that wrote it; NULL when nobody knows
    Column("sampling", Json),
    Column("terminated", Boolean),  # ended by itself (True) or by the length limit; NULL when nobody knows
    Column("created_at", Time, nullable=False),
    Index("ix_completions_prompt_id", "prompt_id"),
)

guidelines = Table(
    "guidelines",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("text", Text, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("quiz", Json),  # [{"question", "options": [...], "correct": index}]; NULL: none gates this version
)

questions = Table(
    "questions",
    metadata,
    Column("number", Counter, primary_key=True, autoincrement=True),  # the order in which they were asked
    Column("id", String(24), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("prompt_id", String(16), ForeignKey("prompts.id"), nullable=False),
    Column("overlap", Integer, nullable=False),  # how many annotators are wanted; 0 for imported questions
    Column("round", Integer, nullable=False),
    Column("seed", BigInteger, nullable=False),  # of the candidates' order; see queue.presented_order
    Column("guideline", Integer, ForeignKey("guidelines.version")),
    Column("source", Text),
    Column("licence", Text),
    Column("columns", Json),
    Column("created_at", Time, nullable=False),
    Column("most", Integer),  # answers at most, when the overlap policy wants more than `overlap`; NULL: no more
    Column("sensitive", String(64)),  # a content warning, such as "violence", that annotators may refuse
    CheckConstraint("overlap >= 0", name="overlap"),
)
Index(
    "ix_questions_sensitive",
    questions.c.sensitive,
    sqlite_where=text("sensitive IS NOT NULL"),
    postgresql_where=text("sensitive IS NOT NULL"),
)

candidates = Table(
    "candidates",
    metadata,
    Column("question_id", String(24), ForeignKey("questions.id"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),  # 0 is "a" in the stored order
    Column("completion_id", String(24), ForeignKey("completions.id"), nullable=False),
    UniqueConstraint("question_id", "completion_id"),
    Index("ix_candidates_completion_id", "completion_id"),
)

answers = Table(
    "answers",
    metadata,
    Column("number", Counter, primary_key=True, autoincrement=True),  # commit order: a cursor skips nothing
    Column("id", String(24), nullable=False, unique=True),
    Column("question_id", String(24), ForeignKey("questions.id"), nullable=False),
    Column("annotator_id", String(200), ForeignKey("annotators.id"), nullable=False),
    Column("ordinal", Integer, nullable=False),  # 0 is this annotator's first word on this question
    Column("replaces", String(24), ForeignKey("answers.id"), unique=True),  # the answer that this one corrects
    Column("value", Json),  # as said, in the presented order; NULL once erased
    Column("key", String(64)),  # of `hash`; destroyed with the value, so that the hash then tells nothing
    Column("hash", String(64), nullable=False),  # keyed commitment to what was said
    Column("presented_order", Json, nullable=False),  # completion ids, as this annotator saw them
    Column("skipped", Boolean, nullable=False),
    Column("late", Boolean, nullable=False),  # came after its lease: kept, but outside overlap and consensus
    Column("seconds", Float),
    Column("source", Text),
    Column("licence", Text),
    Column("columns", Json),
    Column("idempotency_key", String(200)),
    Column("at", Time, nullable=False),
    Column("repeat_of", String(24), ForeignKey("answers.id")),  # asked again, swapped: outside overlap and consensus
    Column("adjudication", Boolean, nullable=False, server_default=false()),  # settles what others disagreed about
    UniqueConstraint("question_id", "annotator_id", "ordinal"),
    UniqueConstraint("annotator_id", "idempotency_key"),
    Index("ix_answers_annotator_id_number", "annotator_id", "number"),
)

slots = Table(
    "slots",
    metadata,
    Column("id", Counter, primary_key=True, autoincrement=True),
    Column("question_id", String(24), ForeignKey("questions.id"), nullable=False),
    Column("n", Integer, nullable=False),  # 0 .. overlap-1: a first answer to everything comes before a second
    Column("kind", String(16), nullable=False),
    Column("priority", Integer, nullable=False),  # smaller is asked sooner
    Column("annotator_id", String(200), ForeignKey("annotators.id")),
    Column("token", String(64)),  # of the newest lease
    Column("expires_at", Time),
    Column("answer_id", String(24), ForeignKey("answers.id")),  # not NULL: done
    Column("gold", Boolean, nullable=False, server_default=false()),  # the answer is known; see asking.py
    Column("restricted", Boolean, nullable=False, server_default=false()),  # to the question's `audiences`
    Column("sensitive", String(64)),  # of the question
    Column("reserved_for", String(200), ForeignKey("annotators.id")),  # a repeat, which only this annotator gets
    Column("repeat_of", String(24), ForeignKey("answers.id")),
    UniqueConstraint("question_id", "n"),
)
# Partial, for SQLite believes that few rows have a NULL there and would look for the free slots in a full index.
Index(
    "ix_slots_answer_id",
    slots.c.answer_id,
    unique=True,
    sqlite_where=text("answer_id IS NOT NULL"),
    postgresql_where=text("answer_id IS NOT NULL"),
)
Index(
    "ix_slots_open",
    slots.c.priority,
    slots.c.n,
    slots.c.id,
    sqlite_where=text("answer_id IS NULL"),
    postgresql_where=text("answer_id IS NULL"),
)
Index(
    "ix_slots_held",
    slots.c.annotator_id,
    slots.c.question_id,
    sqlite_where=text("answer_id IS NULL AND annotator_id IS NOT NULL"),
    postgresql_where=text("answer_id IS NULL AND annotator_id IS NOT NULL"),
)
Index(
    "ix_slots_reserved",
    slots.c.reserved_for,
    sqlite_where=text("answer_id IS NULL AND reserved_for IS NOT NULL"),
    postgresql_where=text("answer_id IS NULL AND reserved_for IS NOT NULL"),
)

leases = Table(
    "leases",
    metadata,
    Column("token", String(64), primary_key=True),
    Column("slot_id", Counter, ForeignKey("slots.id"), nullable=False),
    Column("question_id", String(24), ForeignKey("questions.id"), nullable=False),
    Column("annotator_id", String(200), ForeignKey("annotators.id"), nullable=False),
    Column("presented_order", Json, nullable=False),
    Column("issued_at", Time, nullable=False),
    Column("expires_at", Time, nullable=False),
    Column("answer_id", String(24), ForeignKey("answers.id")),
    Column("repeat_of", String(24), ForeignKey("answers.id")),
)

tombstones = Table(
    "tombstones",
    metadata,
    Column("subject", String(16), nullable=False, primary_key=True),  # answer, completion, prompt or annotator
    Column("subject_id", String(200), nullable=False, primary_key=True),
    Column("hash", String(64)),
    Column("reason", Text),
    Column("at", Time, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),  # 1, 2, 3, ... without a gap
    Column("at", Time, nullable=False),
    Column("event", String(32), nullable=False),
    Column("by", String(200), nullable=False),  # a pseudonymous id, or `operator` for the command line
    Column("subject", String(200), nullable=False),
    Column("commitment", String(64), nullable=False),  # to what was said or set; never the text
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("ix_events_subject", "subject"),
)

accounts = Table(
    "accounts",
    metadata,
    Column("annotator_id", String(200), ForeignKey("annotators.id"), primary_key=True),
    Column("password", Text),  # scrypt, with its parameters and salt; NULL: cannot sign in with one
    Column("active", Boolean, nullable=False, server_default=true()),
    Column("created_at", Time, nullable=False),
)

roles = Table(
    "roles",
    metadata,
    Column("annotator_id", String(200), ForeignKey("annotators.id"), primary_key=True),
    Column("role", String(16), primary_key=True),
    CheckConstraint("role IN ('admin', 'lead', 'adjudicator', 'annotator', 'viewer')", name="role"),
)

refusals = Table(
    "refusals",
    metadata,
    Column("annotator_id", String(200), ForeignKey("annotators.id"), primary_key=True),
    Column("tag", String(64), primary_key=True),  # of `questions.sensitive`; `*` refuses every one
)

sessions = Table(
    "sessions",
    metadata,
    Column("secret", String(64), primary_key=True),  # SHA-256
    Column("annotator_id", String(200), ForeignKey("annotators.id"), nullable=False),
    Column("created_at", Time, nullable=False),
    Column("expires_at", Time, nullable=False),
    Index("ix_sessions_annotator_id", "annotator_id"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(24), primary_key=True),
    Column("secret", String(64), nullable=False, unique=True),  # SHA-256
    Column("annotator_id", String(200), ForeignKey("annotators.id"), nullable=False),
    Column("role", String(16), nullable=False),
    Column("created_by", String(200), nullable=False),
    Column("created_at", Time, nullable=False),
    Column("expires_at", Time),
    Column("revoked_at", Time),
    Index("ix_tokens_annotator_id", "annotator_id"),
)

invitations = Table(
    "invitations",
    metadata,
    Column("secret", String(64), primary_key=True),  # SHA-256
    Column("purpose", String(16), nullable=False),
    Column("role", String(16), nullable=False),
    Column("annotator_id", String(200), ForeignKey("annotators.id")),  # whose password a reset is for
    Column("created_by", String(200), nullable=False),
    Column("created_at", Time, nullable=False),
    Column("expires_at", Time, nullable=False),
    Column("used_at", Time),
    Column("used_by", String(200), ForeignKey("annotators.id")),
    CheckConstraint("purpose IN ('invitation', 'reset', 'first_admin')", name="purpose"),
)

consents = Table(
    "consents",
    metadata,
    Column("number", Counter, primary_key=True, autoincrement=True),
    Column("annotator_id", String(200), ForeignKey("annotators.id"), nullable=False),
    Column("purpose", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("given", Boolean, nullable=False),
    Column("at", Time, nullable=False),
    Index("ix_consents_annotator_id", "annotator_id"),
)

quizzes = Table(
    "quizzes",
    metadata,
    Column("number", Counter, primary_key=True, autoincrement=True),
    Column("annotator_id", String(200), ForeignKey("annotators.id"), nullable=False),
    Column("guideline", Integer, ForeignKey("guidelines.version"), nullable=False),
    Column("passed", Boolean, nullable=False),
    Column("at", Time, nullable=False),
    Index("ix_quizzes_annotator_id", "annotator_id"),
)

rulings = Table(
    "rulings",
    metadata,
    Column("number", Counter, primary_key=True, autoincrement=True),
    Column("annotator_id", String(200), ForeignKey("annotators.id"), nullable=False),
    Column("decision", String(16), nullable=False),
    Column("findings", Json, nullable=False),  # the names of those that were seen
    Column("by", String(200), nullable=False),
    Column("at", Time, nullable=False),
    CheckConstraint("decision IN ('keep', 'exclude', 'as_found')", name="decision"),
)

gold = Table(
    "gold",
    metadata,
    Column("question_id", String(24), ForeignKey("questions.id"), primary_key=True),
    Column("value", Json, nullable=False),  # the right answer, in the stored order
)

audiences = Table(
    "audiences",
    metadata,
    Column("question_id", String(24), ForeignKey("questions.id"), primary_key=True),
    Column("member", String(200), primary_key=True),  # a role, or an annotator's id
)

options = Table(
    "options",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Json, nullable=False),
)

exports = Table(
    "exports",
    metadata,
    Column("number", Counter, primary_key=True, autoincrement=True),
    Column("kind", String(16), nullable=False),  # export or backup
    Column("path", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("snapshot", String(64)),  # the artifact that was exported
    Column("purpose", String(64)),
    Column("by", String(200), nullable=False),
    Column("at", Time, nullable=False),
    Column("removed_at", Time),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", String(24), primary_key=True),
    Column("url", Text, nullable=False),
    Column("secret", String(64), nullable=False),  # signs what is sent, so it must be kept as it is
    Column("active", Boolean, nullable=False, server_default=true()),
    Column("created_by", String(200), nullable=False),
    Column("created_at", Time, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("number", Counter, primary_key=True, autoincrement=True),
    Column("webhook_id", String(24), ForeignKey("webhooks.id"), nullable=False),
    Column("event", String(32), nullable=False),
    Column("body", Json, nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("due_at", Time),  # NULL: delivered, or given up
    Column("delivered_at", Time),
    Column("error", Text),  # of the last attempt
    Column("created_at", Time, nullable=False),
    Index("ix_outbox_due_at", "due_at"),
)

tallies = Table(
    "tallies",
    metadata,
    Column("what", String(16), primary_key=True),  # question, slot or answer (one that stands)
    Column("kind", String(16), primary_key=True),  # of the question
    # slot: ordinary (neither gold nor a repeat), done; answer: the annotator's kind, then skipped, late, a repeat, an
    # adjudication; each 0 or 1
    Column("marks", String(64), primary_key=True),
    Column("n", BigInteger, nullable=False),
)

activity = Table(
    "activity",
    metadata,
    Column("annotator_id", String(200), ForeignKey("annotators.id"), primary_key=True),
    Column("day", Integer, primary_key=True, autoincrement=False),  # since 1970, UTC
    Column("answers", BigInteger, nullable=False),  # first words on a question, skips included
    Column("skipped", BigInteger, nullable=False),  # of those
    Column("corrections", BigInteger, nullable=False),
    Column("last_at", Time, nullable=False),
    Index("ix_activity_day", "day"),
)

shared = Table(
    "shared",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),  # of a question answered by more than one
    Column("kind", String(16), nullable=False),
    Index("ix_shared_kind_number", "kind", "number"),
)

reports = Table(
    "reports",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("event", BigInteger, nullable=False),  # the newest one when it was begun
    Column("answer", BigInteger, nullable=False),  # so
    Column("made_at", Time, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("value", Json, nullable=False),
)
