"""Signing in with a password, and the sessions that follow."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from prefloop.errors import InputError
from prefloop.records import content_hash
from prefloop.store.accounts import Principal, principal, require_account
from prefloop.store.annotators import is_of
from prefloop.store.audit_log import OPERATOR, append, audited
from prefloop.store.database import Store
from prefloop.store.hashing import hash_password, nobodys_password, password_fits, secret_hash
from prefloop.store.tables import accounts, annotators, sessions
from prefloop.store.values import check_storable


def set_password(store: Store, annotator: str, password: str, *, by: str = OPERATOR) -> None:
    """A new password; sessions that were begun with the old one end."""
    hashed = hash_password(password)
    with audited(store) as connection:
        require_account(connection, annotator)
        put_password(connection, annotator, hashed, by)


def check_password(store: Store, name: str, password: str) -> Principal | None:
    """Who comes in with this name and password, or None. An unknown name costs the same time as a wrong password."""
    query = sa.select(annotators.c.id, accounts.c.password, accounts.c.active).select_from(accounts.join(annotators))
    with store.read() as connection:
        row = None if _unstorable(name) else connection.execute(query.where(annotators.c.name == name)).first()
    known = row is not None and row.password is not None
    right = password_fits(password, row.password if row is not None and known else nobodys_password())
    if row is None or not known or not right or not row.active:
        return None
    return principal(store, row.id, "session")


def start_session(store: Store, annotator: str, *, hours: float = 12, now: datetime | None = None) -> str:
    """The secret for a cookie, good for `hours`. Sessions that have ended are cleared away meanwhile."""
    now = now or datetime.now(UTC)
    secret = secrets.token_urlsafe(32)
    row = {
        "secret": secret_hash(secret),
        "annotator_id": annotator,
        "created_at": now,
        "expires_at": now + timedelta(hours=hours),
    }
    with store.write() as connection:
        require_account(connection, annotator)
        connection.execute(sa.delete(sessions).where(sessions.c.expires_at <= now))
        connection.execute(sa.insert(sessions).values(row))
    return secret


def session_owner(store: Store, secret: str, *, now: datetime | None = None) -> Principal | None:
    """Whose session this is, with the roles they hold now; None when it has ended or never was."""
    with store.read() as connection:
        row = connection.execute(sa.select(sessions).where(sessions.c.secret == secret_hash(secret))).first()
    if row is None or row.expires_at <= (now or datetime.now(UTC)):
        return None
    return principal(store, row.annotator_id, "session")


def end_session(store: Store, secret: str) -> None:
    """Sign out."""
    with store.write() as connection:
        connection.execute(sa.delete(sessions).where(sessions.c.secret == secret_hash(secret)))


def put_password(connection: Connection, annotator: str, hashed: str, by: str) -> None:
    """The new password and its event, within a transaction; sessions end."""
    connection.execute(sa.update(accounts).where(is_of(accounts, annotator)).values(password=hashed))
    connection.execute(sa.delete(sessions).where(is_of(sessions, annotator)))
    append(connection, "password", by, annotator, content_hash([annotator, secrets.token_hex(8)]))


def _unstorable(name: str) -> bool:
    try:
        check_storable(name, "name")
    except InputError:
        return True
    return False
