"""Second words: an annotator corrects an answer of their own, an adjudicator settles what others disagreed about.

Both are further answers beside the old ones; nothing is overwritten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from prefloop.errors import InputError
from prefloop.store.accounts import require_role
from prefloop.store.annotators import lock_annotators
from prefloop.store.audit_log import answer_entries, append_many
from prefloop.store.database import Row, Store, in_answer_order
from prefloop.store.feedback import candidates_of, new_answer_row
from prefloop.store.submissions import Receipt, by_idempotency_key, check_submission, replay, said_before
from prefloop.store.tables import answers, questions, slots
from prefloop.store.values import validate_value


def correct(
    store: Store,
    annotator: str,
    answer_id: str,
    value: Mapping[str, Any],
    *,
    idempotency_key: str,
    seconds: float | None = None,
    now: datetime | None = None,
) -> Receipt:
    """Say it anew: a further answer that names the old one, which stays. "a" means what it meant in the old answer.

    Raises InputError when the old answer is somebody else's, erased, or was corrected already (by its newest
    correction one goes on), and for a value that does not fit.
    """
    with store.write() as connection:
        return correct_on(
            connection, annotator, answer_id, value, idempotency_key=idempotency_key, seconds=seconds, now=now
        )


def correct_on(
    connection: Connection,
    annotator: str,
    answer_id: str,
    value: Mapping[str, Any],
    *,
    idempotency_key: str,
    seconds: float | None = None,
    now: datetime | None = None,
) -> Receipt:
    """As `correct`, in the caller's transaction."""
    check_submission(idempotency_key, value, seconds, "correction")
    now = now or datetime.now(UTC)
    in_answer_order(connection)
    lock_annotators(connection, [annotator])
    old = connection.execute(
        sa.select(answers, questions.c.kind, questions.c.overlap)
        .select_from(answers.join(questions, answers.c.question_id == questions.c.id))
        .where(answers.c.id == answer_id)
    ).first()
    if old is None or old.annotator_id != annotator:
        raise InputError(f"annotator {annotator} has given no answer {answer_id}")
    stored = by_idempotency_key(connection, [annotator], [idempotency_key]).get((annotator, idempotency_key))
    if stored is not None:
        return replay(stored, old.question_id, annotator, value, old.presented_order, "correction")
    if old.value is None:
        raise InputError(f"answer {answer_id} was erased and cannot be corrected")
    newer = connection.scalar(sa.select(answers.c.id).where(answers.c.replaces == answer_id))
    if newer is not None:
        raise InputError(f"answer {answer_id} was corrected already; correct {newer} instead")
    validate_value(old.kind, value, old.presented_order)
    ordinal = len(said_before(connection, [annotator], [old.question_id])[annotator, old.question_id])
    row = new_answer_row(old.question_id, annotator, ordinal, value, old.presented_order)
    slot = _slot_of_correction(connection, old, row["skipped"], now)
    aside = old.adjudication or old.repeat_of is not None
    late = old.late or (old.skipped and not row["skipped"] and slot is None and old.overlap > 0 and not aside)
    row |= {"replaces": answer_id, "late": late, "seconds": seconds, "idempotency_key": idempotency_key, "at": now}
    row |= {"repeat_of": old.repeat_of, "adjudication": old.adjudication}
    connection.execute(sa.insert(answers), row)
    append_many(connection, answer_entries([row], "correction"))
    if slot is not None:
        connection.execute(
            sa.update(slots)
            .where(slots.c.id == slot)
            .values(
                answer_id=sa.null() if row["skipped"] and not aside else row["id"],
                annotator_id=sa.null() if row["skipped"] and not aside else annotator,
                token=sa.null(),
                expires_at=sa.null(),
            )
        )
    return Receipt(answer_id=row["id"], replay=False, late=late)


def adjudicate(
    store: Store,
    annotator: str,
    question_id: str,
    value: Mapping[str, Any],
    *,
    presented: Sequence[str] | None = None,
    idempotency_key: str,
    seconds: float | None = None,
    now: datetime | None = None,
) -> Receipt:
    """Settle a question that others disagreed about: an answer beside the overlap, marked `adjudication`.

    `presented`: the candidate ids as they were shown, "a" first; without it, in the stored order. Raises InputError for
    somebody who is no adjudicator, lead or admin, an unknown question, a value that does not fit, and when this
    annotator adjudicated the question before (then that answer is to be corrected).
    """
    check_submission(idempotency_key, value, seconds, "adjudication")
    with store.write() as connection:
        in_answer_order(connection)
        lock_annotators(connection, [annotator])
        require_role(connection, annotator, ("adjudicator", "lead", "admin"), "settles disagreements")
        kind = connection.scalar(sa.select(questions.c.kind).where(questions.c.id == question_id))
        if kind is None:
            raise InputError(f"the store has no question {question_id!r:.60}")
        shown = [one["id"] for one in candidates_of(connection, [question_id]).get(question_id, [])]
        order = list(presented) if presented is not None else shown
        if sorted(order) != sorted(shown):
            raise InputError(f"presented must name each of {', '.join(shown)} exactly once, got {order!r:.200}")
        stored = by_idempotency_key(connection, [annotator], [idempotency_key]).get((annotator, idempotency_key))
        if stored is not None:
            return replay(stored, question_id, annotator, value, order, "adjudication")
        said = said_before(connection, [annotator], [question_id]).get((annotator, question_id), [])
        before = next((one.id for one in said if one.adjudication), None)
        if before is not None:
            raise InputError(f"{annotator} adjudicated this question before, with answer {before}; correct that")
        validate_value(kind, value, order)
        row = new_answer_row(question_id, annotator, len(said), value, order)
        row |= {"late": False, "seconds": seconds, "idempotency_key": idempotency_key}
        row |= {"at": now or datetime.now(UTC), "adjudication": True}
        connection.execute(sa.insert(answers), row)
        append_many(connection, answer_entries([row], "adjudication"))
    return Receipt(answer_id=row["id"], replay=False, late=False)


def _slot_of_correction(connection: Connection, old: Row, skipped: bool, now: datetime) -> int | None:
    """The slot that a correction changes: the old answer's, or, when the old one was a skip, a free one."""
    if not old.skipped or old.adjudication or old.repeat_of is not None:
        return connection.scalar(
            sa.select(slots.c.id).where(slots.c.answer_id == old.id).with_for_update(key_share=True)
        )
    if skipped or old.late:
        return None
    return connection.scalar(
        sa.select(slots.c.id)
        .where(
            slots.c.question_id == old.question_id,
            slots.c.answer_id.is_(None),
            slots.c.reserved_for.is_(None),
            sa.or_(slots.c.expires_at.is_(None), slots.c.expires_at <= now),
        )
        .order_by(slots.c.n)
        .limit(1)
        .with_for_update(skip_locked=True, key_share=True)
    )
