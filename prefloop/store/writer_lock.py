"""One writer for one SQLite file, among all threads and processes: a file lock beside the database.

SQLite's own lock is not enough. Versions 3.7.0 to 3.51.2 can corrupt a WAL database when two connections write and
checkpoint at once, and a writer that waits for SQLite cannot say for whom it waits; this one names the process.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefloop.errors import RunError

POLL_SECONDS = 0.002


class WriterLock:
    """A lock that is exclusive among threads and processes, and re-entrant within a thread.

    The kernel frees it when its process ends, however it ends, so a `kill -9` never leaves it behind. The file
    stays and only names the last holder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.thread_lock = threading.RLock()
        self.depth = 0
        self.descriptor: int | None = None

    @contextmanager
    def held(self, timeout: float) -> Iterator[None]:
        """Be the only writer for the block, which nests within a thread.

        Raises RunError after `timeout` seconds, with the pid of the process that has the lock.
        """
        deadline = time.monotonic() + timeout
        with self._among_threads(timeout):
            self._take(deadline, timeout)
            try:
                yield
            finally:
                self._give()

    @contextmanager
    def kept_by_process(self, timeout: float) -> Iterator[None]:
        """Keep other processes out for the block; the threads of this one still take turns with `held`."""
        deadline = time.monotonic() + timeout
        with self._among_threads(timeout):
            self._take(deadline, timeout)
        try:
            yield
        finally:
            with self.thread_lock:
                self._give()

    @contextmanager
    def _among_threads(self, timeout: float) -> Iterator[None]:
        if not self.thread_lock.acquire(timeout=timeout):
            raise RunError(
                f"the database is being written to by another thread of this process (pid {os.getpid()}) for more "
                f"than {timeout:g} seconds ({self.path}); wait for it to finish"
            )
        try:
            yield
        finally:
            self.thread_lock.release()

    def _take(self, deadline: float, timeout: float) -> None:
        if self.depth == 0:
            self.descriptor = self._acquire(deadline, timeout)
        self.depth += 1

    def _give(self) -> None:
        self.depth -= 1
        if self.depth == 0 and self.descriptor is not None:
            os.close(self.descriptor)  # closing frees the lock
            self.descriptor = None

    def _acquire(self, deadline: float, timeout: float) -> int:
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RunError(f"the lock beside the database cannot be opened: {self.path}: {error.strerror}") from None
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise RunError(
                            f"the database is being written to by process {self._holder()} for more than {timeout:g} "
                            f"seconds ({self.path}); stop that process or wait until it is done"
                        ) from None
                    time.sleep(POLL_SECONDS)
            self._sign(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _sign(self, descriptor: int) -> None:
        """Leave our pid for whoever waits. A full disk must not stop the lock itself, so that is let pass."""
        try:
            os.pwrite(descriptor, f"{os.getpid():<20}\n".encode(), 0)
        except OSError:
            return

    def _holder(self) -> str:
        try:
            return self.path.read_text().strip() or "unknown"
        except OSError:
            return "unknown"

    def forget_after_fork(self) -> None:
        """A forked child holds nothing: its copy of the descriptor would keep the parent's lock alive."""
        if self.descriptor is not None:
            os.close(self.descriptor)
        self.descriptor = None
        self.depth = 0
        self.thread_lock = threading.RLock()


_locks: weakref.WeakValueDictionary[Path, WriterLock] = weakref.WeakValueDictionary()
_registry_lock = threading.Lock()


def writer_lock(database: Path) -> WriterLock:
    """The lock of this database file: one object per process, however many stores are open on it."""
    path = database.resolve()
    path = path.with_name(path.name + ".lock")
    with _registry_lock:
        lock = _locks.get(path)
        if lock is None:
            lock = WriterLock(path)
            _locks[path] = lock
        return lock


def _after_fork() -> None:
    global _registry_lock
    _registry_lock = threading.Lock()
    for lock in list(_locks.values()):
        lock.forget_after_fork()


os.register_at_fork(after_in_child=_after_fork)
