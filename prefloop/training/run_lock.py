"""One process per run folder, and a way to ask that process to stop.

The kernel frees the lock when the process ends, however it ends, so a killed run never looks like a running one.
A run is asked to stop by a file, not by a signal: it can then save its state first, and a notebook survives.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from prefloop.errors import RunError

FILE = "running"
STOP = "stop"


_held: dict[Path, int] = {}
"""Folders that this process is at work in, with the descriptors of their locks."""


def take(folder: Path) -> None:
    """Mark `folder` as this process's run until `give_back`, or until the process ends.

    Raises RunError when another process is at work in it.
    """
    if folder.resolve() in _held:
        return
    descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RunError(
            f"process {holder(folder)} is at work on this run already ({folder}); wait for it, or stop it with: "
            "prefloop runs --stop"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    _held[folder.resolve()] = descriptor


def give_back(folder: Path) -> None:
    """The opposite of `take`; does nothing where nothing was taken."""
    descriptor = _held.pop(folder.resolve(), None)
    if descriptor is not None:
        os.close(descriptor)


def holder(folder: Path) -> int | None:
    """The pid of the process that is at work in `folder`, or None when there is none."""
    try:
        descriptor = os.open(folder / FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(descriptor, 32, 0).decode().strip() or 0) or None
    else:
        return None
    finally:
        os.close(descriptor)


def ask_to_stop(folder: Path) -> None:
    """Ask the process at work in `folder` to save a checkpoint and stop after its current step."""
    (folder / STOP).touch()


def was_asked_to_stop(folder: Path) -> bool:
    """Whether to stop now. The request counts once: a resumed run goes on."""
    if not (folder / STOP).exists():
        return False
    (folder / STOP).unlink(missing_ok=True)
    return True
