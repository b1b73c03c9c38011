"""Who may do what: roles hold at once, and nobody is locked out."""

from __future__ import annotations

import pytest

from prefloop.errors import InputError
from prefloop.store.accounts import add_person, deactivate, has_admin, people, reactivate, roles_of, set_roles
from prefloop.store.audit_log import verify
from prefloop.store.database import Store
from prefloop.store.sessions import check_password, session_owner, start_session
from prefloop.store.tokens import create_token, token_owner

PASSWORD = "correct horse battery"


def test_roles_hold_at_once(store: Store) -> None:
    ada = add_person(store, "Ada", roles=["annotator"], password=PASSWORD)
    secret = start_session(store, ada)
    token = create_token(store, "Ada", "annotator")
    assert token.annotator == ada
    set_roles(store, ada, ["lead"])
    owner = session_owner(store, secret)
    assert owner is not None
    assert owner.roles == {"lead"}
    assert token_owner(store, token.token) is None  # its one role is no longer held
    deactivate(store, ada)
    assert session_owner(store, secret) is None
    assert check_password(store, "Ada", PASSWORD) is None
    assert roles_of(store, ada) == frozenset()
    reactivate(store, ada)
    assert roles_of(store, ada) == {"lead"}
    assert [(one.name, one.active, one.has_password) for one in people(store)] == [("Ada", True, True)]
    with pytest.raises(InputError, match="a role is one of"):
        set_roles(store, ada, ["king"])  # type: ignore[list-item]


def test_the_last_admin_stays(store: Store) -> None:
    ada = add_person(store, "Ada", roles=["admin"], password=PASSWORD)
    bo = add_person(store, "Bo", roles=["annotator"], password=PASSWORD)
    for lock_out in (lambda: set_roles(store, ada, ["lead"]), lambda: deactivate(store, ada)):
        with pytest.raises(InputError, match="no active admin would be left"):
            lock_out()
    set_roles(store, bo, ["admin"])
    deactivate(store, ada)
    assert has_admin(store)
    assert verify(store).problems == []
