"""What people agreed to, understood, and do not want to see."""

from __future__ import annotations

import pytest

from prefloop.errors import InputError
from prefloop.store.accounts import add_person
from prefloop.store.asking import set_queue_options
from prefloop.store.audit_log import verify
from prefloop.store.consents import (
    QuizDue,
    consents,
    quiz_is_due,
    record_consent,
    record_quiz,
    refused,
    set_refusals,
)
from prefloop.store.database import Store
from prefloop.store.feedback import add_guideline
from prefloop.store.queue import lease


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
    ada = add_person(store, "Ada", roles=["annotator"], password="correct horse battery")
    program = add_person(store, "a program", roles=["annotator"])
    add_guideline(store, "Be kind.")
    assert not quiz_is_due(store, ada)
    second = add_guideline(store, "Be kind!", quiz=[{"question": "?", "options": ["a", "b"], "correct": 1}])
    record_quiz(store, ada, second, False)
    assert (quiz_is_due(store, ada), quiz_is_due(store, program)) == (True, False)
    with pytest.raises(QuizDue, match="pass its quiz"):
        lease(store, ada)
    assert lease(store, program) == []
    set_queue_options(store, guideline_gate=False)
    assert lease(store, ada) == []
    set_queue_options(store, guideline_gate=True)
    record_quiz(store, ada, second, True)
    record_quiz(store, ada, second, False)
    assert lease(store, ada) == []
    add_guideline(store, "Be kind!!", quiz=[{"question": "?", "options": ["a", "b"], "correct": 1}])
    assert quiz_is_due(store, ada)
    with pytest.raises(InputError, match="no guideline 9"):
        record_quiz(store, ada, 9, True)


def test_refusals_are_replaced_as_a_whole(store: Store) -> None:
    ada = add_person(store, "Ada", roles=["annotator"])
    set_refusals(store, ada, ["violence", "slurs", "slurs"])
    assert refused(store, ada) == ["slurs", "violence"]
    set_refusals(store, ada, [])
    assert refused(store, ada) == []
    assert verify(store).problems == []
