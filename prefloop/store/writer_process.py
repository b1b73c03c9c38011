"""A writer's transactions in a process of their own.

Reading requests and writing them are both Python, and two threads take turns with the interpreter's lock: on two cores
they reach what one core does, less what passing the lock back and forth costs (docs/LOG.md has the figures).
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection as Pipe
from typing import Any

from prefloop.errors import PrefloopError, RunError
from prefloop.store.asking import OverlapPolicy
from prefloop.store.database import Store, open_store
from prefloop.store.writer import Request, transact

# Not a fork: the app has threads, and a lock that one of them holds would stay held in the child for ever.
_context = multiprocessing.get_context("spawn")


class WriterProcess:
    """As `writer.transact`, done elsewhere: give it to a `Writer` as `transact`.

    The process ends with the one that made it, however that ends. When it is killed itself, a new one takes its place:
    the requests that it had fail with RunError (they may be stored; sent again with the same key, they are so once).
    Nothing but what the two send each other goes through their pipe, so what is pickled there comes from ourselves.
    """

    def __init__(self) -> None:
        self._process: Any = None
        self._pipe: Pipe | None = None

    def __call__(self, store: Store, requests: Sequence[Request], overlap: OverlapPolicy | None) -> list[Any]:
        try:
            if self._pipe is None:
                self._start(store, overlap)
            assert self._pipe is not None
            self._pipe.send(list(requests))
            results = self._pipe.recv()
        except (EOFError, OSError):
            self.close()
            raise RunError(
                "the process that writes to the database ended; whether this was stored is not known: send it again "
                "with the same key"
            ) from None
        if isinstance(results, BaseException):
            raise results
        done: list[Any] = results
        return done

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """End the process, which has nothing left to do. May be called again."""
        atexit.unregister(self.close)
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            self._process.join()
            self._process = None

    def _start(self, store: Store, overlap: OverlapPolicy | None) -> None:
        ours, theirs = _context.Pipe()
        address = store.engine.url.render_as_string(hide_password=False)
        process = _context.Process(
            target=_serve, args=(theirs, address, store.lock_timeout, overlap), name="prefloop-writer", daemon=True
        )
        process.start()
        theirs.close()
        atexit.register(self.close)  # a program that forgets to close would wait for it for ever
        self._pipe, self._process = ours, process


def _serve(pipe: Pipe, address: str, lock_timeout: float, overlap: OverlapPolicy | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us, too, but what was asked for is still written
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    store = open_store(address, lock_timeout=lock_timeout)
    gc.freeze()
    with contextlib.suppress(EOFError, OSError):
        while True:
            requests = pipe.recv()
            try:
                results: Any = [_told(result) for result in transact(store, requests, overlap)]
            except Exception as error:
                results = _told(error)
            pipe.send(results)
    store.close()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)  # a transaction that is going on is undone; nobody is there to be told of it


def _told(result: Any) -> Any:
    """A defect takes along where it happened: a traceback does not go through a pipe."""
    if isinstance(result, Exception) and not isinstance(result, PrefloopError):
        result.add_note("".join(traceback.format_exception(result)))
    return result
