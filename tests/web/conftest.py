"""The app over an empty store: on SQLite for pages (`app`), on both databases for what is written (`both_app`)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from prefloop.store.database import Store, open_store
from prefloop.web import create_app
from tests.store.conftest import migrated_file, migrated_template, store, store_url

__all__ = ["migrated_file", "migrated_template", "store", "store_url"]


@pytest.fixture
def desk_store(migrated_file: Path, tmp_path: Path) -> Iterator[Store]:
    shutil.copy(migrated_file, tmp_path / "desk.db")
    opened = open_store(tmp_path / "desk.db")
    yield opened
    opened.close()


@pytest.fixture
def app(desk_store: Store) -> Iterator[FastAPI]:
    made = create_app(desk_store)
    yield made
    made.state.prefloop.close()


@pytest.fixture
def both_app(store: Store) -> Iterator[FastAPI]:
    made = create_app(store)
    yield made
    made.state.prefloop.close()
