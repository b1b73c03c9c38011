"""Links: once and in time, and no name with a history is taken over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from prefloop.errors import InputError
from prefloop.store.accounts import add_person, has_admin, roles_of
from prefloop.store.annotators import add_annotator
from prefloop.store.audit_log import verify
from prefloop.store.database import Store
from prefloop.store.feedback import import_answers
from prefloop.store.invitations import accept_invitation, invitation, invite
from prefloop.store.sessions import check_password
from tests.store.conftest import everything_stored

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PASSWORD = "correct horse battery"


def test_a_link_works_once_and_in_time(store: Store) -> None:
    secret = invite(store, "annotator", hours=1, now=NOON)
    assert invitation(store, secret, now=NOON) == ("invitation", "annotator")
    late = NOON + timedelta(hours=1)
    assert invitation(store, secret, now=late) is None
    with pytest.raises(InputError, match="its time is over"):
        accept_invitation(store, secret, "Ada", PASSWORD, now=late)
    with pytest.raises(InputError, match="10 to 200"):
        accept_invitation(store, secret, "Ada", "short", now=NOON)
    ada = accept_invitation(store, secret, "Ada", PASSWORD, now=NOON)
    assert roles_of(store, ada) == {"annotator"}
    with pytest.raises(InputError, match="was used already"):
        accept_invitation(store, secret, "Bo", PASSWORD, now=NOON)
    assert secret not in everything_stored(store)


def test_a_name_that_has_a_history_is_not_taken_over(store: Store) -> None:
    add_person(store, "Ada", roles=[])
    said = {"kind": "approval", "prompt": "x", "candidates": ["y"], "value": {"approved": True}, "annotator": "w1"}
    import_answers(store, [said])
    for name in ("Ada", "w1", "simulated:x"):
        with pytest.raises(InputError, match="is taken|only a machine's"):
            accept_invitation(store, invite(store, "annotator"), name, PASSWORD)
    add_annotator(store, "Bo", kind="person")  # known, but has said nothing
    accept_invitation(store, invite(store, "annotator"), "Bo", PASSWORD)
    with pytest.raises(InputError, match="has an account already"):
        add_person(store, "Bo", roles=[])


def test_a_new_password_by_a_link(store: Store) -> None:
    ada = add_person(store, "Ada", roles=["annotator"], password=PASSWORD)
    secret = invite(store, "annotator", purpose="reset", annotator=ada)
    assert accept_invitation(store, secret, "", PASSWORD + "2") == ada
    assert check_password(store, "Ada", PASSWORD + "2") is not None
    for wrong in ({"purpose": "reset"}, {"annotator": ada}, {"purpose": "x"}, {"hours": 0}):
        with pytest.raises(InputError):
            invite(store, "annotator", **wrong)  # type: ignore[arg-type]


def test_the_first_admin(store: Store) -> None:
    assert not has_admin(store)
    old, new = (invite(store, "admin", purpose="first_admin") for _ in range(2))
    with pytest.raises(InputError, match="not valid"):
        accept_invitation(store, old, "Ada", PASSWORD)
    accept_invitation(store, new, "Ada", PASSWORD)
    assert has_admin(store)
    with pytest.raises(InputError, match="there is an admin already"):
        invite(store, "admin", purpose="first_admin")
    assert verify(store).problems == []
