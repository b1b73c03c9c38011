"""Who may write where: standard output belongs to the answer alone, everything else goes to standard error."""

from __future__ import annotations

import contextlib
import os
import sys
import unicodedata
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console


@contextlib.contextmanager
def only_the_answer() -> Iterator[TextIO]:
    """Inside, whatever writes to standard output (libraries, subprocesses, C code) reaches standard error.

    Yields the real standard output for the answer itself.
    """
    sys.stdout.flush()
    real, before = os.dup(1), sys.stdout
    answer = os.fdopen(real, "w", encoding=before.encoding or "utf-8", errors="backslashreplace", newline="\n")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        yield answer
    finally:
        sys.stdout = before
        try:
            answer.flush()
        finally:
            os.dup2(real, 1)
            answer.close()


def log(message: str) -> None:
    """One line of progress, on standard error."""
    Console(stderr=True, markup=False, highlight=False, soft_wrap=True).print(printable(message))


def say(piece: str) -> None:
    """A piece of text as it comes, on standard error."""
    print(printable(piece), end="", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """`text` without control characters: what a model or a file says must not steer the terminal."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else "\ufffd" for c in text)
