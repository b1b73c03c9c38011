"""What the queue goes by: known answers, who may answer what, what is asked twice, and how many answers are enough.

Gold questions have a known answer and look like any other. A share of what an annotator is asked is gold; such a
question is never used up, and everybody may get it once. Repeats show a share of the questions a second time to the
same annotator, swapped, after some others: they measure position bias and consistency, and stay outside overlap and
consensus. How many answers a question needs may depend on what was answered (`OverlapPolicy`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from prefloop.errors import InputError
from prefloop.records import content_hash
from prefloop.store import outbox
from prefloop.store.audit_log import OPERATOR, append, audited
from prefloop.store.database import Store, in_answer_order, insert_new
from prefloop.store.tables import answers, candidates, gold, options, questions, slots
from prefloop.store.values import canonical, in_chunks, validate_value

REPEAT_AFTER = 10
"""Answers that an annotator gives before a question comes again."""
REPEATED_KINDS = ("comparison", "ranking")
"""Kinds in which the order of the candidates can be swapped."""
FIRST_REPEAT = 1_000_000
"""Slots of repeats are numbered from here on; `n` of other slots is smaller."""


@dataclass(frozen=True, kw_only=True)
class QueueOptions:
    """Settings of the queue that leads may change while it runs."""

    gold_share: float = 0.1
    """Share of an annotator's questions that are gold, as far as there are any."""
    repeat_share: float = 0.0
    """Share of an annotator's comparisons and rankings that come again, swapped."""
    guideline_gate: bool = True
    """Whether the quiz of the newest guideline must be passed before answering."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question that has as many answers as were asked for so far."""

    id: str
    kind: str
    seed: int
    """The same for ever: whatever an overlap policy draws at random should come from here."""
    overlap: int
    """How many answers were asked for so far."""
    most: int
    """More will not be asked for."""
    answers: list[tuple[str, dict[str, Any]]]
    """Annotator and value, in the stored order; without late, skipped, repeated and corrected ones."""


OverlapPolicy = Callable[[Asked], int]
"""How many answers a question should have in all; not more than `overlap` means that it is finished."""


def queue_options(store: Store) -> QueueOptions:
    """The settings that hold now."""
    with store.read() as connection:
        return read_options(connection)


def set_queue_options(store: Store, *, by: str = OPERATOR, **changes: float | bool) -> QueueOptions:
    """Change some of the settings (`gold_share=0.2`) and return them all. Raises InputError for what they cannot be."""
    shares = ("gold_share", "repeat_share")
    for name, value in changes.items():
        if name in shares and (isinstance(value, bool) or not 0 <= value <= 1):
            raise InputError(f"{name} must be a share from 0 to 1, got {value!r:.60}")
        if name not in (*shares, "guideline_gate"):
            raise InputError(f"the queue has no option {name!r:.60}; it has gold_share, repeat_share, guideline_gate")
        if name == "guideline_gate" and not isinstance(value, bool):
            raise InputError(f"guideline_gate must be true or false, got {value!r:.60}")
    with audited(store) as connection:
        for name, value in sorted(changes.items()):
            connection.execute(sa.delete(options).where(options.c.name == name))
            connection.execute(sa.insert(options).values(name=name, value=value))
            append(connection, "option", by, name, content_hash([name, value]))
        return read_options(connection)


def read_options(connection: Connection) -> QueueOptions:
    """The settings that hold in this transaction."""
    rows = connection.execute(_OPTIONS).all()
    return QueueOptions(**{row.name: row.value for row in rows})


_OPTIONS = sa.select(options)


def set_gold(store: Store, question_id: str, value: Mapping[str, Any], *, by: str = OPERATOR) -> None:
    """Make a question gold: `value` is its right answer, in the stored order ("a" is the first stored candidate).

    Raises InputError for an unknown question and a value that does not fit it.
    """
    with audited(store) as connection:
        kind = connection.scalar(sa.select(questions.c.kind).where(questions.c.id == question_id))
        if kind is None:
            raise InputError(f"the store has no question {question_id!r:.60}")
        query = sa.select(candidates.c.completion_id).where(candidates.c.question_id == question_id)
        put_gold(connection, question_id, kind, value, list(connection.scalars(query)), by)
        connection.execute(sa.update(slots).where(slots.c.question_id == question_id).values(gold=True))


def put_gold(
    connection: Connection, question_id: str, kind: str, value: Mapping[str, Any], shown: Sequence[str], by: str
) -> None:
    """The row of a gold question and its event, within a transaction."""
    validate_value(kind, value, shown)
    connection.execute(sa.delete(gold).where(gold.c.question_id == question_id))
    connection.execute(sa.insert(gold).values(question_id=question_id, value=dict(value)))
    append(connection, "gold", by, question_id, content_hash(dict(value)))


def gold_answers(store: Store) -> dict[str, dict[str, Any]]:
    """The right answer to each gold question, by the question's id, in the stored order."""
    with store.read() as connection:
        return {row.question_id: row.value for row in connection.execute(sa.select(gold))}


def widen(store: Store, wanted: Mapping[str, int]) -> int:
    """Ask for more answers to questions that have enough by now: question id -> how many in all. Returns the new slots.

    A question is never narrowed, and never asked more often than its `most` (questions without one stay as they are).
    """
    with store.write() as connection:
        in_answer_order(connection)
        return _widen(connection, wanted)


def draw(*what: object) -> float:
    """A number from 0 to 1 that looks random and is always the same for the same `what`."""
    text = ":".join(map(str, what))
    return int(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:13], 16) / 16**13


def open_repeats(connection: Connection, answered: Iterable[tuple[Mapping[str, Any], Any, str, int]]) -> None:
    """Reserve a second look for those of the (answer row, slot, kind, question's seed) that the repeat share hits."""
    found = [one for one in answered if one[2] in REPEATED_KINDS and not one[0]["skipped"]]
    share = read_options(connection).repeat_share if found else 0.0
    if not share:
        return
    rows = [
        {
            "question_id": row["question_id"],
            "n": FIRST_REPEAT + slot.n,
            "kind": kind,
            "priority": slot.priority,
            "restricted": False,
            "gold": False,
            "sensitive": slot.sensitive,
            "reserved_for": row["annotator_id"],
            "repeat_of": row["id"],
        }
        for row, slot, kind, seed in found
        if draw("repeat", seed, row["annotator_id"]) < share
    ]
    insert_new(connection, slots, rows)


def settle(connection: Connection, complete: Sequence[str], policy: OverlapPolicy | None) -> None:
    """Questions with all the answers that were asked for: ask for more, or tell the world that they are finished."""
    complete = list(dict.fromkeys(complete))
    if not complete:
        return
    hooks = outbox.active_webhooks(connection)
    if policy is None and not hooks:
        return
    asked = _asked(connection, complete)
    wanted = {one.id: policy(one) for one in asked if policy is not None and one.most > one.overlap}
    more = {identity: n for identity, n in wanted.items() if n > next(a.overlap for a in asked if a.id == identity)}
    if more:
        _widen(connection, more)
    finished = [one for one in asked if one.id not in more]
    outbox.enqueue(
        connection,
        hooks,
        "question.finished",
        [{"question": one.id, "kind": one.kind, "answers": len(one.answers)} for one in finished],
    )


def _asked(connection: Connection, ids: Sequence[str]) -> list[Asked]:
    found = []
    for chunk in in_chunks(ids):
        sizes = connection.execute(
            sa.select(slots.c.question_id, sa.func.count())
            .where(slots.c.question_id.in_(chunk), slots.c.reserved_for.is_(None))
            .group_by(slots.c.question_id)
        )
        overlaps = {row[0]: int(row[1]) for row in sizes}
        stored: dict[str, list[str]] = {}
        for row in connection.execute(
            sa.select(candidates).where(candidates.c.question_id.in_(chunk)).order_by(candidates.c.position)
        ):
            stored.setdefault(row.question_id, []).append(row.completion_id)
        newer = answers.alias("newer")
        votes: dict[str, list[Any]] = {}
        for row in connection.execute(
            sa.select(answers)
            .where(
                answers.c.question_id.in_(chunk),
                answers.c.value.is_not(None),
                answers.c.skipped.is_(False),
                answers.c.late.is_(False),
                answers.c.adjudication.is_(False),
                answers.c.repeat_of.is_(None),
                ~sa.exists().where(newer.c.replaces == answers.c.id),
            )
            .order_by(answers.c.number)
        ):
            votes.setdefault(row.question_id, []).append(row)
        for row in connection.execute(sa.select(questions).where(questions.c.id.in_(chunk))):
            shown = stored.get(row.id, [])
            given = [
                (vote.annotator_id, canonical(row.kind, vote.value, vote.presented_order, shown))
                for vote in votes.get(row.id, [])
            ]
            overlap = overlaps.get(row.id, 0)
            found.append(
                Asked(
                    id=row.id,
                    kind=row.kind,
                    seed=row.seed,
                    overlap=overlap,
                    most=max(row.most or 0, overlap),
                    answers=given,
                )
            )
    return found


def _widen(connection: Connection, wanted: Mapping[str, int]) -> int:
    rows = []
    for chunk in in_chunks(list(wanted)):
        query = (
            sa.select(
                slots.c.question_id,
                slots.c.kind,
                slots.c.restricted,
                slots.c.sensitive,
                questions.c.most,
                sa.func.max(slots.c.n).label("last"),
                sa.func.min(slots.c.priority).label("priority"),
            )
            .select_from(slots.join(questions, questions.c.id == slots.c.question_id))
            .where(
                slots.c.question_id.in_(chunk),
                slots.c.reserved_for.is_(None),
                slots.c.gold.is_(False),
                questions.c.most.is_not(None),
            )
            .group_by(slots.c.question_id, slots.c.kind, slots.c.restricted, slots.c.sensitive, questions.c.most)
        )
        for row in connection.execute(query):
            rows += [
                {
                    "question_id": row.question_id,
                    "n": n,
                    "kind": row.kind,
                    "priority": row.priority,
                    "restricted": row.restricted,
                    "sensitive": row.sensitive,
                }
                for n in range(row.last + 1, min(wanted[row.question_id], row.most))
            ]
    insert_new(connection, slots, rows)
    return len(rows)
