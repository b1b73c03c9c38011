"""A writer whose transactions are done in a process of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.engine import Connection

from prefloop.errors import InputError, RunError
from prefloop.quality.overlap import AdaptiveOverlap
from prefloop.store.annotators import add_annotator
from prefloop.store.database import Store
from prefloop.store.feedback import answers
from prefloop.store.queue import Lease, LeaseRequest
from prefloop.store.submissions import LeaseError, Submission
from prefloop.store.writer import Writer
from prefloop.store.writer_process import WriterProcess
from tests.store.test_asking import ask


@pytest.fixture
def apart() -> Iterator[WriterProcess]:
    with closing(WriterProcess()) as process:
        yield process


def answered(held: Lease) -> Submission:
    return Submission(lease_token=held.token, value={"choice": "a"}, idempotency_key=held.token)


def defective(connection: Connection) -> None:
    raise KeyError("a defect")


def until(holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it never came to hold")


def test_it_writes_as_a_thread_does(store: Store, apart: WriterProcess) -> None:
    ask(store, 2)
    who = add_annotator(store, "Ada", kind="person")
    with Writer(store, overlap=AdaptiveOverlap(), transact=apart) as writer:
        held = writer.lease(LeaseRequest(annotator=who, limit=2)).result()
        nobody = writer.lease(LeaseRequest(annotator="nobody"))
        assert isinstance(nobody.exception(), InputError)
        receipts = [writer.answer(answered(one)).result() for one in held]
        assert writer.answer(answered(held[0])).result().replay
        again = writer.answer(Submission(lease_token=held[0].token, value={"choice": "b"}, idempotency_key="new"))
        refused = again.exception()
        assert isinstance(refused, LeaseError)
        assert refused.answer_id == receipts[0].answer_id  # what an error carries comes through the pipe, too
        broken = writer.submit(defective).exception()
        assert isinstance(broken, KeyError)
        assert "in defective" in "".join(broken.__notes__)  # where it happened
        assert apart.pid not in (None, os.getpid())
    assert [row.id for row in answers(store)] == [one.answer_id for one in receipts]


def test_killed_it_says_so_and_another_one_takes_its_place(store: Store, apart: WriterProcess) -> None:
    ask(store, 2)
    who = add_annotator(store, "Ada", kind="person")
    with Writer(store, transact=apart) as writer:
        (held,) = writer.lease(LeaseRequest(annotator=who)).result()
        first = apart.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        with pytest.raises(RunError, match="send it again with the same key"):
            writer.answer(answered(held)).result()
        assert not writer.answer(answered(held)).result().late
        assert apart.pid != first
    assert len(list(answers(store))) == 1


def test_ctrl_c_does_not_end_it(store: Store, apart: WriterProcess) -> None:
    ask(store, 1)
    who = add_annotator(store, "Ada", kind="person")
    with Writer(store, transact=apart) as writer:
        assert isinstance(writer.lease(LeaseRequest(annotator="nobody")).exception(), InputError)
        assert apart.pid is not None
        os.kill(apart.pid, signal.SIGINT)
        assert len(writer.lease(LeaseRequest(annotator=who)).result()) == 1


PARENT = """
import sys, time
from prefloop.store.database import open_store
from prefloop.store.queue import LeaseRequest
from prefloop.store.writer import Writer
from prefloop.store.writer_process import WriterProcess

if __name__ == "__main__":
    process = WriterProcess()
    writer = Writer(open_store(sys.argv[1]), transact=process)
    writer.lease(LeaseRequest(annotator="nobody")).exception()
    print(process.pid, flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9 on Windows")
def test_it_ends_with_whoever_made_it(store_url: str, tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    command = [sys.executable, str(tmp_path / "parent.py"), store_url, "600"]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not alive(child))


def test_a_program_that_forgets_it_ends_all_the_same(store_url: str, tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    command = [sys.executable, str(tmp_path / "parent.py"), store_url, "0"]
    child = int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)
    until(lambda: not alive(child))


def alive(pid: int) -> bool:
    """Whether this process runs; one that ended and waits for somebody to look (a zombie) does not."""
    states: Sequence[str] = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    return any(not state.startswith("Z") for state in states)
