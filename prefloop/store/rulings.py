"""What leads ruled about findings on somebody's answers: seen, keep at full weight; or exclude.

Statistics find, people decide. A ruling is about an annotator, and the newest one on somebody holds:

    keep       the findings that were seen when it was made lower the weight no more; a new finding does
    exclude    the answers count nowhere: no snapshot holds them, and no consensus asks them
    as_found   takes an earlier ruling back

Rulings are only ever added to, and each is an event of the audit log.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

import sqlalchemy as sa

from prefloop.errors import InputError
from prefloop.store.accounts import require_role
from prefloop.store.annotators import require_annotator
from prefloop.store.audit_log import OPERATOR, append, audited, ruling_commitment
from prefloop.store.database import Store
from prefloop.store.tables import rulings as ruling_table
from prefloop.store.values import check_word

Decision = Literal["keep", "exclude", "as_found"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """What holds for one annotator."""

    decision: Decision
    findings: frozenset[str]
    """Those that were there to be seen when it was made."""
    by: str
    """A lead's pseudonymous id, or `operator` for the command line."""
    at: datetime

    def covers(self, findings: Iterable[str]) -> bool:
        """Whether a lead has decided about all of these."""
        return self.decision == "exclude" or self.findings.issuperset(findings)


def rule(store: Store, annotator: str, decision: Decision, findings: Iterable[str] = (), *, by: str = OPERATOR) -> None:
    """Note what a lead decided about somebody's answers. `findings`: the names of those that the lead saw.

    Raises InputError for an unknown decision or annotator, when `by` is neither a lead nor an admin, and for a ruling
    on one's own answers.
    """
    if decision not in DECISIONS:
        raise InputError(f"a ruling is one of {', '.join(DECISIONS)}, got {decision!r:.40}")
    seen = sorted(set(findings))
    for name in seen:
        check_word(name, "finding")
    if by == annotator:
        raise InputError("nobody rules on their own answers; ask another lead")
    row = {"annotator_id": annotator, "decision": decision, "findings": seen, "by": by, "at": datetime.now(UTC)}
    with audited(store) as connection:
        require_annotator(connection, annotator)
        require_role(connection, by, ("lead", "admin"), "rules on findings")
        connection.execute(sa.insert(ruling_table).values(row))
        append(connection, "ruling", by, annotator, ruling_commitment(annotator, decision, seen))


def rulings(store: Store) -> dict[str, Ruling]:
    """Annotator -> the ruling that holds; without those that were taken back."""
    with store.read() as connection:
        rows = connection.execute(sa.select(ruling_table).order_by(ruling_table.c.number)).all()
    newest = {row.annotator_id: row for row in rows}
    return {
        who: Ruling(decision=row.decision, findings=frozenset(row.findings), by=row.by, at=row.at)
        for who, row in newest.items()
        if row.decision != "as_found"
    }
