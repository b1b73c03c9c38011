"""Links that work once: to make an account, to set a new password, to become the first admin."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from prefloop.errors import InputError
from prefloop.records import content_hash
from prefloop.store.accounts import Role, checked_roles, count_admins, open_account, put_roles, require_account
from prefloop.store.annotators import is_of, kind_by_name, put_annotator
from prefloop.store.audit_log import OPERATOR, append, audited
from prefloop.store.database import Row, Store
from prefloop.store.hashing import hash_password, secret_hash
from prefloop.store.sessions import put_password
from prefloop.store.tables import accounts, answers, invitations

Purpose = Literal["invitation", "reset", "first_admin"]


def invite(
    store: Store,
    role: Role,
    *,
    by: str = OPERATOR,
    hours: float = 72,
    purpose: Purpose = "invitation",
    annotator: str | None = None,
    now: datetime | None = None,
) -> str:
    """The secret of a link that can be used once, within `hours`: to make an account, or to set a new password.

    `purpose="reset"` needs `annotator`, whose password it is for. A new link for the first admin ends the older ones.
    """
    checked_roles([role])
    if purpose not in get_args(Purpose):
        raise InputError(f"a link is for one of {', '.join(get_args(Purpose))}, got {purpose!r}")
    if (purpose == "reset") != (annotator is not None):
        raise InputError("a link to set a new password names the annotator; one to make an account names none")
    if not 0 < hours <= 24 * 365:
        raise InputError(f"a link lasts more than 0 hours and at most a year, got {hours}")
    now = now or datetime.now(UTC)
    secret = secrets.token_urlsafe(32)
    row = {
        "secret": secret_hash(secret),
        "purpose": purpose,
        "role": role,
        "annotator_id": annotator,
        "created_by": by,
        "created_at": now,
        "expires_at": now + timedelta(hours=hours),
    }
    with audited(store) as connection:
        if annotator is not None:
            require_account(connection, annotator)
        if purpose == "first_admin":
            if count_admins(connection):
                raise InputError("there is an admin already; let them invite others")
            connection.execute(
                sa.delete(invitations).where(invitations.c.purpose == purpose, invitations.c.used_at.is_(None))
            )
        connection.execute(sa.insert(invitations).values(row))
        append(connection, "invitation", by, annotator or purpose, content_hash([row["secret"], role]))
    return secret


def invitation(store: Store, secret: str, *, now: datetime | None = None) -> tuple[Purpose, Role] | None:
    """What a link is for, or None when it is unknown, used or over; looking does not use it up."""
    with store.read() as connection:
        row = _open_invitation(connection, secret, now or datetime.now(UTC))
    return None if row is None else (row.purpose, row.role)


def accept_invitation(store: Store, secret: str, name: str, password: str, *, now: datetime | None = None) -> str:
    """Use a link up: make the account (or set the new password; `name` then is not read) and return the annotator's id.

    Raises InputError for a link that is unknown, used or over, a name that is taken and a password that is too short.
    """
    hashed = hash_password(password)
    now = now or datetime.now(UTC)
    with audited(store) as connection:
        link = _open_invitation(connection, secret, now)
        if link is None:
            raise InputError("this link is not valid: it was used already or its time is over; ask for a new one")
        if link.purpose == "reset":
            who = str(link.annotator_id)
            put_password(connection, who, hashed, who)
        else:
            who = _join(connection, name, hashed, link)
        connection.execute(
            sa.update(invitations).where(invitations.c.secret == link.secret).values(used_at=now, used_by=who)
        )
        append(connection, "invitation_used", who, who, content_hash([link.secret, link.role]))
    return who


def _join(connection: Connection, name: str, hashed: str, link: Row) -> str:
    if link.purpose == "first_admin" and count_admins(connection):
        raise InputError("there is an admin already; let them invite others")
    if kind_by_name(name) != "person":
        raise InputError(f"only a machine's name begins like {name!r:.60}; choose another one")
    who = put_annotator(connection, name, "person", {})
    if connection.scalar(sa.select(sa.exists().where(is_of(accounts, who)))) or _has_answered(connection, who):
        raise InputError(f"the name {name!r:.60} is taken; choose another one")
    open_account(connection, who, hashed, who)
    put_roles(connection, who, frozenset({link.role}), str(link.created_by))
    return who


def _open_invitation(connection: Connection, secret: str, now: datetime) -> Row | None:
    return connection.execute(
        sa.select(invitations).where(
            invitations.c.secret == secret_hash(secret), invitations.c.used_at.is_(None), invitations.c.expires_at > now
        )
    ).first()


def _has_answered(connection: Connection, annotator: str) -> bool:
    return bool(connection.scalar(sa.select(sa.exists().where(is_of(answers, annotator)))))
