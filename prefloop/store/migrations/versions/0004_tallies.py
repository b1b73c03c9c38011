"""Counts that are kept while things change, so that nobody has to count a hundred thousand rows to show a page.

Revision 0004. A revision never changes once it is released, so it repeats the schema. Triggers keep the counts:
whatever writes to the tables, this program or another, they fit. PostgreSQL's triggers look at whole statements where
many rows may come at once, SQLite's at each row.

    tallies    what (question, slot, answer), kind of question, marks, n
    activity   answers per annotator and day
    shared     questions that more than one annotator has answered
"""

# ruff: noqa: S608  (statements are put together from names of this file, no input)
from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "tallies",
        sa.Column("what", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("marks", sa.String(length=64), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("what", "kind", "marks", name=op.f("pk_tallies")),
    )
    op.create_table(
        "activity",
        sa.Column("annotator_id", sa.String(length=200), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("answers", sa.BigInteger(), nullable=False),
        sa.Column("skipped", sa.BigInteger(), nullable=False),
        sa.Column("corrections", sa.BigInteger(), nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["annotator_id"], ["annotators.id"], name=op.f("fk_activity_annotator_id")),
        sa.PrimaryKeyConstraint("annotator_id", "day", name=op.f("pk_activity")),
    )
    op.create_index("ix_activity_day", "activity", ["day"], unique=False)
    op.create_table(
        "shared",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_shared")),
    )
    op.create_index("ix_shared_kind_number", "shared", ["kind", "number"], unique=False)
    some = sa.text("sensitive IS NOT NULL")
    op.create_index("ix_questions_sensitive", "questions", ["sensitive"], sqlite_where=some, postgresql_where=some)
    held = sa.text("answer_id IS NULL AND annotator_id IS NOT NULL")
    op.drop_index("ix_slots_held", "slots")
    op.create_index("ix_slots_held", "slots", ["annotator_id", "question_id"], sqlite_where=held, postgresql_where=held)
    for statement in (asked("questions"), opened("slots"), said("answers", STANDS), worked("answers"), met("answers")):
        op.execute(statement)
    (sqlite_triggers if is_sqlite() else postgresql_triggers)()


STANDS = "WHERE r.value IS NOT NULL AND NOT EXISTS (SELECT 1 FROM answers newer WHERE newer.replaces = r.id)"
ADD = " ON CONFLICT (what, kind, marks) DO UPDATE SET n = tallies.n + excluded.n"


def is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def bit(condition: str) -> str:
    """A condition as one character, 0 or 1."""
    return f"({condition})" if is_sqlite() else f"(({condition})::int)::text"


def slot_marks(row: str) -> str:
    """Whether a slot is an ordinary one (neither gold nor a repeat), and whether it has its answer."""
    ordinary = f"{row}.gold = {'0' if is_sqlite() else 'false'} AND {row}.reserved_for IS NULL"
    return f"{bit(ordinary)} || {bit(f'{row}.answer_id IS NOT NULL')}"


def answer_marks(row: str) -> str:
    """Who said it (a kind of annotator), and whether it is skipped, late, a repeat, an adjudication."""
    bits = [f"{row}.skipped", f"{row}.late", f"{row}.repeat_of IS NOT NULL", f"{row}.adjudication"]
    return " || ".join(["who.kind", "' '", *map(bit, bits)])


def asked(table: str) -> str:
    rows = f"SELECT 'question', r.kind, '', count(*) FROM {table} AS r WHERE 1 = 1 GROUP BY r.kind"
    return f"INSERT INTO tallies (what, kind, marks, n) {rows} ORDER BY r.kind{ADD}"


def opened(table: str) -> str:
    rows = f"SELECT 'slot', r.kind, {slot_marks('r')}, count(*) FROM {table} AS r WHERE 1 = 1 GROUP BY 2, 3"
    return f"INSERT INTO tallies (what, kind, marks, n) {rows} ORDER BY 2, 3{ADD}"


def said(table: str, which: str = "WHERE 1 = 1", sign: str = "") -> str:
    joined = f"{table} AS r JOIN questions q ON q.id = r.question_id JOIN annotators who ON who.id = r.annotator_id"
    rows = f"SELECT 'answer', q.kind, {answer_marks('r')}, {sign}count(*) FROM {joined} {which} GROUP BY 2, 3"
    return f"INSERT INTO tallies (what, kind, marks, n) {rows} ORDER BY 2, 3{ADD}"


def worked(table: str) -> str:
    """A correction counts as one, and a skip as one; an answer is the first word on a question, skipped or not."""

    def total(condition: str) -> str:
        return f"sum(CASE WHEN {condition} THEN 1 ELSE 0 END)"

    first = "r.replaces IS NULL"
    skipped = f"{first} AND r.skipped" if not is_sqlite() else f"{first} AND r.skipped = 1"
    counted = f"{total(first)}, {total(skipped)}, {total('r.replaces IS NOT NULL')}, max(r.at)"
    return (
        "INSERT INTO activity (annotator_id, day, answers, skipped, corrections, last_at) "
        f"SELECT r.annotator_id, r.at / 86400000000, {counted} FROM {table} AS r WHERE 1 = 1 GROUP BY 1, 2 "
        "ORDER BY 1, 2 ON CONFLICT (annotator_id, day) DO UPDATE SET "
        "answers = activity.answers + excluded.answers, skipped = activity.skipped + excluded.skipped, "
        "corrections = activity.corrections + excluded.corrections, "
        f"last_at = {'max' if is_sqlite() else 'greatest'}(activity.last_at, excluded.last_at)"
    )


def met(table: str) -> str:
    """A question on which somebody else had said something, too."""
    other = "SELECT 1 FROM answers o WHERE o.question_id = r.question_id AND o.annotator_id <> r.annotator_id"
    return (
        f"INSERT INTO shared (number, kind) SELECT DISTINCT q.number, q.kind FROM {table} AS r "
        f"JOIN questions q ON q.id = r.question_id WHERE EXISTS ({other}) ON CONFLICT (number) DO NOTHING"
    )


def slot(row: str, n: int) -> str:
    marks = slot_marks(row)
    return f"INSERT INTO tallies (what, kind, marks, n) VALUES ('slot', {row}.kind, {marks}, {n}){ADD}"


CHANGED = " OR ".join(f"OLD.{name} IS {{other}} NEW.{name}" for name in ("answer_id", "gold", "reserved_for"))
BLANKED = "OLD.value IS NOT NULL AND NEW.value IS NULL"
NOT_REPLACED = "NOT EXISTS (SELECT 1 FROM answers newer WHERE newer.replaces = OLD.id)"


def sqlite_triggers() -> None:
    one = "(SELECT * FROM answers WHERE number = NEW.number)"
    replaced = "(SELECT * FROM answers WHERE id = NEW.replaces AND value IS NOT NULL)"
    for name, event, body in (
        (
            "questions_tally",
            "INSERT ON questions",
            f"INSERT INTO tallies (what, kind, marks, n) VALUES ('question', NEW.kind, '', 1){ADD}",
        ),
        ("slots_tally_new", "INSERT ON slots", slot("NEW", 1)),
        ("slots_tally_old", "DELETE ON slots", slot("OLD", -1)),
        (
            "slots_tally",
            f"UPDATE OF answer_id, gold, reserved_for ON slots WHEN {CHANGED.format(other='NOT')}",
            f"{slot('OLD', -1)}; {slot('NEW', 1)}",
        ),
        ("answers_tally_new", "INSERT ON answers", f"{said(one)}; {worked(one)}; {met(one)}"),
        ("answers_tally_replaced", "INSERT ON answers WHEN NEW.replaces IS NOT NULL", said(replaced, sign="-")),
        (
            "answers_tally",
            f"UPDATE OF value ON answers WHEN {BLANKED} AND {NOT_REPLACED}",
            said(one, sign="-"),
        ),
    ):
        op.execute(f"CREATE TRIGGER {name} AFTER {event} BEGIN {body}; END")


def postgresql_triggers() -> None:
    replaced = "WHERE r.value IS NOT NULL AND r.id IN (SELECT replaces FROM added WHERE replaces IS NOT NULL)"
    one = "(SELECT * FROM answers WHERE number = NEW.number)"
    statement, row = "REFERENCING NEW TABLE AS added FOR EACH STATEMENT", "FOR EACH ROW"
    for name, event, how, body in (
        ("questions_tally", "INSERT ON questions", statement, asked("added")),
        ("slots_tally_new", "INSERT ON slots", statement, opened("added")),
        ("slots_tally_old", "DELETE ON slots", row, slot("OLD", -1)),
        (
            "slots_tally",
            "UPDATE OF answer_id, gold, reserved_for ON slots",
            f"{row} WHEN ({CHANGED.format(other='DISTINCT FROM')})",
            f"{slot('OLD', -1)}; {slot('NEW', 1)}",
        ),
        (
            "answers_tally_new",
            "INSERT ON answers",
            statement,
            f"{said('added')}; {said('answers', replaced, '-')}; {worked('added')}; {met('added')}",
        ),
        (
            "answers_tally",
            "UPDATE OF value ON answers",
            f"{row} WHEN ({BLANKED})",
            f"IF {NOT_REPLACED} THEN {said(one, sign='-')}; END IF",
        ),
    ):
        op.execute(f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NULL; END $$")
        op.execute(f"CREATE TRIGGER {name} AFTER {event} {how} EXECUTE FUNCTION {name}()")
