"""Everybody who answers, under a pseudonym: persons, and machines that are marked as such in their very id."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from prefloop.errors import InputError
from prefloop.records import content_hash
from prefloop.store.database import Row, Store, any_of, insert_new
from prefloop.store.tables import annotators
from prefloop.store.values import check_storable, in_chunks

AnnotatorKind = Literal["person", "simulated", "ai"]
MACHINES: tuple[AnnotatorKind, ...] = ("simulated", "ai")


@dataclass(frozen=True, kw_only=True)
class Annotator:
    """Somebody who answers."""

    id: str
    """Pseudonymous; begins with `simulated:` or `ai:` exactly when a machine answers."""
    name: str
    kind: AnnotatorKind
    profile: dict[str, Any] = field(default_factory=dict)

    @property
    def is_person(self) -> bool:
        return self.kind == "person"


def add_annotator(store: Store, name: str, *, kind: AnnotatorKind, profile: dict[str, Any] | None = None) -> str:
    """The id of the annotator called `name`, who is added when new; the same name always gives the same id.

    A person's id is drawn at random, so that it tells nothing about the name; a machine's is `simulated:NAME` or
    `ai:NAME`. Raises InputError when the name is taken by another kind, or a person's name looks like a machine's.
    """
    with store.write() as connection:
        return put_annotator(connection, name, kind, profile or {})


def put_annotator(connection: Connection, name: str, kind: AnnotatorKind, profile: dict[str, Any]) -> str:
    """As `add_annotator`, in the caller's transaction."""
    _check_name(name, kind)
    check_storable(profile, "profile")
    if kind in MACHINES:
        identity = name = f"{kind}:{name.removeprefix(f'{kind}:')}"
    else:
        identity = f"person:{secrets.token_hex(8)}"
    row = {"id": identity, "name": name, "kind": kind, "profile": profile, "created_at": datetime.now(UTC)}
    insert_new(connection, annotators, [row])
    found = connection.execute(sa.select(annotators.c.id, annotators.c.kind).where(annotators.c.name == name)).one()
    if found.kind != kind:
        raise InputError(f"annotator {name!r} is a {found.kind} already and cannot also be a {kind}; use another name")
    return str(found.id)


def list_annotators(store: Store) -> list[Annotator]:
    """Everybody, in the order in which they were added."""
    with store.read() as connection:
        rows = connection.execute(sa.select(annotators).order_by(annotators.c.created_at, annotators.c.id)).all()
    return [_annotator(row) for row in rows]


def annotators_by_ids(store: Store, ids: Iterable[str]) -> dict[str, Annotator]:
    """The known ones among `ids`, by id (for lineage: who stands behind an artifact)."""
    wanted = sorted(set(ids))
    found: dict[str, Annotator] = {}
    with store.read() as connection:
        for chunk in in_chunks(wanted):
            rows = connection.execute(sa.select(annotators).where(annotators.c.id.in_(chunk)))
            found.update((row.id, _annotator(row)) for row in rows)
    return found


def kinds_of(store: Store, ids: Iterable[str]) -> dict[str, int]:
    """How many of the annotators are persons, simulated or AI: `{"person": n, "simulated": n, "ai": n}`."""
    counts = dict.fromkeys(get_args(AnnotatorKind), 0)
    for annotator in annotators_by_ids(store, ids).values():
        counts[annotator.kind] += 1
    return counts


def imported_annotators(
    connection: Connection, who: Sequence[tuple[str, str | None]], now: datetime
) -> dict[tuple[str, str | None], str]:
    """The ids of annotators as other people's data name them: (name, source) -> id. Those that are new are added.

    An id that this store gave itself stays what it is (our own export, imported again). A published pseudonym becomes
    `imported:` and a hash of it and its source: the same file gives the same ids everywhere, and the worker "7" of two
    sources stays two people. `simulated:` and `ai:` names stay machines.
    """
    distinct = list(dict.fromkeys(who))
    own: set[str] = set()
    for chunk in in_chunks(sorted({name for name, _ in distinct})):
        own.update(connection.scalars(sa.select(annotators.c.id).where(annotators.c.id.in_(chunk))))
    result: dict[tuple[str, str | None], str] = {}
    rows = []
    for name, source in distinct:
        if name in own:
            result[name, source] = name
            continue
        kind = next((machine for machine in MACHINES if name.startswith(f"{machine}:")), "person")
        _check_name(name, kind)
        unique = name if kind in MACHINES or source is None else f"{name} ({source})"
        identity = unique if kind in MACHINES else f"imported:{content_hash([name, source])[:16]}"
        result[name, source] = identity
        rows.append({"id": identity, "name": unique, "kind": kind, "profile": {"imported": True}, "created_at": now})
    insert_new(connection, annotators, rows)
    return result


# Put together once: building a statement takes SQLAlchemy several times as long as SQLite takes to run it.
_LOCK_ANNOTATORS = (
    sa.select(annotators.c.id)
    .where(any_of(annotators.c.id, "ids"))
    .order_by(annotators.c.id)
    .with_for_update(key_share=True)
)


def existing_annotators(connection: Connection, ids: Sequence[str]) -> set[str]:
    """Those of these annotators that there are; one transaction at a time for each of them."""
    found: set[str] = set()
    for chunk in in_chunks(sorted(ids)):
        found.update(connection.scalars(_LOCK_ANNOTATORS, {"ids": chunk}))
    return found


def lock_annotators(connection: Connection, ids: Sequence[str]) -> None:
    """One transaction at a time for each of these annotators. Raises InputError for one that is not there."""
    missing = sorted(set(ids) - existing_annotators(connection, ids))
    if missing:
        raise no_annotator(missing[0])


def no_annotator(identity: str) -> InputError:
    """What to say of somebody who is not there."""
    return InputError(f"the store has no annotator {identity!r:.200}; add_annotator gives the id to use")


def require_annotator(connection: Connection, annotator: str) -> None:
    """Raises InputError for somebody who is not in the store."""
    if connection.scalar(sa.select(annotators.c.id).where(annotators.c.id == annotator)) is None:
        raise InputError(f"the store has no annotator {annotator!r:.100}")


def is_of(table: sa.Table, annotator: str) -> sa.ColumnElement[bool]:
    """The rows of a table that are about this annotator."""
    return table.c.annotator_id == annotator


def kind_by_name(name: str) -> AnnotatorKind:
    """What a name says of its bearer: `simulated:` and `ai:` mark machines."""
    return next((machine for machine in MACHINES if str(name).startswith(f"{machine}:")), "person")


def _annotator(row: Row) -> Annotator:
    return Annotator(id=row.id, name=row.name, kind=row.kind, profile=row.profile or {})


def _check_name(name: str, kind: str) -> None:
    if kind not in get_args(AnnotatorKind):
        raise InputError(f"an annotator is one of {', '.join(get_args(AnnotatorKind))}, got {kind!r}")
    if not isinstance(name, str) or not name.strip() or len(name) > 180:
        raise InputError(f"an annotator needs a name of 1 to 180 characters, got {name!r:.60}")
    check_storable(name, "name")
    marked = next((machine for machine in MACHINES if name.startswith(f"{machine}:")), None)
    if marked and marked != kind:
        raise InputError(f"only a machine's name begins with {marked}:, got {name!r} for a {kind}")
    if marked and not name.removeprefix(f"{marked}:"):
        raise InputError(f"{name!r} needs something after the colon, for example {marked}:careful")
