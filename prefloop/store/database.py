"""Open a database and write to it one transaction at a time: SQLite by default, PostgreSQL by URL.

SQLite has one writer (writer_lock.py), `BEGIN IMMEDIATE` and `synchronous=FULL`: a commit that returned is on the disk.
WAL is used only from SQLite 3.51.3 on; before that two writing connections could corrupt it, and the rollback journal
is used (https://www.sqlite.org/wal.html, "the WAL-reset bug").
"""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Dialect, Engine, make_url

from prefloop.errors import InputError, PrefloopError, RunError
from prefloop.store.sqlite import sqlite3
from prefloop.store.writer_lock import WriterLock, writer_lock

Row: TypeAlias = Any
"""A row that SQLAlchemy read: 2.0 and 2.1 disagree on how its type is written."""

HEAD = "0005"
"""The newest revision in migrations/versions (a test compares)."""

WAL_IS_SAFE_FROM = (3, 51, 3)
WAL_PAGES = 8000
"""How far the write-ahead log grows (32 MB) before it goes into the database: pages that are written again and again
then go there once."""
BUSY_SECONDS = 30.0
"""How long a transaction waits for another one before it gives up."""

DISK_FULL = "53100"
"""PostgreSQL's SQLSTATE, https://www.postgresql.org/docs/current/errcodes-appendix.html"""

MEANINGS = {
    "disk is full": "the disk is full, and nothing of this change was written; free some space, then repeat it",
    "readonly database": "the database cannot be written to; mend its permissions",
    "read-only transaction": "the database cannot be written to: it is read-only",
    "not a database": "this file is no SQLite database",
    "malformed": "this SQLite database is damaged; restore a backup",
    "unable to open database file": "the database cannot be opened; mend its path or permissions",
    "disk I/O error": "the disk failed while the database was used, and nothing of this change was kept",
    "database is locked": f"another program holds the database for more than {BUSY_SECONDS:g} seconds; close it",
}
"""What the databases say, and what it means for a person."""

ADVISORY_LOCK = 0x70726566
"""PostgreSQL's application lock ("pref") under which answers get their numbers and migrations run."""


class Store:
    """A database of prompts, completions, questions and answers. Made by `open_store`."""

    def __init__(self, engine: Engine, lock: WriterLock | None, lock_timeout: float) -> None:
        self.engine = engine
        self.dialect: str = engine.dialect.name
        """`sqlite` or `postgresql`."""
        self.lock = lock
        self.lock_timeout = lock_timeout
        self._here = threading.local()
        _open_stores.add(self)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One writing transaction: committed when the block ends, undone when it raises.

        Raises RunError when the disk is full, the database is gone, or another process holds it for too long, and when
        this thread is writing already (the inner transaction would wait for the outer one for ever).
        """
        if getattr(self._here, "writing", False):
            raise RunError("a writing transaction was begun within another one; finish the first one before")
        self._here.writing = True
        try:
            with (
                self.lock.held(self.lock_timeout) if self.lock else nullcontext(),
                _readable_errors(self),
                self.engine.connect().execution_options(prefloop_writes=True) as connection,
                connection.begin(),
            ):
                yield connection
        finally:
            self._here.writing = False

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One reading transaction. Keep it short: SQLite's rollback journal lets nobody commit meanwhile."""
        with _readable_errors(self), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Stay the only writing process for the whole block (`serve` does); its own threads go on writing in turn."""
        with self.lock.kept_by_process(self.lock_timeout) if self.lock else nullcontext():
            yield

    def close(self) -> None:
        self.engine.dispose()


_open_stores: weakref.WeakSet[Store] = weakref.WeakSet()


def _after_fork() -> None:
    """A connection must not be used on both sides of a fork: the child opens its own."""
    for store in list(_open_stores):
        store.engine.dispose(close=False)


os.register_at_fork(after_in_child=_after_fork)


def open_store(url: str | os.PathLike[str], *, lock_timeout: float = BUSY_SECONDS) -> Store:
    """Open the database at `url`, make it when it is new, and bring its tables up to date.

    `url`: `sqlite:///path/to/prefloop.db`, a plain path to such a file, or `postgresql://user:password@host/name`.
    `lock_timeout`: seconds to wait while another process writes (SQLite).

    Raises InputError for a URL that means no database prefloop can use, RunError when the database does not answer.
    No message contains the password.
    """
    address = _parse_url(url)
    if address.get_backend_name() == "sqlite":
        store = _open_sqlite(address, lock_timeout)
    else:
        store = _open_postgresql(address, lock_timeout)
    try:
        _migrate(store)
    except BaseException:
        store.close()
        raise
    return store


def insert_new(connection: Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    """Insert many rows at once; a row whose key is there already changes nothing."""
    if rows:
        make = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        connection.execute(make(table).on_conflict_do_nothing(), rows)


class ForRows:
    """An INSERT or UPDATE that is done for many rows: put into words once for each database and set of columns.

    Does what `connection.execute(statement, rows)` does, which goes through the whole statement again for each row.
    """

    def __init__(self, statement: sa.Insert | sa.Update) -> None:
        self.statement = statement
        self._made: dict[tuple[str, ...], _Words] = {}

    def __call__(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """The rows have the same keys; where there is no row there is nothing to do."""
        if rows:
            key = (connection.dialect.name, *rows[0])
            if key not in self._made:
                self._made[key] = _Words(self.statement, connection.dialect, rows[0])
            words = self._made[key]
            connection.exec_driver_sql(words.text, [words.values(row) for row in rows])


class _Words:
    """A statement as a database's driver takes it, and its values."""

    def __init__(self, statement: sa.Insert | sa.Update, dialect: Dialect, names: Collection[str]) -> None:
        columns = [name for name in names if name in statement.table.c]
        compiled = statement.compile(dialect=dialect, column_keys=columns)
        self.text = str(compiled)
        self.order = compiled.positiontup
        """The names of the values, for a driver that takes them by place."""
        self.processors = {
            name: bind.type.dialect_impl(dialect).bind_processor(dialect) for name, bind in compiled.binds.items()
        }
        self.always = self._processed({n: bind.effective_value for n, bind in compiled.binds.items() if n not in names})
        """Values that stand in the statement itself."""

    def values(self, row: Mapping[str, Any]) -> Any:
        """Of one row, as the driver takes them."""
        given = self.always | self._processed(row)
        return given if self.order is None else tuple([given[name] for name in self.order])

    def _processed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: value if (process := self.processors[name]) is None else process(value) for name, value in row.items()
        }


def any_of(column: sa.Column[Any], name: str) -> sa.ColumnElement[bool]:
    """The column is one of a list that is bound later, as `name`."""
    return column.in_(sa.bindparam(name, expanding=True))


def in_answer_order(connection: Connection) -> None:
    """From here to the end of the transaction, nobody else can add answers.

    A PostgreSQL sequence hands out numbers in the order of the inserts, not of the commits: without this a reader
    with a cursor could see number 8, go on from there, and never see number 7. SQLite has one writer anyway.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})


def _parse_url(url: str | os.PathLike[str]) -> URL:
    given = os.fspath(url)
    if "://" not in given:
        given = f"sqlite:///{given}"
    scheme = given.partition("://")[0]
    given = re.sub(r"^postgres(ql)?(\+psycopg)?://", "postgresql+psycopg://", given)
    try:
        address = make_url(given)
        backend = address.get_backend_name()
    except (sa.exc.ArgumentError, ValueError):
        raise InputError(
            f"the database URL ({scheme}://...) cannot be read; "
            "write sqlite:///path/to/prefloop.db or postgresql://user:password@host:5432/name "
            "(with @ : / in a password percent-encoded)"
        ) from None
    if backend not in ("sqlite", "postgresql") or address.drivername not in (
        "sqlite",
        "sqlite+pysqlite",
        "postgresql+psycopg",
    ):
        raise InputError(f"the store lives in sqlite:// or postgresql:// databases, got {scheme}://")
    if backend == "sqlite" and address.database in (None, "", ":memory:"):
        raise InputError("the SQLite database must be a file, for example sqlite:///prefloop.db")
    return address


def _open_sqlite(address: URL, lock_timeout: float) -> Store:
    path = Path(address.database or "")
    if not path.parent.is_dir():
        raise InputError(f"the folder of the database does not exist: {path.parent}; make it or mend the URL")
    if path.is_dir():
        raise InputError(f"the database must be a file, got a folder: {path}")
    engine = sa.create_engine(
        address,
        module=sqlite3,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        pool_size=8,
        max_overflow=32,
    )
    journal = "WAL" if sqlite3.sqlite_version_info >= WAL_IS_SAFE_FROM else "TRUNCATE"

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        try:
            _set_up_sqlite(connection, journal, path)
        except sqlite3.DatabaseError as error:
            raise _explain_text(str(error), str(path)) or error from error

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("prefloop_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return Store(engine, writer_lock(path), lock_timeout)


def _set_up_sqlite(connection: sqlite3.Connection, journal: str, path: Path) -> None:
    # TRUNCATE and not DELETE: with FULL, SQLite syncs the truncated journal, so that a commit outlives a power cut.
    mode = connection.execute(f"PRAGMA journal_mode={journal}").fetchone()[0]
    if mode.upper() != journal:
        raise RunError(
            f"SQLite {sqlite3.sqlite_version} cannot safely write this database in its {mode} mode ({path}); close "
            f"every other program that has it open, or use SQLite {'.'.join(map(str, WAL_IS_SAFE_FROM))} or newer"
        )
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA secure_delete=ON")  # an erased text leaves no bytes in freed pages


def _open_postgresql(address: URL, lock_timeout: float) -> Store:
    try:
        import psycopg  # noqa: F401  (a missing driver must not look like a missing server)
    except ImportError:
        raise InputError("PostgreSQL needs its driver: pip install 'prefloop[postgresql]'") from None
    arguments = {} if "connect_timeout" in address.query else {"connect_timeout": 10}
    engine = sa.create_engine(address, connect_args=arguments, pool_pre_ping=True, pool_size=8, max_overflow=32)
    store = Store(engine, None, lock_timeout)
    with store.read() as connection:
        encoding = connection.execute(sa.text("SHOW server_encoding")).scalar_one()
    if encoding != "UTF8":
        raise InputError(f"the PostgreSQL database must have the encoding UTF8, got {encoding}")
    return store


def _migrate(store: Store) -> None:
    """Bring the tables to HEAD, in one transaction. Alembic is loaded only when there is something to do."""
    if _version(store) == HEAD:
        return
    with store.write() as connection:
        in_answer_order(connection)
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise InputError(
                f"the tables of this database are of a version that this prefloop does not know ({error}); "
                "it was probably made by a newer prefloop: upgrade prefloop"
            ) from None


def _version(store: Store) -> str | None:
    with store.read() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


@contextmanager
def _readable_errors(store: Store) -> Iterator[None]:
    try:
        yield
    except sa.exc.DBAPIError as error:
        readable = _explain(store, error)
        if readable is None:
            raise
        raise readable from error


def _explain(store: Store, error: sa.exc.DBAPIError) -> PrefloopError | None:
    """What a database's error means for a person, or None when it means a defect in prefloop."""
    url = store.engine.url
    where = str(url.database) if store.dialect == "sqlite" else url.render_as_string(hide_password=True)
    said = str(error.orig).strip()
    for password in (url.password, quote(url.password or "", safe="")):
        said = said.replace(password, "***") if password else said
    sqlstate = getattr(error.orig, "sqlstate", None) or ""
    if sqlstate == DISK_FULL:
        said = "disk is full"
    readable = _explain_text(said, where)
    if readable is None and store.dialect == "postgresql" and isinstance(error, sa.exc.OperationalError):
        return RunError(f"PostgreSQL does not answer as it should at {where}: {said}")
    return readable


def _explain_text(said: str, where: str) -> PrefloopError | None:
    for words, meaning in MEANINGS.items():
        if words in said:
            return RunError(f"{meaning}: {where}")
    return None
