"""What people agreed to, understood, and do not want to see."""

from __future__ import annotations

import pytest

from prefloop.errors import InputError
from prefloop.store.accounts import add_person
from prefloop.store.audit_log import verify
from prefloop.store.consents import consents, quiz_passed, record_consent, record_quiz, refused, set_refusals
from prefloop.store.database import Store
from prefloop.store.feedback import add_guideline


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
