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
from typing import Any, TypeAlias, TypeVar

from sqlalchemy.engine import Connection

from prefloop.errors import PrefloopError, RunError
from prefloop.store.asking import OverlapPolicy
from prefloop.store.database import Store
from prefloop.store.queue import Lease, LeaseRequest, hand_out
from prefloop.store.submissions import Receipt, Submission, take
from prefloop.store.writer_lock import POLL_SECONDS

T = TypeVar("T")

Request: TypeAlias = LeaseRequest | Submission | Callable[[Connection], Any]
"""What can be done in a transaction with others: kinds that are done together, or a function of the connection."""

Transact: TypeAlias = Callable[[Store, Sequence[Request], OverlapPolicy | None], list[Any]]

MAX_BATCH = 256
"""Requests in one transaction at most, so that none waits long for the others' work."""

YIELD_EVERY_SECONDS = 1.0
"""A busy writer takes SQLite's lock again at once; every so often it waits a moment, so that a verb that is typed while
`serve` runs gets its turn."""


@dataclass(frozen=True)
class _Job:
    request: Request
    future: Future[Any]


def transact(store: Store, requests: Sequence[Request], overlap: OverlapPolicy | None) -> list[Any]:
    """Do the requests in one transaction: what each of them gives, or its error. When this returns, it is committed.

    Raises what keeps the transaction as a whole from being committed; then none of them is done.
    """
    try:
        with store.write() as connection:
            return _done(connection, requests, overlap, _all_at_once)
    except PrefloopError:
        raise
    except Exception:  # a defect: once more, each in a savepoint, so that it hits one only
        with store.write() as connection:
            return _done(connection, requests, overlap, _one_by_one)


class Writer:
    """The one thread through which a process writes to its store.

    Use it as a context manager, or `close` it: what was asked for before that is still done. A transaction that as a
    whole cannot be committed (a full disk, a lost connection) fails all its requests with the same RunError.
    `transact`: does a transaction's requests, here or in a process of its own (writer_process.py).
    """

    def __init__(
        self,
        store: Store,
        *,
        overlap: OverlapPolicy | None = None,
        max_batch: int = MAX_BATCH,
        transact: Transact = transact,
    ) -> None:
        self.store = store
        self.overlap = overlap
        self._transact = transact
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
        try:
            results = self._transact(self.store, [job.request for job in batch], self.overlap)
        except BaseException as error:
            results = [error] * len(batch)
        else:
            self.transactions += 1
        for job, result in zip(batch, results, strict=True):
            if isinstance(result, BaseException):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)


_Many: TypeAlias = Callable[[Connection, list[Any]], Sequence[Any]]


def _done(
    connection: Connection,
    requests: Sequence[Request],
    overlap: OverlapPolicy | None,
    do: Callable[[Connection, _Many, list[Any]], Sequence[Any]],
) -> list[Any]:
    results: dict[int, Any] = {}
    for kind, many in ((Submission, partial(take, overlap=overlap)), (LeaseRequest, hand_out)):
        places = [index for index, request in enumerate(requests) if isinstance(request, kind)]
        if places:
            results.update(zip(places, do(connection, many, [requests[index] for index in places]), strict=True))
    for index, request in enumerate(requests):
        if callable(request):
            results[index] = _alone(connection, request)
    return [results[index] for index in range(len(requests))]


def _all_at_once(connection: Connection, many: _Many, requests: list[Any]) -> Sequence[Any]:
    return many(connection, requests)


def _one_by_one(connection: Connection, many: _Many, requests: list[Any]) -> Sequence[Any]:
    return [_alone(connection, partial(_only, many, one)) for one in requests]


def _only(many: _Many, one: Request, connection: Connection) -> Any:
    return many(connection, [one])[0]


def _alone(connection: Connection, do: Callable[[Connection], Any]) -> Any:
    """What `do` returns, or the error that it raised: then nothing of it stays."""
    try:
        with connection.begin_nested():
            return do(connection)
    except Exception as error:
        if connection.invalidated or not connection.in_transaction():
            raise  # the transaction itself is lost, and with it everybody's work
        return error
