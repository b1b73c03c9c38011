"""Which workspace a function works in, and its store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from prefloop.artifacts.workspace import Workspace
from prefloop.store.database import Store, open_store

Place = Workspace | str | Path | None
"""A workspace, its folder, or None for the nearest one at or above the current folder."""


def workspace_at(place: Place) -> Workspace:
    """The workspace that `place` names. Raises InputError when there is none."""
    if isinstance(place, Workspace):
        return place
    return Workspace.find() if place is None else Workspace.open(place)


def workspace_or_none(place: Place) -> Workspace | None:
    """As `workspace_at`, but None where no workspace was named and there is none at or above the current folder."""
    from prefloop.errors import InputError

    try:
        return workspace_at(place)
    except InputError:
        if place is None and not _inside_one():
            return None
        raise


@contextlib.contextmanager
def store_of(workspace: Workspace) -> Iterator[Store]:
    """The workspace's store, closed afterwards."""
    store = open_store(workspace.database_url)
    try:
        yield store
    finally:
        store.close()


def _inside_one() -> bool:
    from prefloop.artifacts.workspace import FILE

    here = Path.cwd()
    return any((folder / FILE).is_file() for folder in (here, *here.parents))
