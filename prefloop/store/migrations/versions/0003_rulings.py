"""What leads decided about findings on somebody's answers.

Revision 0003. A revision never changes once it is released, so it repeats the schema.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

MESSAGE = "rulings are append-only: nothing is changed or deleted"


def upgrade() -> None:
    op.create_table(
        "rulings",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("annotator_id", sa.String(length=200), nullable=False),
        sa.Column("decision", sa.String(length=16), nullable=False),
        sa.Column("findings", sa.Text(), nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("decision IN ('keep', 'exclude', 'as_found')", name=op.f("ck_rulings_decision")),
        sa.ForeignKeyConstraint(["annotator_id"], ["annotators.id"], name=op.f("fk_rulings_annotator_id")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_rulings")),
    )
    forbid_changes()


def forbid_changes() -> None:
    """Triggers that refuse UPDATE and DELETE (and TRUNCATE, where there is such a thing)."""
    if op.get_bind().dialect.name == "sqlite":
        for name, event in (("keep", "DELETE"), ("fixed", "UPDATE")):
            op.execute(
                f"CREATE TRIGGER rulings_{name} BEFORE {event} ON rulings BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION rulings_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"RAISE EXCEPTION '{MESSAGE}' USING ERRCODE = 'restrict_violation'; END $$"
    )
    op.execute(
        "CREATE TRIGGER rulings_fixed BEFORE UPDATE OR DELETE ON rulings "
        "FOR EACH ROW EXECUTE FUNCTION rulings_append_only()"
    )
    op.execute(
        "CREATE TRIGGER rulings_keep BEFORE TRUNCATE ON rulings "
        "FOR EACH STATEMENT EXECUTE FUNCTION rulings_append_only()"
    )
