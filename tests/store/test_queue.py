"""Leases and answers: nothing lost, nothing doubled, nothing misassigned, also when many work at once or are killed."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from prefloop.errors import InputError
from prefloop.store.consents import set_refusals
from prefloop.store.corrections import correct
from prefloop.store.counting import counts
from prefloop.store.database import Store, in_answer_order, open_store
from prefloop.store.feedback import add_guideline, add_prompts, add_questions, answers
from prefloop.store.queue import Lease, LeaseRequest, hand_out, lease, presented_order, release
from prefloop.store.submissions import LeaseError, Submission, submit
from tests.store.asked import NOON, after, ask, good, person, says

# --- what a lease shows, and what its answer means ---


def test_a_lease_shows_the_question(store: Store) -> None:
    version = add_guideline(store, "Prefer the true one.")
    (question,) = ask(store, guideline=version)
    (held,) = lease(store, person(store), seconds=60, now=NOON)
    assert (held.question_id, held.kind) == (question, "comparison")
    assert held.messages == [{"role": "user", "content": "prompt 0"}]
    assert sorted(one["text"] for one in held.candidates) == ["bad", "good"]
    assert held.guideline == {"version": 1, "text": "Prefer the true one."}
    assert held.expires_at == after(1)


def test_a_means_the_first_candidate_as_shown(store: Store) -> None:
    ask(store, 40)
    ada = person(store)
    held = lease(store, ada, limit=40)
    submit(store, [says(one, good(one), strength=2) for one in held])
    raw = Counter(row.raw["choice"] for row in answers(store))
    assert set(raw) == {"a", "b"}  # some were shown in one order, some in the other
    for row, shown in zip(answers(store), held, strict=True):
        assert row.value == {"choice": "a", "strength": 2}  # "good" is stored first
        assert row.candidates[0]["text"] == "good"
        assert row.presented_order == [one["id"] for one in shown.candidates]


def test_the_order_is_fair_fixed_per_annotator_and_comes_from_the_seed() -> None:
    ids = ["c1", "c2"]
    first = Counter(presented_order(7, f"person:{n}", ids)[0] for n in range(400))
    assert 150 < first["c1"] < 250  # binomial(400, 1/2): five standard deviations are 50
    assert presented_order(7, "person:1", ids) == presented_order(7, "person:1", ["c2", "c1"])
    assert {tuple(presented_order(seed, "person:1", ids)) for seed in range(20)} == {("c1", "c2"), ("c2", "c1")}
    six = Counter(tuple(presented_order(seed, "p", ["c1", "c2", "c3"])) for seed in range(600))
    assert len(six) == 6
    assert min(six.values()) > 55  # 100 expected, standard deviation 9.1


def test_a_given_seed_is_stored_and_used(store: Store) -> None:
    ask(store, 8, seed=5)
    ada = person(store)
    for held in lease(store, ada, limit=8):
        ids = [one["id"] for one in held.candidates]
        assert ids == presented_order(5, ada, sorted(ids))


# --- who gets what ---


def test_the_queue_gives_each_annotator_a_question_once(store: Store) -> None:
    (question,) = ask(store, overlap=2)
    ada, bob, eve = (person(store, name) for name in ("Ada", "Bob", "Eve"))
    (first,) = lease(store, ada)
    assert lease(store, ada) == []  # she holds it
    (second,) = lease(store, bob)
    assert lease(store, eve) == []  # two are wanted, two have it
    submit(store, [says(first), says(second)])
    assert lease(store, ada) == lease(store, eve) == []
    assert {row.annotator for row in answers(store)} == {ada, bob}
    assert {row.question_id for row in answers(store)} == {question}


def test_a_first_answer_to_everything_comes_before_a_second(store: Store) -> None:
    questions = ask(store, 3, overlap=2)
    ada, bob = person(store, "Ada"), person(store, "Bob")
    assert [held.question_id for held in lease(store, ada, limit=2)] == questions[:2]
    assert [held.question_id for held in lease(store, bob, limit=5)] == [questions[2], questions[0], questions[1]]


def test_priority_and_kinds_choose(store: Store) -> None:
    (usual,) = ask(store)
    (urgent,) = ask(store, priority=-1, round=1)
    (prompt,) = add_prompts(store, [{"messages": "Write a poem"}])
    (poem,) = add_questions(store, [{"kind": "demonstration", "prompt_id": prompt, "candidates": []}])
    ada = person(store)
    assert lease(store, ada, kinds=["rating"]) == []
    assert [held.question_id for held in lease(store, ada, kinds=["demonstration"])] == [poem]
    assert [held.question_id for held in lease(store, ada, limit=9)] == [urgent, usual]


def test_a_skip_is_kept_and_somebody_else_is_asked(store: Store) -> None:
    ask(store)
    ada, bob = person(store, "Ada"), person(store, "Bob")
    (held,) = lease(store, ada)
    submit(store, [Submission(lease_token=held.token, value={"skip": "not my field"}, idempotency_key="1")])
    assert lease(store, ada) == []
    (again,) = lease(store, bob)
    assert not submit(store, [says(again)])[0].late
    assert [(row.annotator, row.skipped) for row in answers(store)] == [(ada, True), (bob, False)]
    assert counts(store)["skipped"] == 1


def test_bad_requests(store: Store) -> None:
    ada = person(store)
    for arguments, message in [
        ({"kinds": ["poem"]}, "must be one of comparison"),
        ({"limit": 0}, "limit must be from 1"),
        ({"seconds": 0}, "a lease lasts more than 0"),
        ({"seconds": float("nan")}, "a lease lasts more than 0"),
    ]:
        with pytest.raises(InputError, match=message):
            lease(store, ada, **arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no annotator 'Ada'; add_annotator gives the id to use"):
        lease(store, "Ada")


# --- time ---


def test_an_ended_lease_returns_to_the_queue_and_late_work_is_kept(store: Store) -> None:
    (question,) = ask(store)
    ada, bob, eve = (person(store, name) for name in ("Ada", "Bob", "Eve"))
    (slow,) = lease(store, ada, seconds=600, now=NOON)
    assert lease(store, bob, now=after(9)) == []
    (quick,) = lease(store, bob, now=after(10))
    assert quick.question_id == question
    late = submit(store, [says(slow, good(slow))], now=after(11))[0]
    assert late.late
    assert not submit(store, [says(quick, good(quick))], now=after(12))[0].late
    assert [(row.annotator, row.late, row.value) for row in answers(store)] == [
        (ada, True, {"choice": "a"}),
        (bob, False, {"choice": "a"}),
    ]
    assert counts(store)["late"] == 1
    assert lease(store, eve, now=after(60)) == []  # the one wanted answer is there
    assert lease(store, ada, now=after(60)) == []


def test_late_work_leaves_the_slot_to_others(store: Store) -> None:
    ask(store)
    ada, bob = person(store, "Ada"), person(store, "Bob")
    (slow,) = lease(store, ada, seconds=60, now=NOON)
    assert submit(store, [says(slow)], now=after(2))[0].late
    assert lease(store, ada, now=after(3)) == []  # she has answered, if late
    assert len(lease(store, bob, now=after(3))) == 1


def test_an_old_lease_is_good_while_its_annotator_holds_the_question_anew(store: Store) -> None:
    ask(store)
    ada = person(store)
    (old,) = lease(store, ada, seconds=60, now=NOON)
    (new,) = lease(store, ada, seconds=60, now=after(2))
    assert old.candidates == new.candidates  # the same order as before
    receipt = submit(store, [says(old)], now=after(2.5))[0]
    assert not receipt.late
    with pytest.raises(LeaseError, match="was answered already") as caught:
        submit(store, [says(new)], now=after(2.6))
    assert caught.value.answer_id == receipt.answer_id
    assert counts(store)["slots"] == {"open": 0, "leased": 0, "done": 1}


def test_a_lease_can_be_given_back(store: Store) -> None:
    ask(store)
    ada, bob = person(store, "Ada"), person(store, "Bob")
    (held,) = lease(store, ada)
    assert release(store, bob, [held.token]) == 0  # not his
    assert release(store, ada, [held.token]) == 1
    assert len(lease(store, bob)) == 1


# --- many at once ---


def in_threads(work: Sequence[Any]) -> None:
    """Run these functions at once; the first error of any of them is raised here."""
    errors: list[BaseException] = []

    def run(function: Any) -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def work_until_done(store: Store, annotator: str, batch: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        held = lease(store, annotator, limit=batch)
        submit(store, [says(one, good(one)) for one in held])
        if not held and counts(store)["slots"]["open"] == 0:
            return
    raise AssertionError("the queue did not empty")


def test_eight_workers_never_share_a_slot(store: Store, store_url: str) -> None:
    questions = ask(store, 30, overlap=3)
    people = [person(store, f"worker {n}") for n in range(8)]
    stores = [store, store, store, store] + [open_store(store_url) for _ in range(4)]
    in_threads(
        [
            lambda one=one, who=who, n=n: work_until_done(one, who, 1 + n % 4)
            for n, (one, who) in enumerate(zip(stores, people, strict=True))
        ]
    )
    rows = list(answers(store))
    assert Counter(row.question_id for row in rows) == dict.fromkeys(questions, 3)
    assert max(Counter((row.question_id, row.annotator) for row in rows).values()) == 1
    assert all(row.value == {"choice": "a"} and not row.late for row in rows)
    with store.read() as connection:
        granted = connection.execute(sa.text("SELECT slot_id, COUNT(*) FROM leases GROUP BY slot_id")).all()
    assert {n for _, n in granted} == {1}
    assert len(granted) == 90
    for one in stores[4:]:
        one.close()


def test_two_windows_of_one_annotator_get_different_questions(store: Store) -> None:
    questions = ask(store, 3, overlap=6)  # enough free slots for each window to get each question
    ada = person(store)
    got: list[Lease] = []
    in_threads([lambda: got.extend(lease(store, ada, limit=2)) for _ in range(6)])
    assert sorted(held.question_id for held in got) == sorted(questions)


def test_the_same_submission_from_many_threads_is_stored_once(store: Store) -> None:
    ask(store)
    (held,) = lease(store, person(store))
    receipts: list[Any] = []
    in_threads([lambda: receipts.extend(submit(store, [says(held, "a", "k")])) for _ in range(8)])
    assert Counter(receipt.replay for receipt in receipts) == {False: 1, True: 7}
    assert len({receipt.answer_id for receipt in receipts}) == 1
    assert len(list(answers(store))) == 1


def test_of_many_concurrent_corrections_one_wins_and_none_is_lost(store: Store) -> None:
    ask(store)
    ada = person(store)
    (held,) = lease(store, ada)
    first = submit(store, [says(held)])[0].answer_id
    outcome: list[str] = []

    def try_to_correct(n: int) -> None:
        try:
            correct(store, ada, first, {"choice": "tie", "note": str(n)}, idempotency_key=str(n))
            outcome.append("stored")
        except InputError as error:
            outcome.append("refused" if "corrected already" in str(error) else str(error))

    in_threads([lambda n=n: try_to_correct(n) for n in range(8)])
    assert Counter(outcome) == {"stored": 1, "refused": 7}
    assert len(list(answers(store))) == 1


def test_a_cursor_skips_nothing_while_others_write(store: Store) -> None:
    """A slow writer that began first must not commit a smaller number after a reader has seen a greater one."""
    ask(store, 2)
    held = lease(store, person(store), limit=2)
    done = threading.Event()

    def write_second() -> None:
        submit(store, [says(held[1])])
        done.set()

    with store.write() as connection:
        in_answer_order(connection)
        thread = threading.Thread(target=write_second)
        thread.start()
        assert not done.wait(0.3)  # it waits for us, who came first
        assert list(answers(store)) == []
    thread.join()
    assert len(list(answers(store))) == 1


# --- killed ---

WRITER = """
import json, sys
from prefloop.store.database import open_store
from prefloop.store.queue import lease
from prefloop.store.submissions import Submission, submit
store = open_store(sys.argv[1])
while True:
    held = lease(store, sys.argv[2], limit=2, seconds=3600)
    if not held:
        break
    sent = [Submission(lease_token=h.token, value={"choice": "a"}, idempotency_key=h.token) for h in held]
    receipts = submit(store, sent)
    for h, receipt in zip(held, receipts):
        print(json.dumps([h.token, receipt.answer_id]), flush=True)
print("done", flush=True)
"""


def test_kill_9_loses_and_doubles_nothing(store: Store, store_url: str) -> None:
    ask(store, 400, overlap=1)
    ada = person(store)
    acknowledged: dict[str, str] = {}
    for kill_after in (5, 12, 21):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, store_url, ada], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert process.stdout is not None
        for number, line in enumerate(process.stdout, start=1):
            if number == kill_after:
                process.send_signal(signal.SIGKILL)
            if line.endswith("]\n"):  # what it printed up to its death was acknowledged
                token, answer = json.loads(line)
                acknowledged[token] = answer
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
    stored = Counter(row.id for row in answers(store))
    assert len(acknowledged) >= 5 + 12 + 21
    assert set(acknowledged.values()) <= set(stored)
    assert max(stored.values()) == 1
    replayed = submit(
        store,
        [Submission(lease_token=t, value={"choice": "a"}, idempotency_key=t) for t in acknowledged],
    )
    assert [receipt.answer_id for receipt in replayed] == list(acknowledged.values())
    assert all(receipt.replay for receipt in replayed)
    assert len(list(answers(store))) == len(stored)
    # What the killed one held and had not answered comes back when its time is over, and everything gets done.
    later = datetime.now(UTC) + timedelta(hours=2)
    held = lease(store, ada, limit=1000, now=later)
    assert len(held) == 400 - len(stored)
    submit(store, [says(one) for one in held], now=later)
    assert counts(store)["slots"] == {"open": 0, "leased": 0, "done": 400}


@pytest.mark.parametrize("special", [{}, {"sensitive": "violence"}, {"audience": ["lead"]}, {"gold": {"choice": "a"}}])
def test_many_at_once_get_what_they_would_one_after_another(store: Store, special: dict[str, Any]) -> None:
    draw = random.Random(str(special))
    names = [f"worker {n}" for n in range(8)]
    people = [person(store, name) for name in names]
    set_refusals(store, people[0], ["violence"])
    for priority in (0, 1, 2):
        ask(store, 4, overlap=draw.randint(1, 3), priority=priority, round=priority)
        ask(store, 3, kind="ranking", overlap=2, priority=1, round=10 + priority)
    if special:
        ask(store, 2, overlap=2, priority=-1, round=20, **special)
    for who in people[:5]:  # some hold, some answered already
        for held in lease(store, who, limit=draw.randint(1, 4), now=NOON):
            if held.kind == "comparison" and draw.random() < 0.6:
                submit(store, [says(held)], now=after(1))
    wanted = [
        LeaseRequest(annotator=who, limit=draw.randint(1, 3), kinds=draw.choice([None, ["comparison"], ["ranking"]]))
        for who in draw.sample(people, len(people))
    ]

    def together(connection: Connection) -> list[Any]:
        return hand_out(connection, wanted, now=after(2))

    def one_by_one(connection: Connection) -> list[Any]:
        return [hand_out(connection, [one], now=after(2))[0] for one in wanted]

    assert _undone(store, together) == _undone(store, one_by_one)
    assert sum(map(len, _undone(store, together))) > 5


def _undone(store: Store, do: Callable[[Connection], list[Any]]) -> list[list[str]]:
    """The questions that each request got, in a transaction that did not happen."""
    found: list[list[str]] = []
    with contextlib.suppress(InterruptedError), store.write() as connection:
        found = [[held.question_id for held in some] for some in do(connection)]
        raise InterruptedError
    return found
