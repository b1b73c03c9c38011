"""Progress on standard error: a bar with rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Advance(Protocol):
    """Says how far the work is."""

    def __call__(self, done: int, words: str = "", /) -> None: ...


@contextmanager
def progress(what: str, total: int, done: int = 0, *, quiet_seconds: float = 15.0) -> Iterator[Advance]:
    """Yields `advance(done, words)`; `words` is a short state such as `loss 2.31`."""
    if not sys.stderr.isatty():
        started, last = time.monotonic(), [time.monotonic()]

        def line(now: int, words: str = "") -> None:
            if time.monotonic() - last[0] >= quiet_seconds and now > done:
                last[0] = time.monotonic()
                left = (last[0] - started) / (now - done) * (total - now)
                print(f"{what}: {now}/{total} {words} ({left:.0f} s left)", file=sys.stderr, flush=True)

        yield line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, completed=done, words="")

        def advance(now: int, words: str = "") -> None:
            bar.update(task, completed=now, words=words)

        yield advance
