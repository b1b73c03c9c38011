"""A bar on standard error for work that counts rows: how far, how fast, how long still."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def rows_bar(what: str) -> Iterator[Callable[[int, float | None], None]]:
    """Yields a function to be called with the rows done so far and the share of the whole (0..1, None if unknown).

    The bar is drawn on a terminal only, and gone when the work is done.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} rows, {task.fields[rate]:,.0f} rows/s"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None, rows=0, rate=0.0)

        def advance(rows: int, share: float | None) -> None:
            elapsed = bar.tasks[0].elapsed or 0.0
            bar.update(
                task,
                total=None if share is None else 1.0,
                completed=share or 0.0,
                rows=rows,
                rate=rows / elapsed if elapsed else 0.0,
            )

        yield advance
