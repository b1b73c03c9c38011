"""Tells webhooks what is due for them (store/outbox.py): one thread, one message at a time, no redirects followed."""

from __future__ import annotations

import http.client
import logging
import threading
from urllib.parse import urlsplit

from prefloop.errors import PrefloopError
from prefloop.store.database import Store
from prefloop.store.outbox import SIGNATURE_HEADER, Delivery, delivered, due, failed

logger = logging.getLogger("prefloop.web")

PAUSE_SECONDS = 2.0
"""How long the sender sleeps when nothing was due."""
TIMEOUT_SECONDS = 10.0


class Sender:
    """The thread that sends. `start` and `stop` it with the app; what it has not sent stays due."""

    def __init__(self, store: Store, pause: float = PAUSE_SECONDS) -> None:
        self.store = store
        self.pause = pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="prefloop-webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish the message at hand, then end."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                waiting = due(self.store, limit=20)
            except PrefloopError as error:
                logger.error("webhooks cannot be read: %s", error)
                waiting = []
            for one in waiting:
                if self._stop.is_set():
                    return
                self._tell(one)
            if not waiting:
                self._stop.wait(self.pause)

    def _tell(self, one: Delivery) -> None:
        problem = send(one)
        try:
            if problem is None:
                delivered(self.store, one.number)
            else:
                failed(self.store, one.number, problem)
        except PrefloopError as error:  # it stays due, and may be told twice: `delivery` in the body says so
            logger.error("a webhook's result cannot be stored: %s", error)
            self._stop.wait(self.pause)


def send(one: Delivery, timeout: float = TIMEOUT_SECONDS) -> str | None:
    """Post one message; None when the receiver took it (a status from 200 to 299), else what went wrong."""
    parts = urlsplit(one.url)
    make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        connection = make(parts.hostname or "", parts.port, timeout=timeout)
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            headers = {"content-type": "application/json", SIGNATURE_HEADER: one.signature()}
            connection.request("POST", path, one.body.encode(), headers)
            status = connection.getresponse().status
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None if 200 <= status < 300 else f"it answered with status {status}"
