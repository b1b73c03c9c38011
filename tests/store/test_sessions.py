"""Signing in: a password lets in, its hash alone is kept, and a session ends by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from prefloop.errors import InputError
from prefloop.store import hashing
from prefloop.store.accounts import add_person, people
from prefloop.store.database import Store
from prefloop.store.sessions import check_password, end_session, session_owner, set_password, start_session
from tests.store.conftest import everything_stored

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PASSWORD = "correct horse battery"


def test_a_password_lets_in(store: Store) -> None:
    ada = add_person(store, "Ada", roles=["admin", "annotator"], password=PASSWORD)
    found = check_password(store, "Ada", PASSWORD)
    assert found is not None
    assert (found.annotator, found.name, found.roles, found.via) == (ada, "Ada", {"admin", "annotator"}, "session")
    for name, password in (("Ada", PASSWORD + "!"), ("Ada", ""), ("ada", PASSWORD), ("No\x00body", PASSWORD)):
        assert check_password(store, name, password) is None
    assert PASSWORD not in everything_stored(store)
    assert "ada" not in ada.lower()


def test_unicode_that_looks_alike_is_alike(store: Store) -> None:
    add_person(store, "Ada", roles=[], password="caf\u00e9 caf\u00e9 caf\u00e9")
    assert check_password(store, "Ada", "cafe\u0301 cafe\u0301 cafe\u0301") is not None


def test_the_real_work_factors_are_owasps(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    n, r, p = hashing.SCRYPT
    assert (n, r, p) == (16384, 8, 5)
    add_person(store, "Ada", roles=[], password=PASSWORD)
    assert "scrypt:16384:8:5:" in everything_stored(store)
    assert check_password(store, "Ada", PASSWORD) is not None


@pytest.mark.parametrize("password", ["short", "x" * 201])
def test_passwords_that_are_refused(store: Store, password: str) -> None:
    with pytest.raises(InputError, match="10 to 200 characters"):
        add_person(store, "Ada", roles=[], password=password)
    assert people(store) == []


def test_a_session_ends_by_time_by_hand_and_with_the_password(store: Store) -> None:
    ada = add_person(store, "Ada", roles=["annotator"], password=PASSWORD)
    first, second, third = (start_session(store, ada, hours=1, now=NOON) for _ in range(3))
    later = NOON + timedelta(minutes=59)
    owner = session_owner(store, first, now=later)
    assert owner is not None
    assert owner.roles == {"annotator"}
    assert session_owner(store, first, now=NOON + timedelta(hours=1)) is None
    end_session(store, second)
    assert session_owner(store, second, now=later) is None
    assert session_owner(store, "guess", now=later) is None
    set_password(store, ada, PASSWORD + "2")
    assert session_owner(store, third, now=later) is None
    assert check_password(store, "Ada", PASSWORD) is None
    assert first not in everything_stored(store)
