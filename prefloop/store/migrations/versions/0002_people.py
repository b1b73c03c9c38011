"""People: accounts, ways in, consents, the audit log, and what the queue needs to ask each person the right questions.

Revision 0002. A revision never changes once it is released, so it repeats the schema and the arithmetic of the hash
chain instead of importing them. What was answered before is entered into the chain in the order in which it came.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

from prefloop.records import canonical_json

revision = "0002"
down_revision = "0001"

APPEND_ONLY = ("events", "consents", "quizzes")
"""New tables of which no row is ever deleted or changed. Those of 0001 stay so ..."""

ERASABLE: dict[str, tuple[str, dict[str, str]]] = {
    "prompts": ("prompt", {"messages": "NULL", "columns": "NULL"}),
    "completions": ("completion", {"text": "NULL", "sampling": "NULL"}),
    "answers": ("answer", {"value": "NULL", "key": "NULL", "columns": "NULL"}),
    "annotators": ("annotator", {"name": "'erased ' || OLD.id", "profile": "NULL"}),
}
"""... but for these columns, which may be set to this, all together, once a tombstone names the row."""

PAGE = 1000


def upgrade() -> None:
    for table in (*ERASABLE, "tombstones"):
        allow_changes(table)
    with op.batch_alter_table("tombstones") as tombstones:
        tombstones.alter_column("subject_id", type_=sa.String(length=200), existing_nullable=False)
    add_columns()
    create_tables()
    enter_what_was_said()
    for table in (*ERASABLE, "tombstones", *APPEND_ONLY):
        forbid_changes(table)


def counter() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def allow_changes(table: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"DROP TRIGGER IF EXISTS {table}_keep")
        op.execute(f"DROP TRIGGER IF EXISTS {table}_fixed")
        return
    op.execute(f"DROP FUNCTION IF EXISTS {table}_append_only() CASCADE")


def forbid_changes(table: str) -> None:
    """Triggers that refuse UPDATE and DELETE (and TRUNCATE, where there is such a thing)."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    allowed = allowed_update(table, same="IS" if sqlite else "IS NOT DISTINCT FROM")
    message = f"{table} are append-only: nothing is changed or deleted"
    if sqlite:
        op.execute(f"CREATE TRIGGER {table}_keep BEFORE DELETE ON {table} BEGIN SELECT RAISE(ABORT, '{message}'); END")
        op.execute(
            f"CREATE TRIGGER {table}_fixed BEFORE UPDATE ON {table} WHEN NOT ({allowed}) "
            f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
        )
        return
    op.execute(
        f"CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF TG_OP = 'UPDATE' THEN IF {allowed} THEN RETURN NEW; END IF; END IF; "
        f"RAISE EXCEPTION '{message}' USING ERRCODE = 'restrict_violation'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_fixed BEFORE UPDATE OR DELETE ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION {table}_append_only()"
    )
    op.execute(
        f"CREATE TRIGGER {table}_keep BEFORE TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()"
    )


def allowed_update(table: str, same: str) -> str:
    """The condition, over OLD and NEW, under which a row may change."""
    if table not in ERASABLE:
        return "1 = 0"
    subject, blanked = ERASABLE[table]
    fixed = [column["name"] for column in sa.inspect(op.get_bind()).get_columns(table) if column["name"] not in blanked]
    conditions = [f"NEW.{name} {same} {blank}" for name, blank in blanked.items()]
    conditions += [f"NEW.{name} {same} OLD.{name}" for name in fixed]
    # Names of tables and columns of this file, no input.
    buried = f"EXISTS (SELECT 1 FROM tombstones WHERE subject = '{subject}' AND subject_id = OLD.id)"  # noqa: S608
    return " AND ".join([*conditions, buried])


def enter_what_was_said() -> None:
    """One event for each answer and erasure that there is."""
    connection = op.get_bind()
    answers = sa.Table("answers", sa.MetaData(), autoload_with=connection)
    tombstones = sa.Table("tombstones", sa.MetaData(), autoload_with=connection)
    guidelines = sa.Table("guidelines", sa.MetaData(), autoload_with=connection)
    events = sa.Table("events", sa.MetaData(), autoload_with=connection)
    last, previous, now = 0, "0" * 64, (datetime.now(UTC) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()

    def enter(entries: list[tuple[str, str, str, str]]) -> None:
        nonlocal last, previous
        rows = []
        for event, by, subject, commitment in entries:
            last += 1
            at = int(now * 1e6)
            said = canonical_json([last, at, event, by, subject, commitment, previous])
            row: dict[str, Any] = {"number": last, "at": at, "event": event, "by": by, "subject": subject}
            row |= {"commitment": commitment, "previous": previous}
            previous = row["hash"] = hashlib.sha256(said.encode("utf-8")).hexdigest()
            rows.append(row)
        if rows:
            connection.execute(sa.insert(events), rows)

    for row in connection.execute(sa.select(guidelines).order_by(guidelines.c.version)).all():
        said = canonical_json([row.version, row.text, None])
        enter([("guideline", "operator", str(row.version), hashlib.sha256(said.encode("utf-8")).hexdigest())])
    done = 0
    while page := connection.execute(
        sa.select(answers).where(answers.c.number > done).order_by(answers.c.number).limit(PAGE)
    ).all():
        enter([("correction" if r.replaces else "answer", r.annotator_id, r.id, commitment_to(r)) for r in page])
        done = page[-1].number
    buried = connection.execute(sa.select(tombstones).order_by(tombstones.c.at, tombstones.c.subject_id)).all()
    enter([("erasure", "operator", row.subject_id, row.hash or "0" * 64) for row in buried])


def commitment_to(row: Any) -> str:
    if row.key is None:
        return str(row.hash)
    columns = "null" if row.columns is None else row.columns
    seconds = None if row.seconds is None else float(row.seconds)
    facts = [row.hash, row.ordinal, row.replaces, bool(row.skipped), bool(row.late), seconds, row.source, row.licence]
    said = canonical_json([*facts, columns, row.at, None, False])
    return hmac.digest(bytes.fromhex(row.key), said.encode("utf-8"), "sha256").hex()


def add_columns() -> None:
    # Written out, for Alembic cannot add a column with its reference to SQLite. The tables stay as they are otherwise.
    for table, column in COLUMNS:
        op.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
    op.create_index("ix_answers_annotator_id_number", "answers", ["annotator_id", "number"], unique=False)
    open_repeats = sa.text("answer_id IS NULL AND reserved_for IS NOT NULL")
    op.create_index(
        "ix_slots_reserved", "slots", ["reserved_for"], sqlite_where=open_repeats, postgresql_where=open_repeats
    )


COLUMNS = (
    ("answers", "repeat_of VARCHAR(24) CONSTRAINT fk_answers_repeat_of REFERENCES answers (id)"),
    ("answers", "adjudication BOOLEAN NOT NULL DEFAULT false"),
    ("guidelines", "quiz TEXT"),
    ("leases", "repeat_of VARCHAR(24) CONSTRAINT fk_leases_repeat_of REFERENCES answers (id)"),
    ("questions", "most INTEGER"),
    ("questions", "sensitive VARCHAR(64)"),
    ("slots", "gold BOOLEAN NOT NULL DEFAULT false"),
    ("slots", "restricted BOOLEAN NOT NULL DEFAULT false"),
    ("slots", "sensitive VARCHAR(64)"),
    ("slots", "reserved_for VARCHAR(200) CONSTRAINT fk_slots_reserved_for REFERENCES annotators (id)"),
    ("slots", "repeat_of VARCHAR(24) CONSTRAINT fk_slots_repeat_of REFERENCES answers (id)"),
)


def create_tables() -> None:
    op.create_table(
        "events",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("subject", sa.String(length=200), nullable=False),
        sa.Column("commitment", sa.String(length=64), nullable=False),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_events")),
    )
    op.create_table(
        "exports",
        sa.Column("number", counter(), autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("snapshot", sa.String(length=64), nullable=True),
        sa.Column("purpose", sa.String(length=64), nullable=True),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("removed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_exports")),
    )
    op.create_table(
        "options",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_options")),
    )
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secret", sa.String(length=64), nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_table(
        "accounts",
        sa.Column("annotator_id", sa.String(length=200), nullable=False),
        sa.Column("password", sa.Text(), nullable=True),
        sa.Column("active", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["annotator_id"], ["annotators.id"], name=op.f("fk_accounts_annotator_id")),
        sa.PrimaryKeyConstraint("annotator_id", name=op.f("pk_accounts")),
    )
    op.create_table(
        "consents",
        sa.Column("number", counter(), autoincrement=True, nullable=False),
        sa.Column("annotator_id", sa.String(length=200), nullable=False),
        sa.Column("purpose", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("given", sa.Boolean(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["annotator_id"], ["annotators.id"], name=op.f("fk_consents_annotator_id")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_consents")),
    )
    op.create_table(
        "invitations",
        sa.Column("secret", sa.String(length=64), nullable=False),
        sa.Column("purpose", sa.String(length=16), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("annotator_id", sa.String(length=200), nullable=True),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=True),
        sa.Column("used_by", sa.String(length=200), nullable=True),
        sa.CheckConstraint("purpose IN ('invitation', 'reset', 'first_admin')", name=op.f("ck_invitations_purpose")),
        sa.ForeignKeyConstraint(["annotator_id"], ["annotators.id"], name=op.f("fk_invitations_annotator_id")),
        sa.ForeignKeyConstraint(["used_by"], ["annotators.id"], name=op.f("fk_invitations_used_by")),
        sa.PrimaryKeyConstraint("secret", name=op.f("pk_invitations")),
    )
    op.create_table(
        "outbox",
        sa.Column("number", counter(), autoincrement=True, nullable=False),
        sa.Column("webhook_id", sa.String(length=24), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("delivered_at", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhooks.id"], name=op.f("fk_outbox_webhook_id")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_outbox")),
    )
    op.create_table(
        "quizzes",
        sa.Column("number", counter(), autoincrement=True, nullable=False),
        sa.Column("annotator_id", sa.String(length=200), nullable=False),
        sa.Column("guideline", sa.Integer(), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["annotator_id"], ["annotators.id"], name=op.f("fk_quizzes_annotator_id")),
        sa.ForeignKeyConstraint(["guideline"], ["guidelines.version"], name=op.f("fk_quizzes_guideline")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_quizzes")),
    )
    op.create_table(
        "refusals",
        sa.Column("annotator_id", sa.String(length=200), nullable=False),
        sa.Column("tag", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["annotator_id"], ["annotators.id"], name=op.f("fk_refusals_annotator_id")),
        sa.PrimaryKeyConstraint("annotator_id", "tag", name=op.f("pk_refusals")),
    )
    op.create_table(
        "roles",
        sa.Column("annotator_id", sa.String(length=200), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.CheckConstraint(
            "role IN ('admin', 'lead', 'adjudicator', 'annotator', 'viewer')", name=op.f("ck_roles_role")
        ),
        sa.ForeignKeyConstraint(["annotator_id"], ["annotators.id"], name=op.f("fk_roles_annotator_id")),
        sa.PrimaryKeyConstraint("annotator_id", "role", name=op.f("pk_roles")),
    )
    op.create_table(
        "sessions",
        sa.Column("secret", sa.String(length=64), nullable=False),
        sa.Column("annotator_id", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["annotator_id"], ["annotators.id"], name=op.f("fk_sessions_annotator_id")),
        sa.PrimaryKeyConstraint("secret", name=op.f("pk_sessions")),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("secret", sa.String(length=64), nullable=False),
        sa.Column("annotator_id", sa.String(length=200), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["annotator_id"], ["annotators.id"], name=op.f("fk_tokens_annotator_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("secret", name=op.f("uq_tokens_secret")),
    )
    op.create_table(
        "audiences",
        sa.Column("question_id", sa.String(length=24), nullable=False),
        sa.Column("member", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["question_id"], ["questions.id"], name=op.f("fk_audiences_question_id")),
        sa.PrimaryKeyConstraint("question_id", "member", name=op.f("pk_audiences")),
    )
    op.create_table(
        "gold",
        sa.Column("question_id", sa.String(length=24), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["question_id"], ["questions.id"], name=op.f("fk_gold_question_id")),
        sa.PrimaryKeyConstraint("question_id", name=op.f("pk_gold")),
    )
    op.create_index("ix_events_subject", "events", ["subject"], unique=False)
    op.create_index("ix_consents_annotator_id", "consents", ["annotator_id"], unique=False)
    op.create_index("ix_outbox_due_at", "outbox", ["due_at"], unique=False)
    op.create_index("ix_quizzes_annotator_id", "quizzes", ["annotator_id"], unique=False)
    op.create_index("ix_sessions_annotator_id", "sessions", ["annotator_id"], unique=False)
    op.create_index("ix_tokens_annotator_id", "tokens", ["annotator_id"], unique=False)
