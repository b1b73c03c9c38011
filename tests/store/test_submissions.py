"""What people said is stored once, however often and in whatever company it comes."""

from __future__ import annotations

import pytest

from prefloop.errors import InputError
from prefloop.store.database import Store
from prefloop.store.feedback import answers, erase_answers
from prefloop.store.queue import lease
from prefloop.store.submissions import IdempotencyError, LeaseError, Submission, submit
from tests.store.asked import ask, person, says


def test_a_replay_stores_nothing_new(store: Store) -> None:
    ask(store, 2)
    ada = person(store)
    one, two = lease(store, ada, limit=2)
    first = submit(store, [says(one, "a", "key")])[0]
    again = submit(store, [says(one, "a", "key")])[0]
    assert (first.replay, again.replay) == (False, True)
    assert first.answer_id == again.answer_id
    for changed in (says(one, "b", "key"), says(two, "a", "key"), says(one, "a", "key", strength=1)):
        with pytest.raises(IdempotencyError, match=f"came before with another answer .{first.answer_id}"):
            submit(store, [changed])
    with pytest.raises(LeaseError, match="answered already") as caught:
        submit(store, [says(one, "a", "another key")])
    assert caught.value.answer_id == first.answer_id
    assert [row.id for row in answers(store)] == [first.answer_id]


def test_keys_belong_to_their_annotator(store: Store) -> None:
    ask(store, overlap=2)
    held = [lease(store, person(store, name))[0] for name in ("Ada", "Bob")]
    receipts = submit(store, [says(one, "a", "1") for one in held])
    assert len({receipt.answer_id for receipt in receipts}) == 2


def test_a_replay_within_one_batch(store: Store) -> None:
    ask(store)
    (held,) = lease(store, person(store))
    first, second = submit(store, [says(held, "b", "k"), says(held, "b", "k")])
    assert (first.replay, second.replay) == (False, True)
    assert first.answer_id == second.answer_id
    assert len(list(answers(store))) == 1


def test_an_erased_answer_can_still_be_replayed(store: Store) -> None:
    ask(store)
    (held,) = lease(store, person(store))
    first = submit(store, [says(held)])[0]
    erase_answers(store, [first.answer_id], "asked to")
    again = submit(store, [says(held)])[0]
    assert (again.answer_id, again.replay) == (first.answer_id, True)
    assert list(answers(store)) == []


def test_a_batch_is_all_or_nothing(store: Store) -> None:
    ask(store, 2)
    one, two = lease(store, person(store), limit=2)
    with pytest.raises(InputError, match=r"submissions\[1\]: choice must be one of"):
        submit(store, [says(one), says(two, "c")])
    with pytest.raises(LeaseError, match=r"submissions\[1\]: there is no lease nonsense"):
        submit(store, [says(one), Submission(lease_token="nonsense", value={"choice": "a"}, idempotency_key="1")])
    with pytest.raises(InputError, match=r"submissions\[0\]\.value\.note: the text holds a NUL"):
        submit(store, [says(one, note="a\x00")])
    with pytest.raises(InputError, match="an idempotency key is text of 1 to 200"):
        submit(store, [Submission(lease_token=one.token, value={"choice": "a"}, idempotency_key="")])
    with pytest.raises(InputError, match="seconds must be a number of at least 0"):
        submit(store, [Submission(lease_token=one.token, value={"choice": "a"}, idempotency_key="1", seconds=-1)])
    assert list(answers(store)) == []
    assert len(submit(store, [says(one), says(two)])) == 2
