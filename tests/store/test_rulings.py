"""Rulings: the newest holds, leads alone make them, none is ever changed, and the audit log tells of each."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from prefloop.errors import InputError
from prefloop.store.accounts import add_person, deactivate
from prefloop.store.annotators import add_annotator
from prefloop.store.audit_log import OPERATOR, verify
from prefloop.store.database import Store
from prefloop.store.rulings import rule, rulings
from prefloop.store.tables import events
from prefloop.store.tables import rulings as table


def test_the_newest_ruling_holds_until_it_is_taken_back(store: Store) -> None:
    ada = add_annotator(store, "Ada", kind="person")
    lead = add_person(store, "Lea", roles=["lead"])
    rule(store, ada, "exclude")
    rule(store, ada, "keep", ["sticky", "fast"], by=lead)
    (ruling,) = rulings(store).values()
    assert (ruling.decision, ruling.findings, ruling.by) == ("keep", {"sticky", "fast"}, lead)
    rule(store, ada, "as_found", by=lead)
    assert rulings(store) == {}
    with store.read() as connection:
        told = connection.execute(sa.select(events.c.by, events.c.subject).where(events.c.event == "ruling")).all()
    assert [tuple(row) for row in told] == [(OPERATOR, ada), (lead, ada), (lead, ada)]
    assert verify(store).ok


def test_who_may_rule_on_whom(store: Store) -> None:
    ada = add_person(store, "Ada", roles=["annotator", "adjudicator", "viewer"])
    lead = add_person(store, "Lea", roles=["lead"])
    with pytest.raises(InputError, match="whoever rules on findings is lead or admin"):
        rule(store, lead, "keep", by=ada)
    with pytest.raises(InputError, match="nobody rules on their own answers"):
        rule(store, lead, "keep", by=lead)
    deactivate(store, lead)
    with pytest.raises(InputError, match="without a role"):
        rule(store, ada, "exclude", by=lead)
    with pytest.raises(InputError, match="no annotator"):
        rule(store, "person:nobody", "exclude")
    with pytest.raises(InputError, match="a ruling is one of keep, exclude, as_found, got 'delete'"):
        rule(store, ada, "delete")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="finding must be a word"):
        rule(store, ada, "keep", ["x" * 65])
    assert rulings(store) == {}


def test_a_ruling_is_neither_changed_nor_slipped_in(store: Store) -> None:
    ada = add_annotator(store, "Ada", kind="person")
    rule(store, ada, "exclude")
    for statement in ("UPDATE rulings SET decision = 'keep'", "DELETE FROM rulings"):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), store.write() as connection:
            connection.execute(sa.text(statement))
    assert verify(store).ok
    with store.write() as connection:
        row = {"annotator_id": ada, "decision": "as_found", "findings": [], "by": OPERATOR}
        connection.execute(sa.insert(table).values(**row, at=sa.select(events.c.at).limit(1).scalar_subquery()))
    assert verify(store).problems == [f"the rulings on the answers of {ada} were changed past the audit log"]
