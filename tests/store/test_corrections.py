"""A second word is a further answer that names the first."""

from __future__ import annotations

import pytest

from prefloop.errors import InputError
from prefloop.store import feedback
from prefloop.store.corrections import correct
from prefloop.store.counting import counts
from prefloop.store.database import Store
from prefloop.store.feedback import answers, answers_by_ids, import_answers
from prefloop.store.queue import lease
from prefloop.store.submissions import submit
from tests.store.asked import ask, good, person, says


def test_a_correction_is_a_new_answer_that_names_the_old(store: Store) -> None:
    ask(store)
    ada, bob = person(store, "Ada"), person(store, "Bob")
    (held,) = lease(store, ada)
    first = submit(store, [says(held, good(held))])[0].answer_id
    bad = "b" if good(held) == "a" else "a"
    second = correct(store, ada, first, {"choice": bad}, idempotency_key="second")
    assert (second.replay, second.late) == (False, False)
    assert correct(store, ada, first, {"choice": bad}, idempotency_key="second").replay
    (row,) = answers(store)
    assert (row.id, row.replaces, row.value) == (second.answer_id, first, {"choice": "b"})
    assert [old.value["choice"] for old in answers(store, corrected=True)] == ["a", "b"]
    assert set(answers_by_ids(store, [first])) == {first}
    for who, which, message in [
        (ada, first, f"corrected already; correct {second.answer_id} instead"),
        (bob, second.answer_id, "has given no answer"),
        (ada, "nonsense", "has given no answer"),
    ]:
        with pytest.raises(InputError, match=message):
            correct(store, who, which, {"choice": "a"}, idempotency_key="third")
    with pytest.raises(InputError, match="choice must be one of"):
        correct(store, ada, second.answer_id, {"choice": "z"}, idempotency_key="third")
    assert counts(store)["slots"] == {"open": 0, "leased": 0, "done": 1}
    assert counts(store)["corrections"] == 1


def test_a_reader_sees_one_state_while_corrections_come(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "PAGE", 1)  # the second answer is read after it was corrected
    ask(store, 2)
    ada = person(store)
    first, second = (one.answer_id for one in submit(store, [says(one) for one in lease(store, ada, limit=2)]))
    stream = answers(store)
    assert next(stream).id == first
    correct(store, ada, second, {"choice": "tie"}, idempotency_key="later")
    assert [row.id for row in stream] == [second]  # as it was when the reading began
    assert [row.value["choice"] for row in answers(store)][1] == "tie"


def test_correcting_to_and_from_a_skip_moves_the_slot(store: Store) -> None:
    ask(store)
    ada, bob = person(store, "Ada"), person(store, "Bob")
    (held,) = lease(store, ada)
    first = submit(store, [says(held)])[0].answer_id
    skip = correct(store, ada, first, {"skip": "on reflection, no idea"}, idempotency_key="2").answer_id
    assert counts(store)["slots"] == {"open": 1, "leased": 0, "done": 0}
    back = correct(store, ada, skip, {"choice": "a"}, idempotency_key="3")
    assert not back.late
    assert counts(store)["slots"] == {"open": 0, "leased": 0, "done": 1}
    again = correct(store, ada, back.answer_id, {"skip": "no"}, idempotency_key="4").answer_id
    (other,) = lease(store, bob)
    submit(store, [says(other)])
    assert correct(store, ada, again, {"choice": "a"}, idempotency_key="5").late  # the slot is Bob's now
    on_time = [row.annotator for row in answers(store) if not row.late]
    assert on_time == [bob]


def test_an_imported_answer_can_be_corrected(store: Store) -> None:
    item = {"messages": "2 + 2?", "candidates": ["4", "5"], "value": {"choice": "b"}, "annotator": "worker"}
    (identity,) = import_answers(store, [{"kind": "comparison", **item}])
    (row,) = answers(store)
    assert not correct(store, row.annotator, identity, {"choice": "a"}, idempotency_key="1").late
    assert [row.value for row in answers(store)] == [{"choice": "a"}]
