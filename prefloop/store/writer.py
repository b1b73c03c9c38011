"""One writer thread for many clients: what comes at the same time shares one transaction, and so one wait for the disk.

With `synchronous=FULL` a commit waits until the disk has it, a few milliseconds, however much it holds. While one
transaction is being committed the next requests gather, and go together into the next one. Each of them succeeds or
fails alone; all of them are on the disk before any of them is told so.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from sqlalchemy.engine import Connection

from prefloop.errors import PrefloopError, RunError
from prefloop.store.asking import OverlapPolicy
from prefloop.store.database import Store
from prefloop.store.queue import Lease, LeaseRequest, hand_out
from prefloop.store.submissions import Receipt, Submission, take
from prefloop.store.writer_lock import POLL_SECONDS

T = TypeVar("T")

MAX_BATCH = 256
"""Requests in one transaction at most, so that none waits long for the others' work."""

YIELD_EVERY_SECONDS = 1.0
"""A busy writer takes SQLite's lock again at once; every so often it waits a moment, so that a verb that is typed while
`serve` runs gets its turn."""


@dataclass(frozen=True)
class _Job:
    """A request, of a kind that is done together (`LeaseRequest`, `Submission`) or a function of the connection."""

    request: LeaseRequest | Submission | Callable[[Connection], Any]
    future: Future[Any]


class Writer:
    """The one thread through which a process writes to its store.

    Use it as a context manager, or `close` it: what was asked for before that is still done. A transaction that as a
    whole cannot be committed (a full disk, a lost connection) fails all its requests with the same RunError.
    """

    def __init__(self, store: Store, *, overlap: OverlapPolicy | None = None, max_batch: int = MAX_BATCH) -> None:
        self.store = store
        self.overlap = overlap
        self.max_batch = max_batch
        self.transactions = 0
        """Committed so far."""
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="prefloop-writer", daemon=True)
        self._thread.start()

    def submit(self, do: Callable[[Connection], T]) -> Future[T]:
        """Run `do` in a transaction soon; its result or its error is the future's, once that is on the disk.

        `do` must use the connection it is given, and no `store.write()` of its own. When it raises, what it wrote is
        undone and the others' work is kept.
        """
        return self._put(do)

    def lease(self, request: LeaseRequest) -> Future[list[Lease]]:
        """As `queue.lease`."""
        return self._put(request)

    def answer(self, submission: Submission) -> Future[Receipt]:
        """As `submissions.submit`, for one submission."""
        return self._put(submission)

    def close(self) -> None:
        """Do what was asked for so far, then end the thread. May be called again."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _put(self, request: Any) -> Future[Any]:
        job = _Job(request, Future())
        with self._closing:
            if self._closed:
                raise RunError("the writer was closed: the program is about to end, and nothing more is written")
            self._jobs.put(job)
        return job.future

    def _work(self) -> None:
        going_on, paused = True, time.monotonic()
        while going_on:
            batch, going_on = self._gather()
            if batch:
                self._do(batch)
            if self.store.lock is not None and time.monotonic() - paused > YIELD_EVERY_SECONDS:
                time.sleep(2 * POLL_SECONDS)
                paused = time.monotonic()

    def _gather(self) -> tuple[list[_Job], bool]:
        """What waits now, at least one request; and whether more may come."""
        batch: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            if job.future.set_running_or_notify_cancel():
                batch.append(job)
            if len(batch) >= self.max_batch:
                return batch, True
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _do(self, batch: Sequence[_Job]) -> None:
        """One transaction. Its requests are told only after the commit."""
        results: dict[int, Any] = {}
        try:
            with self.store.write() as connection:
                self._together(connection, batch, Submission, self._take, results)
                self._together(connection, batch, LeaseRequest, self._hand_out, results)
                for index, job in enumerate(batch):
                    if callable(job.request):
                        results[index] = _alone(connection, job.request)
        except BaseException as error:
            results = dict.fromkeys(range(len(batch)), error)
        else:
            self.transactions += 1
        for index, job in enumerate(batch):
            result = results[index]
            if isinstance(result, BaseException):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)

    def _together(
        self,
        connection: Connection,
        batch: Sequence[_Job],
        kind: type[Any],
        do: Callable[[Connection, list[Any]], Sequence[Any]],
        results: dict[int, Any],
    ) -> None:
        """All requests of a kind at once; if that meets a defect, each of them alone, so that it hits one only."""
        places = [index for index, job in enumerate(batch) if isinstance(job.request, kind)]
        requests = [batch[index].request for index in places]
        if not requests:
            return
        done = _alone(connection, lambda inner: do(inner, requests))
        if isinstance(done, BaseException):
            done = [_first(_alone(connection, partial(_do_one, do, one))) for one in requests]
        results.update(zip(places, done, strict=True))

    def _take(self, connection: Connection, submissions: list[Submission]) -> list[Receipt | PrefloopError]:
        return take(connection, submissions, overlap=self.overlap)

    def _hand_out(self, connection: Connection, requests: list[LeaseRequest]) -> list[list[Lease] | PrefloopError]:
        return hand_out(connection, requests)


def _alone(connection: Connection, do: Callable[[Connection], Any]) -> Any:
    """What `do` returns, or the error that it raised: then nothing of it stays."""
    try:
        with connection.begin_nested():
            return do(connection)
    except Exception as error:
        if connection.invalidated or not connection.in_transaction():
            raise  # the transaction itself is lost, and with it everybody's work
        return error


def _do_one(do: Callable[[Connection, list[Any]], Sequence[Any]], one: Any, connection: Connection) -> Sequence[Any]:
    return do(connection, [one])


def _first(done: Any) -> Any:
    return done if isinstance(done, BaseException) else done[0]
