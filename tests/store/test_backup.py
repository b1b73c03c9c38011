"""Backups: one state of the store, also under load; put back whole, and without what was erased since."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from prefloop.errors import InputError, RunError
from prefloop.store import backup as backups
from prefloop.store.audit_log import Head, verify
from prefloop.store.backup import backup, recorded_files, restore
from prefloop.store.database import Store, open_store
from prefloop.store.erasure import erase_subject
from prefloop.store.feedback import answers, import_answers
from prefloop.store.sqlite import sqlite3


def said(n: int, first: int = 0) -> list[dict[str, object]]:
    return [
        {
            "kind": "demonstration",
            "prompt": f"prompt {first + i}",
            "value": {"text": f"said {first + i}"},
            "annotator": "w1",
            "source": "s",
        }
        for i in range(n)
    ]


@pytest.fixture
def usable(store: Store) -> Store:
    if store.dialect == "postgresql" and not (shutil.which("pg_dump") and shutil.which("pg_restore")):
        pytest.skip("pg_dump and pg_restore are not installed")
    return store


def test_a_copy_is_put_back(usable: Store, store_url: str, tmp_path: Path) -> None:
    import_answers(usable, said(3))
    made = backup(usable, tmp_path / "copy")
    assert (made["answers"], made["bytes"]) == (3, (tmp_path / "copy").stat().st_size)
    assert (tmp_path / "copy").stat().st_mode & 0o077 == 0
    import_answers(usable, said(2, first=3))
    usable.close()
    done = restore(store_url, tmp_path / "copy")
    assert (done["answers"], done["erased_again"]) == (3, 0)
    again = open_store(store_url)
    assert [row.value["text"] for row in answers(again)] == ["said 0", "said 1", "said 2"]
    assert verify(again, Head(**made["head"])).problems == []
    import_answers(again, said(2, first=3))  # and it goes on
    assert len(list(answers(again))) == 5
    again.close()


def test_what_was_erased_since_is_erased_again(usable: Store, store_url: str, tmp_path: Path) -> None:
    import_answers(usable, said(3))
    (worker,) = {row.annotator for row in answers(usable)}
    backup(usable, tmp_path / "copy")
    erase_subject(usable, next(row.id for row in answers(usable)), reason="asked to")
    usable.close()
    assert restore(store_url, tmp_path / "copy")["erased_again"] == 1
    again = open_store(store_url)
    assert [row.value["text"] for row in answers(again)] == ["said 1", "said 2"]
    erase_subject(again, worker, reason="asked to")
    again.close()
    assert restore(store_url, tmp_path / "copy")["erased_again"] == 4
    last = open_store(store_url)
    assert list(answers(last)) == []
    assert verify(last).problems == []
    last.close()


def test_the_present_database_is_kept(tmp_path: Path) -> None:
    store = open_store(tmp_path / "p.db")
    import_answers(store, said(1))
    backup(store, tmp_path / "copy")
    import_answers(store, said(1, first=1))
    store.close()
    done = restore(f"sqlite:///{tmp_path / 'p.db'}", tmp_path / "copy")
    kept = open_store(Path(done["kept"]))
    assert len(list(answers(kept))) == 2
    kept.close()
    again = open_store(tmp_path / "p.db")
    assert [row.path for row in recorded_files(again, "backup")][-1] == done["kept"]
    again.close()


def test_a_copy_under_load_is_one_state(store: Store, tmp_path: Path) -> None:
    if store.dialect == "postgresql":
        pytest.skip("pg_dump reads one snapshot by itself")
    stop = threading.Event()
    n = 0

    def write() -> None:
        nonlocal n
        while not stop.is_set():
            import_answers(store, said(5, first=n))
            n += 5

    writer = threading.Thread(target=write)
    writer.start()
    try:
        copies = [backup(store, tmp_path / f"copy {i}") for i in range(5)]
    finally:
        stop.set()
        writer.join()
    for copy in copies:
        opened = open_store(Path(copy["path"]))
        found = verify(opened)
        assert found.problems == []
        assert found.answers % 5 == 0  # no transaction is there by half
        assert found.head.number >= copy["head"]["number"]
        opened.close()
    assert len(list(answers(store))) == n


def test_what_is_no_copy_changes_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'p.db'}"
    store = open_store(url)
    import_answers(store, said(1))
    backup(store, tmp_path / "copy")
    with pytest.raises(InputError, match="exists already"):
        backup(store, tmp_path / "copy")
    with pytest.raises(InputError, match="folder of the copy does not exist"):
        backup(store, tmp_path / "none" / "copy")
    (tmp_path / "text").write_text("no database at all")
    sqlite3.connect(tmp_path / "other").execute("CREATE TABLE x (y)").connection.close()
    torn = (tmp_path / "copy").read_bytes()
    (tmp_path / "torn").write_bytes(torn[:8192] + b"\xff" * 4096 + torn[12288:])
    newer = sqlite3.connect(tmp_path / "newer")
    sqlite3.connect(tmp_path / "copy").backup(newer)
    newer.execute("UPDATE alembic_version SET version_num = '9999'")
    newer.commit()
    newer.close()
    for name, message in (
        ("absent", "no such file"),
        ("text", "is no SQLite database"),
        ("other", "holds no store of prefloop"),
        ("torn", "damaged|cannot be copied"),
        ("newer", "made by a newer prefloop"),
    ):
        with pytest.raises((InputError, RunError), match=message):
            restore(url, tmp_path / name)
    assert len(list(answers(store))) == 1
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    store.close()


def test_a_missing_program_is_named(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if store.dialect == "sqlite":
        pytest.skip("SQLite needs no other program")
    monkeypatch.setattr(backups.shutil, "which", lambda name: None)
    with pytest.raises(RunError, match="pg_dump is not installed"):
        backup(store, tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []
