"""Every test of the store runs on both databases: ask for `store`, or for an address to open it oneself.

The tables are made once for each kind of database and copied for each test: migrating anew would take most of the time.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from prefloop.store import hashing
from prefloop.store.database import Store, open_store
from tests.postgres import Server

BOTH = ["sqlite", "postgresql"]


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "prefloop.db"
    open_store(path).close()
    return path


@pytest.fixture(scope="session")
def migrated_template(postgresql_server: Server) -> str:
    name = postgresql_server.create()
    open_store(postgresql_server.url(name)).close()
    return name


@pytest.fixture(params=BOTH)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a database of each kind: all tables, no rows."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_file"), tmp_path / "prefloop.db")
        yield f"sqlite:///{tmp_path / 'prefloop.db'}"
        return
    server: Server = request.getfixturevalue("postgresql_server")
    name = server.create(request.getfixturevalue("migrated_template"))
    yield server.url(name)
    server.drop(name)


@pytest.fixture(params=BOTH)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database of each kind in which there is nothing at all."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'prefloop.db'}"
    url = request.getfixturevalue("postgresql_url")
    assert isinstance(url, str)
    return url


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    opened = open_store(store_url)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def quick_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "SCRYPT", (2**4, 8, 1))


def everything_stored(store: Store) -> str:
    """Every row of every table, as text."""
    with store.read() as connection:
        names = sa.inspect(connection).get_table_names()
        return "\n".join(str(row) for name in names for row in connection.execute(sa.text(f"SELECT * FROM {name}")))  # noqa: S608
