"""Who has an account, and who may do what.

A person may hold several roles; a way in (a session after a password, or a token) makes a `Principal`, and that is what
a rule of access is about. Nobody can shut out the last admin.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, cast, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from prefloop.errors import InputError
from prefloop.records import content_hash
from prefloop.store.annotators import AnnotatorKind, is_of, kind_by_name, put_annotator
from prefloop.store.audit_log import OPERATOR, append, audited, roles_commitment
from prefloop.store.database import Row, Store
from prefloop.store.hashing import hash_password
from prefloop.store.tables import accounts, annotators, sessions
from prefloop.store.tables import roles as role_table

Role = Literal["admin", "lead", "adjudicator", "annotator", "viewer"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Somebody who came in, and what they may do while they are here."""

    annotator: str
    name: str
    roles: frozenset[Role]
    via: Literal["session", "token"]
    scope: Role | None = None
    """The one role that a token carries; `roles` is then just that."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody with an account, as a lead sees them."""

    id: str
    name: str
    kind: AnnotatorKind
    roles: frozenset[Role]
    active: bool
    has_password: bool
    created_at: datetime


def add_person(
    store: Store, name: str, *, roles: Iterable[Role], password: str | None = None, by: str = OPERATOR
) -> str:
    """Give somebody new an account and return their pseudonymous id.

    Without a password they can come in by a token or an invitation to set one only. Raises InputError when the name
    has an account already, for an unknown role and for a password that is too short.
    """
    held = checked_roles(roles)
    hashed = None if password is None else hash_password(password)
    with audited(store) as connection:
        annotator = put_annotator(connection, name, kind_by_name(name), {})
        if account_of(connection, annotator) is not None:
            raise InputError(f"{name!r} has an account already; choose another name, or change that one's roles")
        open_account(connection, annotator, hashed, by)
        put_roles(connection, annotator, held, by)
    return annotator


def people(store: Store) -> list[Person]:
    """Everybody with an account, in the order in which they were added."""
    query = (
        sa.select(annotators.c.id, annotators.c.name, annotators.c.kind, accounts)
        .select_from(accounts.join(annotators))
        .order_by(accounts.c.created_at, accounts.c.annotator_id)
    )
    with store.read() as connection:
        rows = connection.execute(query).all()
        held = held_roles(connection)
    return [
        Person(
            id=row.id,
            name=row.name,
            kind=row.kind,
            roles=held.get(row.id, frozenset()),
            active=row.active,
            has_password=row.password is not None,
            created_at=row.created_at,
        )
        for row in rows
    ]


def roles_of(store: Store, annotator: str) -> frozenset[Role]:
    """The roles that somebody holds; none for one who was deactivated or has no account."""
    with store.read() as connection:
        account = account_of(connection, annotator)
        active = account is not None and account.active
        return held_roles(connection, annotator).get(annotator, frozenset()) if active else frozenset()


def set_roles(store: Store, annotator: str, roles: Iterable[Role], *, by: str = OPERATOR) -> None:
    """Let somebody hold exactly these roles from now on. Raises InputError when no active admin would be left."""
    held = checked_roles(roles)
    with audited(store) as connection:
        require_account(connection, annotator)
        admins = count_admins(connection)
        put_roles(connection, annotator, held, by)
        _require_an_admin(connection, admins)


def deactivate(store: Store, annotator: str, *, by: str = OPERATOR) -> None:
    """Shut somebody out, at once: sessions and tokens end. What they said stays. The last admin cannot be shut out."""
    with audited(store) as connection:
        require_account(connection, annotator)
        admins = count_admins(connection)
        connection.execute(sa.update(accounts).where(is_of(accounts, annotator)).values(active=False))
        connection.execute(sa.delete(sessions).where(is_of(sessions, annotator)))
        append(connection, "deactivated", by, annotator, content_hash([annotator, False]))
        _require_an_admin(connection, admins)


def reactivate(store: Store, annotator: str, *, by: str = OPERATOR) -> None:
    """Let somebody in again, with the roles they had."""
    with audited(store) as connection:
        require_account(connection, annotator)
        connection.execute(sa.update(accounts).where(is_of(accounts, annotator)).values(active=True))
        append(connection, "reactivated", by, annotator, content_hash([annotator, True]))


def has_admin(store: Store) -> bool:
    """Whether there is an active admin who can sign in; if not, `invite(..., purpose="first_admin")` makes one."""
    with store.read() as connection:
        return count_admins(connection) > 0


def principal(
    store: Store, annotator: str, via: Literal["session", "token"], scope: Role | None = None
) -> Principal | None:
    """Somebody who came in, with the roles they hold now or the one that a token carries; None when they may not."""
    with store.read() as connection:
        rows = connection.execute(_ACTIVE, {"who": annotator}).all()
    held = frozenset(row.role for row in rows if row.role is not None)
    if not rows or (scope is not None and scope not in held):
        return None
    return Principal(
        annotator=annotator,
        name=rows[0].name,
        roles=held if scope is None else frozenset({scope}),
        via=via,
        scope=scope,
    )


_ACTIVE = (
    sa.select(annotators.c.name, role_table.c.role)
    .select_from(annotators.join(accounts).outerjoin(role_table, role_table.c.annotator_id == annotators.c.id))
    .where(annotators.c.id == sa.bindparam("who"), accounts.c.active.is_(True))
)


def account_of(connection: Connection, annotator: str) -> Row | None:
    """The account of somebody, within a transaction; None where there is none."""
    return connection.execute(sa.select(accounts).where(is_of(accounts, annotator))).first()


def require_account(connection: Connection, annotator: str) -> Row:
    """As `account_of`; raises InputError where there is none."""
    account = account_of(connection, annotator)
    if account is None:
        raise InputError(f"there is no account {annotator!r:.100}")
    return account


def require_role(connection: Connection, annotator: str, roles: Sequence[Role], does: str) -> None:
    """Raises InputError unless somebody holds one of these roles now, or is the command line. `does`: what for."""
    if annotator == OPERATOR:
        return
    account = account_of(connection, annotator)
    held = held_roles(connection, annotator).get(annotator, frozenset()) if account and account.active else frozenset()
    if not held & set(roles):
        is_now = " and ".join(sorted(held)) or "without a role"
        raise InputError(f"whoever {does} is {' or '.join(roles)}; {annotator!r:.100} is {is_now}")


def open_account(connection: Connection, annotator: str, password: str | None, by: str) -> None:
    """A new account and its event, within a transaction."""
    connection.execute(
        sa.insert(accounts).values(annotator_id=annotator, password=password, active=True, created_at=datetime.now(UTC))
    )
    append(connection, "person", by, annotator, content_hash(annotator))


def put_roles(connection: Connection, annotator: str, held: frozenset[Role], by: str) -> None:
    """Let somebody hold exactly these roles, and the event, within a transaction."""
    connection.execute(sa.delete(role_table).where(is_of(role_table, annotator)))
    if held:
        connection.execute(sa.insert(role_table), [{"annotator_id": annotator, "role": role} for role in sorted(held)])
    append(connection, "roles", by, annotator, roles_commitment(sorted(held)))


def held_roles(connection: Connection, annotator: str | None = None) -> dict[str, frozenset[Role]]:
    """Annotator -> roles, of one or of everybody, also of those who were deactivated."""
    query = sa.select(role_table)
    if annotator is not None:
        query = query.where(is_of(role_table, annotator))
    held: dict[str, set[Role]] = {}
    for row in connection.execute(query):
        held.setdefault(row.annotator_id, set()).add(row.role)
    return {who: frozenset(some) for who, some in held.items()}


def count_admins(connection: Connection) -> int:
    """Active admins who can sign in."""
    query = (
        sa.select(sa.func.count())
        .select_from(accounts.join(role_table, role_table.c.annotator_id == accounts.c.annotator_id))
        .where(role_table.c.role == "admin", accounts.c.active.is_(True), accounts.c.password.is_not(None))
    )
    return int(connection.execute(query).scalar_one())


def _require_an_admin(connection: Connection, before: int) -> None:
    """Whoever could shut out the last admin would lock everybody out."""
    if before and not count_admins(connection):
        raise InputError("no active admin would be left; make somebody else an admin before")


def checked_roles(roles: Iterable[str]) -> frozenset[Role]:
    """The roles by their names. Raises InputError for an unknown one."""
    held = frozenset(roles)
    unknown = sorted(held - set(ROLES))
    if unknown:
        raise InputError(f"a role is one of {', '.join(ROLES)}, got {unknown[0]!r:.60}")
    return cast(frozenset[Role], held)
