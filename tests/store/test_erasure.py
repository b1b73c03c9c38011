"""Erasure in the store, on both databases: what goes with what, and that the audit log still verifies."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from prefloop.errors import InputError, RunError
from prefloop.store.accounts import add_person, people
from prefloop.store.audit_log import verify
from prefloop.store.consents import record_consent
from prefloop.store.database import Store
from prefloop.store.erasure import Erased, buried, bury_again, erase_subject, scrub, subject_kind
from prefloop.store.feedback import add_completions, add_prompts, add_questions, answers
from prefloop.store.queue import lease
from prefloop.store.submissions import Submission, submit
from tests.store.test_asking import say

TEXT = "nobody else would ever have written this"
NAME = "Ada of Erasmus Street"
"""With spaces, which no hash has: that of a password holds any three letters now and then."""


@pytest.fixture
def ids(store: Store) -> dict[str, str]:
    """Two people answer a comparison and a demonstration about one prompt."""
    ada, bo = (add_person(store, name, roles=["annotator"], password="long enough, Ada") for name in (NAME, "Bo"))
    record_consent(store, ada, "training", 1, True)
    (prompt,) = add_prompts(store, [{"messages": TEXT}])
    shown = add_completions(store, [{"prompt_id": prompt, "text": f"{TEXT} {n}"} for n in range(2)])
    add_questions(store, [{"kind": "comparison", "prompt_id": prompt, "candidates": shown, "overlap": 3}])
    add_questions(store, [{"kind": "demonstration", "prompt_id": prompt, "candidates": [], "overlap": 3}])
    for who in (ada, bo):
        for held in lease(store, who, limit=2):
            value = {"text": f"{TEXT} by {who}"} if held.kind == "demonstration" else {"choice": "a"}
            submit(store, [Submission(lease_token=held.token, value=value, idempotency_key=held.token)])
    return {"ada": ada, "bo": bo, "prompt": prompt, "completion": shown[0]}


def stored(store: Store) -> str:
    with store.read() as connection:
        names = ("answers", "prompts", "completions", "annotators", "accounts", "gold", "events", "tombstones")
        return "\n".join(str(row) for name in names for row in connection.execute(sa.text(f"SELECT * FROM {name}")))  # noqa: S608


@pytest.mark.parametrize(
    ("subject", "n_answers", "n_completions", "n_prompts", "left"),
    [("ada", 2, 0, 0, 2), ("completion", 2, 1, 0, 2), ("prompt", 4, 2, 1, 0)],
)
def test_what_goes_with_what(
    store: Store, ids: dict[str, str], subject: str, n_answers: int, n_completions: int, n_prompts: int, left: int
) -> None:
    seen: list[Erased] = []
    done = erase_subject(store, ids[subject], reason="asked to", before=seen.append)
    assert seen == [done]
    assert (len(done.answers), len(done.completions), len(done.prompts)) == (n_answers, n_completions, n_prompts)
    assert len(list(answers(store))) == left
    assert any(TEXT in text for text in done.texts)
    assert scrub(store)
    if subject == "prompt":
        assert TEXT not in stored(store)
        assert lease(store, add_person(store, "Cy", roles=["annotator"]), limit=9) == []
    if subject == "ada":
        assert NAME not in stored(store)
        assert f"by {ids['ada']}" not in stored(store)
        assert [one.name for one in people(store)] == ["Bo"]
    if store.dialect == "sqlite" and subject == "prompt":
        with open(str(store.engine.url.database), "rb") as file:
            assert TEXT.encode() not in file.read()
    assert verify(store).problems == []
    again = erase_subject(store, ids[subject], reason="asked to")
    assert (again.now, len(again.answers)) == (0, n_answers)
    assert verify(store).problems == []


def test_when_files_cannot_be_cleaned_the_store_stays_as_it_was(store: Store, ids: dict[str, str]) -> None:
    def refuse(_: Erased) -> None:
        raise RunError("the disk is full")

    with pytest.raises(RunError, match="the disk is full"):
        erase_subject(store, ids["ada"], reason="x", before=refuse)
    assert len(list(answers(store))) == 4
    assert buried(store) == []


def test_an_answer_that_comes_after_is_late_and_harmless(store: Store, ids: dict[str, str]) -> None:
    cy = add_person(store, "Cy", roles=["annotator"])
    (held, *_) = lease(store, cy, limit=2)
    erase_subject(store, ids["prompt"], reason="x")
    say(store, held)
    assert verify(store).problems == []


def test_ids_tell_what_they_are(store: Store, ids: dict[str, str]) -> None:
    assert {name: subject_kind(store, identity) for name, identity in ids.items()} == {
        "ada": "annotator",
        "bo": "annotator",
        "prompt": "prompt",
        "completion": "completion",
    }
    with pytest.raises(InputError, match="is the name of person:"):
        subject_kind(store, NAME)


def test_ids_that_a_copy_does_not_know_are_passed_over(store: Store, ids: dict[str, str]) -> None:
    known = [("answer", "none", None), ("annotator", "person:none", ""), ("annotator", ids["ada"], "asked to")]
    assert bury_again(store, known) == 3
    assert bury_again(store, known) == 0
    assert [kind for kind, _, _ in buried(store)].count("annotator") == 1
