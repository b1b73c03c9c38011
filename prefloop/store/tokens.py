"""Tokens: how programs come in, each in one role."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from prefloop.errors import InputError
from prefloop.records import content_hash
from prefloop.store.accounts import (
    Principal,
    Role,
    account_of,
    checked_roles,
    held_roles,
    open_account,
    principal,
    put_roles,
)
from prefloop.store.annotators import is_of, kind_by_name, put_annotator
from prefloop.store.audit_log import OPERATOR, append, audited
from prefloop.store.database import Store
from prefloop.store.hashing import secret_hash
from prefloop.store.tables import annotators
from prefloop.store.tables import tokens as token_table

TOKEN_PREFIX = "pl_"  # noqa: S105  (no secret)
"""So that a token that leaked into a text can be found by searching for it."""


@dataclass(frozen=True, kw_only=True)
class NewToken:
    """A token, shown this once: the store keeps only its hash."""

    token: str
    annotator: str
    id: str


@dataclass(frozen=True, kw_only=True)
class Token:
    """What is known of a token."""

    id: str
    annotator: str
    name: str
    role: Role
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


def create_token(
    store: Store,
    name: str,
    role: Role,
    *,
    by: str = OPERATOR,
    days: float | None = None,
    annotator: str | None = None,
    now: datetime | None = None,
) -> NewToken:
    """A token that lets its bearer act as `name` in one role, for `days` or until it is revoked.

    Somebody new is given an account; a name that begins with `simulated:` or `ai:` is a machine's. Whoever may give
    roles (an admin, the command line) gives this one along. With `annotator`, a token for oneself: `name` then is not
    read, and a role that the annotator does not hold is an InputError.
    """
    checked_roles([role])
    if days is not None and not 0 < days <= 36500:
        raise InputError(f"a token lasts more than 0 and at most 36500 days, got {days}")
    now = now or datetime.now(UTC)
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    identity = secrets.token_hex(8)
    with audited(store) as connection:
        who = annotator or put_annotator(connection, name, kind_by_name(name), {})
        account = account_of(connection, who)
        held = held_roles(connection, who).get(who, frozenset())
        if annotator is not None and (account is None or not account.active or role not in held):
            raise InputError(f"{annotator} does not hold the role {role}, so no token can carry it")
        if account is None:
            open_account(connection, who, None, by)
        elif not account.active:
            raise InputError(f"{name!r} was deactivated; let them in again before making a token")
        if role not in held:
            put_roles(connection, who, held | {role}, by)
        row = {
            "id": identity,
            "secret": secret_hash(token),
            "annotator_id": who,
            "role": role,
            "created_by": by,
            "created_at": now,
            "expires_at": None if days is None else now + timedelta(days=days),
        }
        connection.execute(sa.insert(token_table).values(row))
        append(connection, "token", by, who, content_hash([identity, role]))
    return NewToken(token=token, annotator=who, id=identity)


def token_owner(store: Store, token: str, *, now: datetime | None = None) -> Principal | None:
    """Who the bearer of this token is, in its role only; None when it is unknown, revoked or over."""
    with store.read() as connection:
        row = connection.execute(_BY_SECRET, {"hashed": secret_hash(token)}).first()
    if row is None or row.revoked_at is not None:
        return None
    if row.expires_at is not None and row.expires_at <= (now or datetime.now(UTC)):
        return None
    return principal(store, row.annotator_id, "token", row.role)


# Put together once: machines call often, and building a statement takes longer than running it.
_BY_SECRET = sa.select(token_table).where(token_table.c.secret == sa.bindparam("hashed"))


def tokens(store: Store, annotator: str | None = None) -> list[Token]:
    """The tokens of one person, or all, newest first; without their secrets, which nobody knows."""
    query = sa.select(token_table, annotators.c.name).select_from(token_table.join(annotators))
    if annotator is not None:
        query = query.where(is_of(token_table, annotator))
    with store.read() as connection:
        rows = connection.execute(query.order_by(token_table.c.created_at.desc(), token_table.c.id)).all()
    return [
        Token(
            id=row.id,
            annotator=row.annotator_id,
            name=row.name,
            role=row.role,
            created_by=row.created_by,
            created_at=row.created_at,
            expires_at=row.expires_at,
            revoked_at=row.revoked_at,
        )
        for row in rows
    ]


def revoke_token(store: Store, id: str, *, by: str = OPERATOR) -> None:
    """End a token, at once. Raises InputError for one that is not there; one that was revoked stays so."""
    with audited(store) as connection:
        row = connection.execute(sa.select(token_table).where(token_table.c.id == id)).first()
        if row is None:
            raise InputError(f"there is no token {id:.40}")
        if row.revoked_at is None:
            connection.execute(
                sa.update(token_table).where(token_table.c.id == id).values(revoked_at=datetime.now(UTC))
            )
            append(connection, "token_revoked", by, row.annotator_id, content_hash([id, row.role]))
