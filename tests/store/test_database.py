"""Opening, migrating, locking, and what a person is told when the database fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import alembic.autogenerate
import alembic.config
import alembic.migration
import alembic.script
import pytest
import sqlalchemy as sa

import prefloop.store
from prefloop.errors import InputError, RunError
from prefloop.store import database
from prefloop.store.annotators import add_annotator, list_annotators
from prefloop.store.counting import counts
from prefloop.store.database import HEAD, WAL_IS_SAFE_FROM, ForRows, Store, open_store
from prefloop.store.feedback import add_prompts, import_answers
from prefloop.store.sqlite import sqlite3
from prefloop.store.tables import annotators, invitations, metadata

HOLDER = """
import sys, time
from prefloop.store.database import open_store
with open_store(sys.argv[1]).hold():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "prefloop.db", lock_timeout=0.3)
    yield opened
    opened.close()


def a_hundred_long_answers() -> list[dict[str, object]]:
    return [
        {
            "kind": "demonstration",
            "messages": f"prompt {n}",
            "value": {"text": "long " * 2000},
            "annotator": "worker",
        }
        for n in range(100)
    ]


# --- tables ---


def test_the_migrations_make_exactly_the_tables_that_the_code_uses(empty_url: str) -> None:
    store = open_store(empty_url)
    with store.read() as connection:
        context = alembic.migration.MigrationContext.configure(connection, opts={"compare_type": True})
        assert alembic.autogenerate.compare_metadata(context, metadata) == []
    store.close()


def test_head_is_the_newest_migration() -> None:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(prefloop.store.__file__).parent / "migrations"))
    assert alembic.script.ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_many_may_open_a_new_database_at_once(empty_url: str) -> None:
    opened: list[Store] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            opened.append(open_store(empty_url))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert [counts(store)["prompts"] for store in opened] == [0, 0, 0, 0]
    for store in opened:
        store.close()


def test_what_was_written_is_there_when_opened_again(empty_url: str) -> None:
    first = open_store(empty_url)
    add_annotator(first, "Ada", kind="person")
    first.close()
    second = open_store(empty_url)
    assert [one.name for one in list_annotators(second)] == ["Ada"]
    second.close()


def test_an_existing_database_opens_without_alembic(store_url: str) -> None:
    check = (
        f"import sys; from prefloop.store.database import open_store; open_store({store_url!r}); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout.split()
    assert "prefloop.store.database" in loaded
    assert "alembic" not in loaded
    assert "torch" not in loaded


def test_a_database_of_a_newer_version_is_refused(store_url: str) -> None:
    store = open_store(store_url)
    with store.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    store.close()
    with pytest.raises(InputError, match=r"does not know .*9999.* upgrade prefloop"):
        open_store(store_url)


# --- transactions ---


def test_a_transaction_that_fails_leaves_nothing(store: Store) -> None:
    def write_one_row_twice() -> None:
        insert = sa.text("INSERT INTO guidelines (version, text, created_at) VALUES (1, 'x', 0)")
        with store.write() as connection:
            connection.execute(insert)
            connection.execute(insert)

    with pytest.raises(sa.exc.IntegrityError):
        write_one_row_twice()
    with store.read() as connection:
        assert connection.execute(sa.text("SELECT COUNT(*) FROM guidelines")).scalar_one() == 0


def test_a_write_within_a_write_is_an_error_and_no_deadlock(store: Store) -> None:
    with store.write(), pytest.raises(RunError, match="begun within another one"):
        add_annotator(store, "Ada", kind="person")
    assert add_annotator(store, "Ada", kind="person").startswith("person:")


def test_sqlite_is_set_up_to_keep_what_it_acknowledged(file: Store) -> None:
    with file.read() as connection:
        settings = {
            name: connection.execute(sa.text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        }
    journal = "wal" if sqlite3.sqlite_version_info >= WAL_IS_SAFE_FROM else "truncate"
    assert settings == {"journal_mode": journal, "synchronous": 2, "foreign_keys": 1, "secure_delete": 1}  # 2: FULL


def test_wal_is_left_where_it_is_not_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "prefloop.db"
    open_store(path).close()
    with sqlite3.connect(path) as made_elsewhere:
        made_elsewhere.execute("PRAGMA journal_mode=WAL")
    made_elsewhere.close()
    monkeypatch.setattr(database, "WAL_IS_SAFE_FROM", (999, 0, 0))
    store = open_store(path)
    with store.read() as connection:
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar_one() == "truncate"
    store.close()


def test_many_rows_are_written_as_one_by_one(store: Store) -> None:
    first, later = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    people = [
        {"id": f"person:{n}", "name": name, "kind": "person", "profile": profile, "created_at": first}
        for n, (name, profile) in enumerate([("Ada", {"b": [1], "a": None}), ("Bo \u2713", None), ("%s %(id)s ?", {})])
    ]
    some = {
        "purpose": "reset",
        "role": "lead",
        "annotator_id": None,
        "created_by": "Ada",
        "created_at": first,
        "expires_at": later,
    }
    invited = [{"secret": name, **some, "used_at": None, "used_by": None} for name in "abc"]
    use = ForRows(
        sa.update(invitations)
        .where(invitations.c.secret == sa.bindparam("which"))
        .values(used_at=sa.bindparam("at"), used_by=sa.bindparam("who"), purpose="invitation")
    )
    with store.write() as connection:
        connection.execute(sa.insert(annotators), people[:1])
        ForRows(sa.insert(annotators))(connection, people[1:])
        connection.execute(sa.insert(invitations), invited)
        use(connection, [])
        use(connection, [{"which": "b", "at": later, "who": "person:2"}, {"which": "c", "at": None, "who": None}])
    with store.read() as connection:
        found = [dict(row._mapping) for row in connection.execute(sa.select(annotators).order_by(annotators.c.id))]
        used = [dict(row._mapping) for row in connection.execute(sa.select(invitations).order_by(invitations.c.secret))]
    assert found == people
    used_b = {"purpose": "invitation", "used_at": later, "used_by": "person:2"}
    assert used == [invited[0], {**invited[1], **used_b}, {**invited[2], "purpose": "invitation"}]


# --- one writer ---


def test_whoever_waits_for_the_lock_is_told_for_whom(file: Store, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'prefloop.db'}"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, url], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RunError, match=f"being written to by process {holder.pid} for more than 0.3 seconds"):
        add_annotator(file, "Ada", kind="person")
    assert list_annotators(file) == []  # reading needs no lock
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert add_annotator(file, "Ada", kind="person").startswith("person:")  # death frees the lock


def test_threads_take_turns_while_their_process_holds_the_lock(file: Store) -> None:
    names = [f"worker {n}" for n in range(4)]
    with file.hold():
        threads = [threading.Thread(target=add_annotator, args=(file, n), kwargs={"kind": "person"}) for n in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(one.name for one in list_annotators(file)) == names


def test_a_thread_that_holds_on_is_named(file: Store) -> None:
    begun, end = threading.Event(), threading.Event()

    def hold_on() -> None:
        with file.write():
            begun.set()
            end.wait(30)

    thread = threading.Thread(target=hold_on)
    thread.start()
    assert begun.wait(10)
    with pytest.raises(RunError, match=rf"another thread of this process \(pid {os.getpid()}\)"):
        add_annotator(file, "Ada", kind="person")
    end.set()
    thread.join()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_opens_its_own_connection_and_takes_its_own_lock(file: Store) -> None:
    add_annotator(file, "parent", kind="person")
    with file.hold():
        child = os.fork()
        if child == 0:
            code = 1
            try:
                add_annotator(file, "child", kind="person")
            except RunError as error:
                code = 0 if f"process {os.getppid()}" in str(error) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [one.name for one in list_annotators(file)] == ["parent"]


# --- failures ---


def test_a_full_disk_leaves_nothing_half_written(file: Store) -> None:
    add_prompts(file, [{"messages": "before"}])
    # SQLite meets its page limit exactly as it meets a full disk: SQLITE_FULL, "database or disk is full".
    sa.event.listen(file.engine, "checkout", lambda raw, record, proxy: raw.execute("PRAGMA max_page_count=100"))
    with pytest.raises(RunError, match=r"the disk is full, and nothing of this change was written.*prefloop\.db"):
        import_answers(file, a_hundred_long_answers())
    assert counts(file)["prompts"] == 1
    assert counts(file)["answers"] == counts(file)["annotators"] == {}


def test_a_full_disk_of_postgresql_is_told_alike() -> None:
    class DiskFull(Exception):
        sqlstate = "53100"

    store = Store(sa.create_engine("postgresql+psycopg://ada:s3cret@db/prefloop"), None, 1.0)
    error = sa.exc.OperationalError("INSERT", {}, DiskFull("could not extend file: No space left on device"))
    told = database._explain(store, error)
    assert isinstance(told, RunError)
    assert "the disk is full, and nothing of this change was written" in str(told)
    assert "s3cret" not in str(told)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "prefloop.db"
    path.write_text("this is a text file, and a long one at that" * 100)
    with pytest.raises(RunError, match=r"this file is no SQLite database: .*prefloop\.db"):
        open_store(path)


def test_a_damaged_database(tmp_path: Path) -> None:
    path = tmp_path / "prefloop.db"
    store = open_store(path)
    add_prompts(store, [{"messages": f"prompt {n} " + "x" * 500} for n in range(300)])
    store.close()
    damaged = bytearray(path.read_bytes())
    for page in range(4096, len(damaged), 4096):
        damaged[page : page + 100] = b"\xff" * 100
    path.write_bytes(damaged)
    with pytest.raises(RunError, match="this SQLite database is damaged"):
        counts(open_store(path))


def test_a_database_that_may_not_be_written(file: Store) -> None:
    # Root may write to any file, so SQLite itself is told to refuse; the error is that of a read-only file.
    sa.event.listen(file.engine, "checkout", lambda raw, record, proxy: raw.execute("PRAGMA query_only=ON"))
    with pytest.raises(RunError, match="cannot be written to"):
        add_annotator(file, "Ada", kind="person")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://ada:s3cret@host/db", r"sqlite:// or postgresql:// databases, got mysql://"),
        ("postgresql+asyncpg://ada:s3cret@host/db", r"databases, got postgresql\+asyncpg://"),
        ("sqlite://", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
        ("sqlite:////no/such/folder/x.db", "the folder of the database does not exist: /no/such/folder"),
        ("postgresql://ada:s3cret@host:port/db", "cannot be read; write sqlite:///path"),
        ("://s3cret", "cannot be read"),
    ],
)
def test_addresses_that_are_refused(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_store(url)
    assert "s3cret" not in str(caught.value)


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be a file, got a folder"):
        open_store(tmp_path)


def test_a_server_that_does_not_answer_is_named_without_the_password() -> None:
    began = time.monotonic()
    with pytest.raises(RunError, match=r"PostgreSQL does not answer .*ada:\*\*\*@127\.0\.0\.1:1/prefloop") as caught:
        open_store("postgresql://ada:s3cret%40@127.0.0.1:1/prefloop")
    assert "s3cret" not in str(caught.value)
    assert time.monotonic() - began < 15
