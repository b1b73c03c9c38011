"""The first tables: what people are asked, who may answer, and what they said.

Revision 0001. A revision never changes once it is released, so it repeats the schema instead of importing tables.py.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

APPEND_ONLY = ("annotators", "prompts", "completions", "guidelines", "questions", "candidates", "answers", "tombstones")
"""No row of these is ever deleted or changed ..."""

ERASABLE = {
    "prompts": ("prompt", ("messages", "columns")),
    "completions": ("completion", ("text", "sampling")),
    "answers": ("answer", ("value", "key", "columns")),
}
"""... but for these columns, which may be blanked, all together, once a tombstone names the row."""


def upgrade() -> None:
    create_tables()
    for table in APPEND_ONLY:
        forbid_changes(table)


def counter() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


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
    conditions = [f"NEW.{name} IS NULL" for name in blanked] + [f"NEW.{name} {same} OLD.{name}" for name in fixed]
    # Names of tables and columns of this file, no input.
    buried = f"EXISTS (SELECT 1 FROM tombstones WHERE subject = '{subject}' AND subject_id = OLD.id)"  # noqa: S608
    return " AND ".join([*conditions, buried])


def create_tables() -> None:
    op.create_table(
        "annotators",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("name", sa.String(length=400), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("profile", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("(kind = 'ai') = (id LIKE 'ai:%')", name=op.f("ck_annotators_ai")),
        sa.CheckConstraint("(kind = 'simulated') = (id LIKE 'simulated:%')", name=op.f("ck_annotators_simulated")),
        sa.CheckConstraint("kind IN ('person', 'simulated', 'ai')", name=op.f("ck_annotators_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_annotators")),
        sa.UniqueConstraint("name", name=op.f("uq_annotators_name")),
    )
    op.create_table(
        "guidelines",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_guidelines")),
    )
    op.create_table(
        "prompts",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("messages", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("licence", sa.Text(), nullable=True),
        sa.Column("columns", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prompts")),
    )
    op.create_table(
        "tombstones",
        sa.Column("subject", sa.String(length=16), nullable=False),
        sa.Column("subject_id", sa.String(length=24), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("subject", "subject_id", name=op.f("pk_tombstones")),
    )
    op.create_table(
        "completions",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("prompt_id", sa.String(length=16), nullable=False),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("policy", sa.Text(), nullable=True),
        sa.Column("sampling", sa.Text(), nullable=True),
        sa.Column("terminated", sa.Boolean(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompts.id"], name=op.f("fk_completions_prompt_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_completions")),
    )
    op.create_index("ix_completions_prompt_id", "completions", ["prompt_id"], unique=False)
    op.create_table(
        "questions",
        sa.Column("number", counter(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("prompt_id", sa.String(length=16), nullable=False),
        sa.Column("overlap", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("guideline", sa.Integer(), nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("licence", sa.Text(), nullable=True),
        sa.Column("columns", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("overlap >= 0", name=op.f("ck_questions_overlap")),
        sa.ForeignKeyConstraint(["guideline"], ["guidelines.version"], name=op.f("fk_questions_guideline")),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompts.id"], name=op.f("fk_questions_prompt_id")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_questions")),
        sa.UniqueConstraint("id", name=op.f("uq_questions_id")),
    )
    op.create_table(
        "answers",
        sa.Column("number", counter(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("question_id", sa.String(length=24), nullable=False),
        sa.Column("annotator_id", sa.String(length=200), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("replaces", sa.String(length=24), nullable=True),
        sa.Column("value", sa.Text(), nullable=True),
        sa.Column("key", sa.String(length=64), nullable=True),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("presented_order", sa.Text(), nullable=False),
        sa.Column("skipped", sa.Boolean(), nullable=False),
        sa.Column("late", sa.Boolean(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("licence", sa.Text(), nullable=True),
        sa.Column("columns", sa.Text(), nullable=True),
        sa.Column("idempotency_key", sa.String(length=200), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["annotator_id"], ["annotators.id"], name=op.f("fk_answers_annotator_id")),
        sa.ForeignKeyConstraint(["question_id"], ["questions.id"], name=op.f("fk_answers_question_id")),
        sa.ForeignKeyConstraint(["replaces"], ["answers.id"], name=op.f("fk_answers_replaces")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_answers")),
        sa.UniqueConstraint("annotator_id", "idempotency_key", name=op.f("uq_answers_annotator_id_idempotency_key")),
        sa.UniqueConstraint("id", name=op.f("uq_answers_id")),
        sa.UniqueConstraint(
            "question_id", "annotator_id", "ordinal", name=op.f("uq_answers_question_id_annotator_id_ordinal")
        ),
        sa.UniqueConstraint("replaces", name=op.f("uq_answers_replaces")),
    )
    op.create_table(
        "candidates",
        sa.Column("question_id", sa.String(length=24), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("completion_id", sa.String(length=24), nullable=False),
        sa.ForeignKeyConstraint(["completion_id"], ["completions.id"], name=op.f("fk_candidates_completion_id")),
        sa.ForeignKeyConstraint(["question_id"], ["questions.id"], name=op.f("fk_candidates_question_id")),
        sa.PrimaryKeyConstraint("question_id", "position", name=op.f("pk_candidates")),
        sa.UniqueConstraint("question_id", "completion_id", name=op.f("uq_candidates_question_id_completion_id")),
    )
    op.create_index("ix_candidates_completion_id", "candidates", ["completion_id"], unique=False)
    op.create_table(
        "slots",
        sa.Column("id", counter(), autoincrement=True, nullable=False),
        sa.Column("question_id", sa.String(length=24), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("annotator_id", sa.String(length=200), nullable=True),
        sa.Column("token", sa.String(length=64), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("answer_id", sa.String(length=24), nullable=True),
        sa.ForeignKeyConstraint(["annotator_id"], ["annotators.id"], name=op.f("fk_slots_annotator_id")),
        sa.ForeignKeyConstraint(["answer_id"], ["answers.id"], name=op.f("fk_slots_answer_id")),
        sa.ForeignKeyConstraint(["question_id"], ["questions.id"], name=op.f("fk_slots_question_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_slots")),
        sa.UniqueConstraint("question_id", "n", name=op.f("uq_slots_question_id_n")),
    )
    op.create_index(
        "ix_slots_answer_id",
        "slots",
        ["answer_id"],
        unique=True,
        sqlite_where=sa.text("answer_id IS NOT NULL"),
        postgresql_where=sa.text("answer_id IS NOT NULL"),
    )
    op.create_index(
        "ix_slots_held",
        "slots",
        ["annotator_id", "question_id"],
        sqlite_where=sa.text("answer_id IS NULL"),
        postgresql_where=sa.text("answer_id IS NULL"),
    )
    op.create_index(
        "ix_slots_open",
        "slots",
        ["priority", "n", "id"],
        sqlite_where=sa.text("answer_id IS NULL"),
        postgresql_where=sa.text("answer_id IS NULL"),
    )
    op.create_table(
        "leases",
        sa.Column("token", sa.String(length=64), nullable=False),
        sa.Column("slot_id", counter(), nullable=False),
        sa.Column("question_id", sa.String(length=24), nullable=False),
        sa.Column("annotator_id", sa.String(length=200), nullable=False),
        sa.Column("presented_order", sa.Text(), nullable=False),
        sa.Column("issued_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("answer_id", sa.String(length=24), nullable=True),
        sa.ForeignKeyConstraint(["annotator_id"], ["annotators.id"], name=op.f("fk_leases_annotator_id")),
        sa.ForeignKeyConstraint(["answer_id"], ["answers.id"], name=op.f("fk_leases_answer_id")),
        sa.ForeignKeyConstraint(["question_id"], ["questions.id"], name=op.f("fk_leases_question_id")),
        sa.ForeignKeyConstraint(["slot_id"], ["slots.id"], name=op.f("fk_leases_slot_id")),
        sa.PrimaryKeyConstraint("token", name=op.f("pk_leases")),
    )
