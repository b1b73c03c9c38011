"""Who may come in: passwords, sessions, tokens and links; hashes alone are kept, and nobody is locked out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from prefloop.errors import InputError
from prefloop.store import people as module
from prefloop.store.audit_log import verify
from prefloop.store.database import Store
from prefloop.store.feedback import add_guideline, import_answers
from prefloop.store.people import (
    accept_invitation,
    add_annotator,
    add_person,
    check_password,
    consents,
    create_token,
    deactivate,
    end_session,
    has_admin,
    invitation,
    invite,
    people,
    quiz_passed,
    reactivate,
    record_consent,
    record_quiz,
    refused,
    revoke_token,
    roles_of,
    session_owner,
    set_password,
    set_refusals,
    set_roles,
    start_session,
    token_owner,
    tokens,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def quick_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCRYPT", (2**4, 8, 1))


def everything_stored(store: Store) -> str:
    with store.read() as connection:
        names = sa.inspect(connection).get_table_names()
        return "\n".join(str(row) for name in names for row in connection.execute(sa.text(f"SELECT * FROM {name}")))  # noqa: S608


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
    n, r, p = module.SCRYPT
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


def test_consent_is_by_purpose_and_can_be_taken_back(store: Store) -> None:
    ada = add_person(store, "Ada", roles=["annotator"])
    record_consent(store, ada, "training", 1, True)
    record_consent(store, ada, "publication", 1, True)
    record_consent(store, ada, "training", 2, False)
    assert {k: (v.version, v.given) for k, v in consents(store, ada).items()} == {
        "training": (2, False),
        "publication": (1, True),
    }
    with pytest.raises(InputError, match="no annotator"):
        record_consent(store, "nobody", "training", 1, True)
    with pytest.raises(InputError, match="a word of 1 to 64"):
        record_consent(store, ada, " ", 1, True)


def test_a_quiz_gates_its_version(store: Store) -> None:
    ada = add_person(store, "Ada", roles=["annotator"])
    first = add_guideline(store, "Be kind.")
    second = add_guideline(store, "Be kind!", quiz=[{"question": "?", "options": ["a", "b"], "correct": 1}])
    assert quiz_passed(store, ada, first)  # it has none
    assert not quiz_passed(store, ada, second)
    record_quiz(store, ada, second, False)
    assert not quiz_passed(store, ada, second)
    record_quiz(store, ada, second, True)
    record_quiz(store, ada, second, False)
    assert quiz_passed(store, ada, second)
    with pytest.raises(InputError, match="no guideline 9"):
        record_quiz(store, ada, 9, True)


def test_refusals_are_replaced_as_a_whole(store: Store) -> None:
    ada = add_person(store, "Ada", roles=["annotator"])
    set_refusals(store, ada, ["violence", "slurs", "slurs"])
    assert refused(store, ada) == ["slurs", "violence"]
    set_refusals(store, ada, [])
    assert refused(store, ada) == []
    assert verify(store).problems == []
