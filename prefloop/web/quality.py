"""What the answers are worth, for the leads' pages: worked out by a process beside the app, kept in the store.

A page shows the newest report at once, says how old it is, and has the next one begun when the store has gone on. The
report is written in one transaction by the process that made it: whoever is killed meanwhile, the old one stays.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefloop.quality.report import NAME
from prefloop.store.database import Store
from prefloop.store.reports import Report, answers_since, moment, newest_report
from prefloop.store.rulings import rulings

logger = logging.getLogger("prefloop.web")

PAUSE, SHARE, AFTER_FAILURE = 10.0, 4.0, 60.0
"""Seconds between two reports at least; at least so many times as long as one takes; after one that failed."""
SHOWN = 200
"""Annotators on the page: those with findings, then the least reliable."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a page knows."""

    report: Report | None
    newer: int
    """Answers that are not in the report."""
    busy: bool
    """The next one is being made."""
    failed: bool
    """The last attempt did not succeed."""


@dataclass
class Quality:
    """The newest report, and the process that makes the next one: at most one at a time."""

    store: Store
    _process: subprocess.Popen[bytes] | None = None
    _begun: float = 0.0
    _not_before: float = 0.0
    _failed: bool = False
    _known: Report | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def shown(self) -> Shown:
        """The newest report; the next one is begun where the store has gone on, unless the last was just made."""
        with self._lock:
            busy = self._running()
            now = moment(self.store)
            self._known = newest_report(self.store, NAME, self._known)
            old = self._known.moment if self._known else None
            if not busy and now.answer and old != now and time.monotonic() >= self._not_before:
                busy = self._begin()
            newer = answers_since(self.store, old) if old and old.answer != now.answer else 0
            return Shown(report=self._known, newer=newer, busy=busy, failed=self._failed)

    def asking(self) -> int:
        """How many annotators have findings that no lead has ruled on yet, as far as the newest report knows."""
        with self._lock:
            self._known = newest_report(self.store, NAME, self._known)
            found = self._known.value["annotators"] if self._known else []
        flagged = [one for one in found if one["flags"]]
        ruled = rulings(self.store) if flagged else {}
        return sum(one["id"] not in ruled or not ruled[one["id"]].covers(one["flags"]) for one in flagged)

    def refresh(self) -> None:
        """Begin the next report now; one that is being made goes on, and another one follows when it is looked at."""
        with self._lock:
            self._not_before = 0.0
            if not self._running():
                self._begin()

    def busy(self) -> bool:
        """Whether a report is being made."""
        with self._lock:
            return self._running()

    def close(self) -> None:
        """End what is being made; it will be begun again."""
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
                self._process = None

    def _begin(self) -> bool:
        address = self.store.engine.url.render_as_string(hide_password=False)
        command = [sys.executable, "-m", "prefloop.quality.report"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert self._process.stdin is not None
        with self._process.stdin as pipe:  # not among its arguments, where everybody could read the password
            pipe.write(f"{address}\n".encode())
        self._begun = time.monotonic()
        return True

    def _running(self) -> bool:
        if self._process is None:
            return False
        code = self._process.poll()
        if code is None:
            return True
        self._process = None
        now = time.monotonic()
        self._failed = code != 0
        self._not_before = now + (AFTER_FAILURE if code else max(PAUSE, SHARE * (now - self._begun)))
        if code:
            logger.error("the report on what answers are worth was not made: its process ended with %s", code)
        return False


def worst_first(annotators: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those with findings, then the least reliable; SHOWN of them."""
    return sorted(annotators, key=lambda one: (not one["flags"], one["reliability"], one["id"]))[:SHOWN]
