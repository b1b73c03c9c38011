"""Copies of the store: made while others write, checked, and put back.

SQLite is copied page by page by its own backup function, in one step: the copy is one state of the database, and who
writes meanwhile waits. PostgreSQL is copied by pg_dump, which reads one snapshot. A copy that is put back does not
bring back what was erased since it was made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from prefloop.artifacts.files import disk_error, sha256_of
from prefloop.errors import InputError, RunError
from prefloop.records import content_hash
from prefloop.store.audit_log import OPERATOR, append, audited, head
from prefloop.store.counting import counts
from prefloop.store.database import Store, open_store
from prefloop.store.erasure import buried, bury_again, scrub
from prefloop.store.sqlite import sqlite3
from prefloop.store.tables import exports

DUMP_SECONDS = 6 * 3600


def backup(store: Store, path: str | Path, *, by: str = OPERATOR) -> dict[str, Any]:
    """Copy the store to a new file `path`. Returns `path`, `bytes`, `sha256`, `answers` and the audit log's `head`.

    The copy appears whole or not at all. Raises InputError when `path` exists, RunError when the disk is full, when
    the copy does not pass SQLite's own check, or when pg_dump is missing or fails.
    """
    path = Path(path).absolute()
    if path.exists():
        raise InputError(f"{path} exists already; give another name or remove it")
    if not path.parent.is_dir():
        raise InputError(f"the folder of the copy does not exist: {path.parent}")
    newest = head(store)
    part = path.with_name(f".{path.name}.part")
    try:
        part.touch(mode=0o600)
        if store.dialect == "sqlite":
            _copy_sqlite(Path(str(store.engine.url.database)), part)
        else:
            _run(store, ["pg_dump", "--format=custom", "--no-owner", f"--file={part}"])
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise disk_error(error, path) from None
    finally:
        part.unlink(missing_ok=True)
    record_file(store, "backup", path, by=by)
    said = sum(counts(store)["answers"].values())
    return {
        "path": str(path),
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
        "answers": said,
        "head": vars(newest),
    }


def restore(url: str, path: str | Path, *, by: str = OPERATOR) -> dict[str, Any]:
    """Put a copy that `backup` made in the place of the database at `url`.

    What is there now is kept beside it (SQLite: `NAME.before-restore-TIME`; PostgreSQL: nothing, so back it up before).
    What was erased since the copy was made is erased again. Returns `restored`, `kept`, `answers`, `erased_again` and
    the audit log's `head`.

    Raises InputError when `path` is no such copy or of a newer prefloop, RunError when another process writes
    to the database all the while, when the copy is damaged, or when pg_restore is missing or fails. Then the database
    is as it was.
    """
    path = Path(path).absolute()
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    now = open_store(url)
    try:
        if now.dialect == "sqlite" and path.samefile(str(now.engine.url.database)):
            raise InputError(f"{path} is the database itself; name a copy that prefloop backup made")
        known, before = buried(now), head(now)
        if now.dialect == "sqlite":
            kept = _put_back_sqlite(now, path)
        else:
            _check_dump(path)
            _run(now, ["pg_restore", "--clean", "--if-exists", "--no-owner", "--single-transaction", str(path)])
            kept = None
    finally:
        now.close()
    store = open_store(url)
    try:
        again = bury_again(store, [one for one in known if one not in set(buried(store))])
        if again:
            scrub(store)
        with audited(store) as connection:
            append(connection, "restore", by, "store", content_hash([before.number, before.hash]))
        if kept is not None:
            record_file(store, "backup", kept, by=by)
        said = sum(counts(store)["answers"].values())
        newest = vars(head(store))
    finally:
        store.close()
    return {
        "restored": str(path),
        "kept": None if kept is None else str(kept),
        "answers": said,
        "erased_again": again,
        "head": newest,
    }


def record_file(
    store: Store,
    kind: str,
    path: Path,
    *,
    by: str = OPERATOR,
    snapshot: str | None = None,
    purpose: str | None = None,
) -> None:
    """Note that a file (or folder) with what people said left the store, so that erasure can find it."""
    digest = content_hash(sorted((str(f), sha256_of(f)) for f in _files(path)))
    row = {"kind": kind, "path": str(path.absolute()), "sha256": digest, "snapshot": snapshot, "purpose": purpose}
    with audited(store) as connection:
        connection.execute(sa.insert(exports).values(row | {"by": by, "at": datetime.now(UTC)}))
        append(connection, kind, by, kind, content_hash([digest, snapshot, purpose]))


def recorded_files(store: Store, kind: str | None = None) -> list[Any]:
    """The files that left and were not removed by prefloop since, oldest first: rows of `exports`."""
    query = sa.select(exports).where(exports.c.removed_at.is_(None)).order_by(exports.c.number)
    if kind is not None:
        query = query.where(exports.c.kind == kind)
    with store.read() as connection:
        return list(connection.execute(query))


def note_removed(store: Store, numbers: Sequence[int]) -> None:
    """These files are gone."""
    with store.write() as connection:
        connection.execute(
            sa.update(exports).where(exports.c.number.in_(list(numbers))).values(removed_at=datetime.now(UTC))
        )


def _files(path: Path) -> list[Path]:
    return sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]


def _copy_sqlite(database: Path, part: Path) -> None:
    try:
        with closing(sqlite3.connect(database, timeout=60)) as source, closing(sqlite3.connect(part)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
            problem = copy.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        raise RunError(f"the database cannot be copied: {error} ({database})") from None
    if problem != "ok":
        raise RunError(f"the database is damaged, and a copy of it would be too: {problem} ({database})")


def _put_back_sqlite(now: Store, path: Path) -> Path:
    database = Path(str(now.engine.url.database)).absolute()
    draft = database.with_name(f".{database.name}.restoring")
    kept = database.with_name(f"{database.name}.before-restore-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}")
    with path.open("rb") as file:
        if file.read(16) != b"SQLite format 3\x00":
            raise InputError(f"{path} is no SQLite database, so prefloop backup did not make it for this one")
    try:
        with now.hold():
            _copy_sqlite(path, draft)
            _check_copy(draft, path)
            _copy_sqlite(database, kept)
            kept.chmod(0o600)
            now.engine.dispose()
            _copy_into_sqlite(draft, database)
    except OSError as error:
        raise disk_error(error, database) from None
    finally:
        for suffix in ("", "-journal", "-wal", "-shm", ".lock"):
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)
    return kept


def _check_copy(draft: Path, path: Path) -> None:
    """Open it as a store, which brings old tables up to date and refuses those of a newer prefloop."""
    with closing(sqlite3.connect(draft)) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"alembic_version", "answers", "questions"} <= tables:
        raise InputError(f"{path} is a SQLite database, but holds no store of prefloop")
    open_store(draft).close()


def _copy_into_sqlite(draft: Path, database: Path) -> None:
    """Page by page, as one transaction of the database: it is whole afterwards also for who has it open (`serve`)."""
    try:
        with closing(sqlite3.connect(draft)) as source, closing(sqlite3.connect(database, timeout=60)) as target:
            target.execute("PRAGMA synchronous=FULL")
            source.backup(target)
    except sqlite3.Error as error:
        raise RunError(f"the database cannot be replaced, and stays as it was: {error} ({database})") from None


def _check_dump(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(5) != b"PGDMP":
            raise InputError(f"{path} is no dump of PostgreSQL, so prefloop backup did not make it for this database")


def _run(store: Store, command: Sequence[str]) -> None:
    """One of PostgreSQL's own programs, on this database; the password goes through the environment only."""
    url = store.engine.url
    program = shutil.which(command[0])
    if program is None:
        raise RunError(f"{command[0]} is not installed; it comes with PostgreSQL's client programs")
    address = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    environment = {**os.environ, **({"PGPASSWORD": str(url.password)} if url.password else {})}
    with suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            [program, f"--dbname={address}", *command[1:]],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DUMP_SECONDS,
            check=False,
        )
        if done.returncode == 0:
            return
        said = done.stderr.strip()
        said = said.replace(str(url.password), "***") if url.password else said
        raise RunError(f"{command[0]} failed and nothing was changed: {said[-500:]}")
    raise RunError(f"{command[0]} took longer than {DUMP_SECONDS / 3600:g} hours and was stopped")
