"""One transaction for many: each request succeeds or fails alone, and nobody is told before the disk has it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from prefloop.errors import InputError, RunError
from prefloop.store.annotators import add_annotator, list_annotators
from prefloop.store.audit_log import verify
from prefloop.store.counting import counts
from prefloop.store.database import Store, open_store
from prefloop.store.feedback import answers
from prefloop.store.queue import LeaseRequest
from prefloop.store.submissions import LeaseError, Submission
from prefloop.store.writer import Writer
from tests.store.test_asking import ask


def prompt(identity: str) -> Any:
    def insert(connection: Connection) -> str:
        connection.execute(sa.text(f"INSERT INTO prompts (id, created_at) VALUES ('{identity}', 0)"))  # noqa: S608
        return identity

    return insert


def test_what_comes_at_once_shares_a_transaction_and_fails_alone(store: Store) -> None:
    ask(store, 3)
    who = add_annotator(store, "Ada", kind="person")
    begun, go_on = threading.Event(), threading.Event()

    def hold_up(connection: Connection) -> None:
        begun.set()
        go_on.wait(30)

    with Writer(store) as writer:
        first = writer.submit(hold_up)
        assert begun.wait(30)
        leased = writer.lease(LeaseRequest(annotator=who, limit=2))
        nobody = writer.lease(LeaseRequest(annotator="nobody"))
        wrong = writer.answer(Submission(lease_token="none", value={}, idempotency_key="1"))
        good, bad, twice = writer.submit(prompt("x")), writer.submit(lambda _: 1 / 0), writer.submit(prompt("x"))
        assert not good.done()
        go_on.set()
        assert first.result() is None
        held = leased.result()
        assert len(held) == 2
        assert good.result() == "x"
        for future, error in ((nobody, InputError), (wrong, LeaseError), (bad, ZeroDivisionError)):
            assert isinstance(future.exception(), error)
        assert isinstance(twice.exception(), sa.exc.IntegrityError)
        assert writer.transactions == 2
        said = [Submission(lease_token=one.token, value={"choice": "a"}, idempotency_key=one.token) for one in held]
        receipts = [writer.answer(one).result() for one in said]
        assert [writer.answer(one).result().replay for one in said] == [True, True]
        assert [row.id for row in answers(store)] == [one.answer_id for one in receipts]
        (more,) = writer.lease(LeaseRequest(annotator=who)).result()
        refused = writer.answer(Submission(lease_token=more.token, value={"choice": "c"}, idempotency_key="c"))
        assert isinstance(refused.exception(), InputError)
    with pytest.raises(RunError, match="the writer was closed"):
        writer.submit(prompt("y"))
    writer.close()
    assert counts(store)["prompts"] == 4
    assert verify(store).ok


def test_a_transaction_that_cannot_be_committed_fails_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with Writer(store) as writer:
        monkeypatch.setattr(Store, "write", lambda self: (_ for _ in ()).throw(RunError("the disk is full")))
        futures = [writer.submit(prompt(str(n))) for n in range(3)]
        assert all(isinstance(future.exception(), RunError) for future in futures)
        monkeypatch.undo()
        assert writer.submit(prompt("x")).result() == "x"  # the writer goes on
    assert counts(store)["prompts"] == 1


def test_a_defect_in_the_queue_hits_one_request_only(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import prefloop.store.writer as module

    ask(store, 2)
    people = [add_annotator(store, name, kind="person") for name in ("Ada", "Bo")]
    hand_out = module.hand_out

    def defective(connection: Connection, requests: Any) -> Any:
        result = hand_out(connection, requests)
        if any(one.annotator == people[0] for one in requests):
            raise KeyError("a defect")
        return result

    monkeypatch.setattr(module, "hand_out", defective)
    with Writer(store) as writer:
        futures = [writer.lease(LeaseRequest(annotator=one)) for one in people]
        assert isinstance(futures[0].exception(), KeyError)
        assert len(futures[1].result()) == 1
    assert counts(store)["slots"]["leased"] == 1


BUSY = """
import sys, threading
from prefloop.store.database import open_store
from prefloop.store.writer import Writer

def work(connection):
    return None

with Writer(open_store(sys.argv[1])) as writer:
    print("busy", flush=True)
    while True:
        [future.result() for future in [writer.submit(work) for _ in range(20)]]
"""


def test_a_verb_gets_its_turn_while_a_busy_server_writes(tmp_path: Path) -> None:
    store = open_store(tmp_path / "p.db", lock_timeout=20)
    server = subprocess.Popen([sys.executable, "-c", BUSY, str(tmp_path / "p.db")], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "busy\n"
    for n in range(3):
        add_annotator(store, f"worker {n}", kind="person")
    assert server.poll() is None
    server.kill()
    server.wait()
    server.stdout.close()
    assert len(list_annotators(store)) == 3
    store.close()


def clients(store: Store, n_clients: int, n_questions: int, overlap: int) -> None:
    """Clients that lease and answer until there is nothing to do; then all must have been asked exactly as wanted."""
    ask(store, n_questions, overlap=overlap)
    people = [add_annotator(store, f"worker {n}", kind="person") for n in range(n_clients)]
    tokens: list[str] = []
    failed: list[BaseException] = []

    def work(who: str, writer: Writer) -> None:
        try:
            while held := writer.lease(LeaseRequest(annotator=who)).result():
                tokens.append(held[0].token)
                said = Submission(lease_token=held[0].token, value={"choice": "a"}, idempotency_key=held[0].token)
                receipt = writer.answer(said).result()
                assert not receipt.late
        except BaseException as error:
            failed.append(error)

    with store.hold(), Writer(store) as writer:
        threads = [threading.Thread(target=work, args=(who, writer)) for who in people]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []
    rows = list(answers(store))
    assert len(tokens) == len(set(tokens)) == len(rows) == n_questions * overlap
    assert set(Counter(row.question_id for row in rows).values()) == {overlap}
    assert set(Counter((row.question_id, row.annotator) for row in rows).values()) == {1}
    found = verify(store)
    assert (found.problems, found.answers) == ([], n_questions * overlap)


def test_ten_clients_never_share_a_slot(store: Store) -> None:
    clients(store, 10, 40, overlap=2)


@pytest.mark.prove
def test_fifty_clients_on_two_thousand_questions(store: Store) -> None:
    clients(store, 50, 2000, overlap=2)
