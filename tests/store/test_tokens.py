"""Tokens: one role each, marked for machines, and never for more than their bearer is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from prefloop.errors import InputError
from prefloop.store.accounts import add_person, deactivate, people
from prefloop.store.database import Store
from prefloop.store.tokens import create_token, revoke_token, token_owner, tokens
from tests.store.conftest import everything_stored

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_a_token_carries_one_role(store: Store) -> None:
    made = create_token(store, "judge", "annotator", days=1, now=NOON)
    owner = token_owner(store, made.token, now=NOON)
    assert owner is not None
    assert (owner.annotator, owner.roles, owner.via, owner.scope) == (
        made.annotator,
        {"annotator"},
        "token",
        "annotator",
    )
    assert token_owner(store, made.token, now=NOON + timedelta(days=1)) is None
    assert token_owner(store, made.token + "x", now=NOON) is None
    assert made.token not in everything_stored(store)
    again = create_token(store, "judge", "lead")
    assert again.annotator == made.annotator
    assert {one.role for one in tokens(store, made.annotator)} == {"annotator", "lead"}
    revoke_token(store, again.id)
    revoke_token(store, again.id)
    assert token_owner(store, again.token) is None
    with pytest.raises(InputError, match="there is no token"):
        revoke_token(store, "none")
    with pytest.raises(InputError, match="at most 36500 days"):
        create_token(store, "judge", "lead", days=0)


def test_machines_tokens_are_marked(store: Store) -> None:
    assert create_token(store, "ai:judge", "annotator").annotator == "ai:judge"
    assert create_token(store, "simulated:careful", "annotator").annotator == "simulated:careful"
    assert [one.kind for one in people(store)] == ["ai", "simulated"]


def test_nobody_makes_a_token_for_more_than_they_are(store: Store) -> None:
    ada = add_person(store, "Ada", roles=["annotator"])
    assert create_token(store, "", "annotator", annotator=ada, by=ada).annotator == ada
    with pytest.raises(InputError, match="does not hold the role admin"):
        create_token(store, "", "admin", annotator=ada, by=ada)
    deactivate(store, ada)
    with pytest.raises(InputError, match="does not hold the role annotator"):
        create_token(store, "", "annotator", annotator=ada)
    with pytest.raises(InputError, match="was deactivated"):
        create_token(store, "Ada", "annotator")
