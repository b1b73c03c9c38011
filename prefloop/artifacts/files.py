"""Bytes on disk that are either whole or absent: SHA-256 of files, atomic writes, atomic folders."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefloop.errors import RunError


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def payload_hashes(folder: Path, leave_out: str) -> dict[str, str]:
    """Relative path -> SHA-256 of every file below `folder`, except the file named `leave_out` at its top."""
    return {
        str(path.relative_to(folder).as_posix()): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / leave_out
    }


def folder_hash(hashes: dict[str, str]) -> str:
    """One hash for a folder: SHA-256 over its sorted (path, sha256) pairs."""
    lines = "".join(f"{path}\t{digest}\n" for path, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode("utf-8")).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text so that a reader sees the old file or the new one. Raises RunError when the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise disk_error(error, path) from None


def write_folder(final: Path, fill: Callable[[Path], None]) -> None:
    """Fill a hidden neighbour of `final`, flush it to disk, then rename it into place.

    An interruption or a full disk leaves nothing at `final`. An existing `final` is left as it is and the
    new content is thrown away: callers name folders by their content.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    part = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.mkdir()
        fill(part)
        for path in part.rglob("*"):
            if path.is_file():
                _sync(path)
        _sync(part)
        if final.exists():
            shutil.rmtree(part)
        else:
            part.rename(final)
            _sync(final.parent)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise disk_error(error, final) from None
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def disk_error(error: OSError, path: Path) -> RunError:
    """The error a user sees when writing failed; names the disk when it is full."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"the disk is full: {path} could not be written, and nothing was left half-written there")
    return RunError(f"{path} could not be written: {error.strerror or error}")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
