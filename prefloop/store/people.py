"""Annotators and the people behind them: who may do what, how they come in, and what they agreed to.

A person works under a pseudonym; a machine is marked as one in its very id. A person may hold several roles; a way in
(a session after a password, or a token) makes a `Principal`, and that is what a rule of access is about. Of passwords
only scrypt's output is kept, of every other secret only its SHA-256: who reads the database cannot come in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from prefloop.errors import InputError
from prefloop.records import content_hash
from prefloop.store.audit_log import OPERATOR, append, audited, roles_commitment
from prefloop.store.database import Row, Store, insert_new
from prefloop.store.tables import (
    accounts,
    annotators,
    answers,
    guidelines,
    invitations,
    quizzes,
    refusals,
    sessions,
)
from prefloop.store.tables import consents as consent_table
from prefloop.store.tables import roles as role_table
from prefloop.store.tables import tokens as token_table
from prefloop.store.values import check_storable, in_chunks

AnnotatorKind = Literal["person", "simulated", "ai"]
MACHINES: tuple[AnnotatorKind, ...] = ("simulated", "ai")
Role = Literal["admin", "lead", "adjudicator", "annotator", "viewer"]
ROLES: tuple[Role, ...] = get_args(Role)
Purpose = Literal["invitation", "reset", "first_admin"]

PASSWORD_LENGTH = (10, 200)
"""How few and how many characters a password has."""
SCRYPT = (2**14, 8, 5)
"""Work factors n, r, p: 16 MiB and about 0.2 seconds, one of the settings of equal strength in OWASP's Password Storage
Cheat Sheet, https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html"""
TOKEN_PREFIX = "pl_"  # noqa: S105  (no secret)
"""So that a token that leaked into a text can be found by searching for it."""
EVERY_TAG = "*"
"""Refuses questions with any content warning."""


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


@dataclass(frozen=True, kw_only=True)
class Consent:
    """What somebody last said about one purpose."""

    version: int
    given: bool
    at: datetime


def add_annotator(store: Store, name: str, *, kind: AnnotatorKind, profile: dict[str, Any] | None = None) -> str:
    """The id of the annotator called `name`, who is added when new; the same name always gives the same id.

    A person's id is drawn at random, so that it tells nothing about the name; a machine's is `simulated:NAME` or
    `ai:NAME`. Raises InputError when the name is taken by another kind, or a person's name looks like a machine's.
    """
    with store.write() as connection:
        return _add_annotator(connection, name, kind, profile or {})


def _add_annotator(connection: Connection, name: str, kind: AnnotatorKind, profile: dict[str, Any]) -> str:
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


def add_person(
    store: Store, name: str, *, roles: Iterable[Role], password: str | None = None, by: str = OPERATOR
) -> str:
    """Give somebody new an account and return their pseudonymous id.

    Without a password they can come in by a token or an invitation to set one only. Raises InputError when the name
    has an account already, for an unknown role and for a password that is too short.
    """
    held = _checked_roles(roles)
    hashed = None if password is None else _hash_password(password)
    with audited(store) as connection:
        annotator = _add_annotator(connection, name, _kind_by_name(name), {})
        if _account(connection, annotator) is not None:
            raise InputError(f"{name!r} has an account already; choose another name, or change that one's roles")
        _open_account(connection, annotator, hashed, by)
        _put_roles(connection, annotator, held, by)
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
        held = _roles_of(connection)
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
        account = _account(connection, annotator)
        active = account is not None and account.active
        return _roles_of(connection, annotator).get(annotator, frozenset()) if active else frozenset()


def set_roles(store: Store, annotator: str, roles: Iterable[Role], *, by: str = OPERATOR) -> None:
    """Let somebody hold exactly these roles from now on. Raises InputError when no active admin would be left."""
    held = _checked_roles(roles)
    with audited(store) as connection:
        _require_account(connection, annotator)
        admins = _admins(connection)
        _put_roles(connection, annotator, held, by)
        _require_an_admin(connection, admins)


def deactivate(store: Store, annotator: str, *, by: str = OPERATOR) -> None:
    """Shut somebody out, at once: sessions and tokens end. What they said stays. The last admin cannot be shut out."""
    with audited(store) as connection:
        _require_account(connection, annotator)
        admins = _admins(connection)
        connection.execute(sa.update(accounts).where(_is(accounts, annotator)).values(active=False))
        connection.execute(sa.delete(sessions).where(_is(sessions, annotator)))
        append(connection, "deactivated", by, annotator, content_hash([annotator, False]))
        _require_an_admin(connection, admins)


def reactivate(store: Store, annotator: str, *, by: str = OPERATOR) -> None:
    """Let somebody in again, with the roles they had."""
    with audited(store) as connection:
        _require_account(connection, annotator)
        connection.execute(sa.update(accounts).where(_is(accounts, annotator)).values(active=True))
        append(connection, "reactivated", by, annotator, content_hash([annotator, True]))


def has_admin(store: Store) -> bool:
    """Whether there is an active admin who can sign in; if not, `invite(..., purpose="first_admin")` makes one."""
    with store.read() as connection:
        return _admins(connection) > 0


def set_password(store: Store, annotator: str, password: str, *, by: str = OPERATOR) -> None:
    """A new password; sessions that were begun with the old one end."""
    hashed = _hash_password(password)
    with audited(store) as connection:
        _require_account(connection, annotator)
        _put_password(connection, annotator, hashed, by)


def check_password(store: Store, name: str, password: str) -> Principal | None:
    """Who comes in with this name and password, or None. An unknown name costs the same time as a wrong password."""
    query = sa.select(annotators.c.id, accounts.c.password, accounts.c.active).select_from(accounts.join(annotators))
    with store.read() as connection:
        row = None if _unstorable(name) else connection.execute(query.where(annotators.c.name == name)).first()
    known = row is not None and row.password is not None
    right = _password_fits(password, row.password if row is not None and known else _nobodys_password())
    if row is None or not known or not right or not row.active:
        return None
    return _principal(store, row.id, "session")


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
        _require_account(connection, annotator)
        connection.execute(sa.delete(sessions).where(sessions.c.expires_at <= now))
        connection.execute(sa.insert(sessions).values(row))
    return secret


def session_owner(store: Store, secret: str, *, now: datetime | None = None) -> Principal | None:
    """Whose session this is, with the roles they hold now; None when it has ended or never was."""
    with store.read() as connection:
        row = connection.execute(sa.select(sessions).where(sessions.c.secret == secret_hash(secret))).first()
    if row is None or row.expires_at <= (now or datetime.now(UTC)):
        return None
    return _principal(store, row.annotator_id, "session")


def end_session(store: Store, secret: str) -> None:
    """Sign out."""
    with store.write() as connection:
        connection.execute(sa.delete(sessions).where(sessions.c.secret == secret_hash(secret)))


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
    _checked_roles([role])
    if days is not None and not 0 < days <= 36500:
        raise InputError(f"a token lasts more than 0 and at most 36500 days, got {days}")
    now = now or datetime.now(UTC)
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    identity = secrets.token_hex(8)
    with audited(store) as connection:
        who = annotator or _add_annotator(connection, name, _kind_by_name(name), {})
        account = _account(connection, who)
        held = _roles_of(connection, who).get(who, frozenset())
        if annotator is not None and (account is None or not account.active or role not in held):
            raise InputError(f"{annotator} does not hold the role {role}, so no token can carry it")
        if account is None:
            _open_account(connection, who, None, by)
        elif not account.active:
            raise InputError(f"{name!r} was deactivated; let them in again before making a token")
        if role not in held:
            _put_roles(connection, who, held | {role}, by)
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
        row = connection.execute(sa.select(token_table).where(token_table.c.secret == secret_hash(token))).first()
    if row is None or row.revoked_at is not None:
        return None
    if row.expires_at is not None and row.expires_at <= (now or datetime.now(UTC)):
        return None
    return _principal(store, row.annotator_id, "token", row.role)


def tokens(store: Store, annotator: str | None = None) -> list[Token]:
    """The tokens of one person, or all, newest first; without their secrets, which nobody knows."""
    query = sa.select(token_table, annotators.c.name).select_from(token_table.join(annotators))
    if annotator is not None:
        query = query.where(_is(token_table, annotator))
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
    _checked_roles([role])
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
            _require_account(connection, annotator)
        if purpose == "first_admin":
            if _admins(connection):
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
    hashed = _hash_password(password)
    now = now or datetime.now(UTC)
    with audited(store) as connection:
        link = _open_invitation(connection, secret, now)
        if link is None:
            raise InputError("this link is not valid: it was used already or its time is over; ask for a new one")
        if link.purpose == "reset":
            who = str(link.annotator_id)
            _put_password(connection, who, hashed, who)
        else:
            who = _join(connection, name, hashed, link)
        connection.execute(
            sa.update(invitations).where(invitations.c.secret == link.secret).values(used_at=now, used_by=who)
        )
        append(connection, "invitation_used", who, who, content_hash([link.secret, link.role]))
    return who


def _join(connection: Connection, name: str, hashed: str, link: Row) -> str:
    if link.purpose == "first_admin" and _admins(connection):
        raise InputError("there is an admin already; let them invite others")
    if _kind_by_name(name) != "person":
        raise InputError(f"only a machine's name begins like {name!r:.60}; choose another one")
    who = _add_annotator(connection, name, "person", {})
    if connection.scalar(sa.select(sa.exists().where(_is(accounts, who)))) or _has_answered(connection, who):
        raise InputError(f"the name {name!r:.60} is taken; choose another one")
    _open_account(connection, who, hashed, who)
    _put_roles(connection, who, frozenset({link.role}), str(link.created_by))
    return who


def record_consent(
    store: Store, annotator: str, purpose: str, version: int, given: bool, *, by: str | None = None
) -> None:
    """Note that somebody agreed to one purpose (say "training"), in this version of its words, or took that back."""
    _check_word(purpose, "purpose")
    row = {"annotator_id": annotator, "purpose": purpose, "version": version, "given": given, "at": datetime.now(UTC)}
    with audited(store) as connection:
        _require_annotator(connection, annotator)
        connection.execute(sa.insert(consent_table).values(row))
        append(connection, "consent", by or annotator, annotator, content_hash([purpose, version, given]))


def consents(store: Store, annotator: str) -> dict[str, Consent]:
    """What somebody last said about each purpose that they were asked about."""
    query = sa.select(consent_table).where(_is(consent_table, annotator)).order_by(consent_table.c.number)
    with store.read() as connection:
        rows = connection.execute(query).all()
    return {row.purpose: Consent(version=row.version, given=row.given, at=row.at) for row in rows}


def record_quiz(store: Store, annotator: str, guideline_version: int, passed: bool) -> None:
    """Note how somebody did in the quiz of one version of the guideline; they may try again."""
    row = {"annotator_id": annotator, "guideline": guideline_version, "passed": passed, "at": datetime.now(UTC)}
    with audited(store) as connection:
        _require_annotator(connection, annotator)
        if connection.scalar(sa.select(guidelines.c.version).where(guidelines.c.version == guideline_version)) is None:
            raise InputError(f"there is no guideline {guideline_version}")
        connection.execute(sa.insert(quizzes).values(row))
        append(connection, "quiz", annotator, annotator, content_hash([guideline_version, passed]))


def quiz_passed(store: Store, annotator: str, guideline_version: int) -> bool:
    """Whether somebody has ever passed the quiz of this version; one without a quiz needs no passing."""
    passed = sa.exists().where(
        _is(quizzes, annotator), quizzes.c.guideline == guideline_version, quizzes.c.passed.is_(True)
    )
    with store.read() as connection:
        quiz = connection.scalar(sa.select(guidelines.c.quiz).where(guidelines.c.version == guideline_version))
        return not quiz or bool(connection.scalar(sa.select(passed)))


def set_refusals(store: Store, annotator: str, tags: Iterable[str]) -> None:
    """The content warnings that somebody does not want to see from now on; `*` stands for each and every one."""
    wanted = sorted(set(tags))
    for tag in wanted:
        _check_word(tag, "tag")
    with audited(store) as connection:
        _require_annotator(connection, annotator)
        connection.execute(sa.delete(refusals).where(_is(refusals, annotator)))
        if wanted:
            connection.execute(sa.insert(refusals), [{"annotator_id": annotator, "tag": tag} for tag in wanted])
        append(connection, "refusal", annotator, annotator, content_hash(wanted))


def refused(store: Store, annotator: str) -> list[str]:
    """The content warnings that somebody does not want to see."""
    with store.read() as connection:
        query = sa.select(refusals.c.tag).where(_is(refusals, annotator)).order_by(refusals.c.tag)
        return list(connection.scalars(query))


def secret_hash(secret: str) -> str:
    """What is kept of a random secret: its SHA-256. (It holds 256 random bits, so nobody can guess it from that.)"""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _principal(
    store: Store, annotator: str, via: Literal["session", "token"], scope: Role | None = None
) -> Principal | None:
    query = (
        sa.select(annotators.c.name, role_table.c.role)
        .select_from(annotators.join(accounts).outerjoin(role_table, role_table.c.annotator_id == annotators.c.id))
        .where(annotators.c.id == annotator, accounts.c.active.is_(True))
    )
    with store.read() as connection:
        rows = connection.execute(query).all()
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


def _account(connection: Connection, annotator: str) -> Row | None:
    return connection.execute(sa.select(accounts).where(_is(accounts, annotator))).first()


def _require_account(connection: Connection, annotator: str) -> Row:
    account = _account(connection, annotator)
    if account is None:
        raise InputError(f"there is no account {annotator!r:.100}")
    return account


def _require_annotator(connection: Connection, annotator: str) -> None:
    if connection.scalar(sa.select(annotators.c.id).where(annotators.c.id == annotator)) is None:
        raise InputError(f"the store has no annotator {annotator!r:.100}")


def _open_account(connection: Connection, annotator: str, password: str | None, by: str) -> None:
    connection.execute(
        sa.insert(accounts).values(annotator_id=annotator, password=password, active=True, created_at=datetime.now(UTC))
    )
    append(connection, "person", by, annotator, content_hash(annotator))


def _put_roles(connection: Connection, annotator: str, held: frozenset[Role], by: str) -> None:
    connection.execute(sa.delete(role_table).where(_is(role_table, annotator)))
    if held:
        connection.execute(sa.insert(role_table), [{"annotator_id": annotator, "role": role} for role in sorted(held)])
    append(connection, "roles", by, annotator, roles_commitment(sorted(held)))


def _put_password(connection: Connection, annotator: str, hashed: str, by: str) -> None:
    connection.execute(sa.update(accounts).where(_is(accounts, annotator)).values(password=hashed))
    connection.execute(sa.delete(sessions).where(_is(sessions, annotator)))
    append(connection, "password", by, annotator, content_hash([annotator, secrets.token_hex(8)]))


def _roles_of(connection: Connection, annotator: str | None = None) -> dict[str, frozenset[Role]]:
    query = sa.select(role_table)
    if annotator is not None:
        query = query.where(_is(role_table, annotator))
    held: dict[str, set[Role]] = {}
    for row in connection.execute(query):
        held.setdefault(row.annotator_id, set()).add(row.role)
    return {who: frozenset(some) for who, some in held.items()}


def _admins(connection: Connection) -> int:
    query = (
        sa.select(sa.func.count())
        .select_from(accounts.join(role_table, role_table.c.annotator_id == accounts.c.annotator_id))
        .where(role_table.c.role == "admin", accounts.c.active.is_(True), accounts.c.password.is_not(None))
    )
    return int(connection.execute(query).scalar_one())


def _require_an_admin(connection: Connection, before: int) -> None:
    """Whoever could shut out the last admin would lock everybody out."""
    if before and not _admins(connection):
        raise InputError("no active admin would be left; make somebody else an admin before")


def _open_invitation(connection: Connection, secret: str, now: datetime) -> Row | None:
    return connection.execute(
        sa.select(invitations).where(
            invitations.c.secret == secret_hash(secret), invitations.c.used_at.is_(None), invitations.c.expires_at > now
        )
    ).first()


def _has_answered(connection: Connection, annotator: str) -> bool:
    return bool(connection.scalar(sa.select(sa.exists().where(_is(answers, annotator)))))


def _is(table: sa.Table, annotator: str) -> sa.ColumnElement[bool]:
    return table.c.annotator_id == annotator


def _checked_roles(roles: Iterable[str]) -> frozenset[Role]:
    held = frozenset(roles)
    unknown = sorted(held - set(ROLES))
    if unknown:
        raise InputError(f"a role is one of {', '.join(ROLES)}, got {unknown[0]!r:.60}")
    return cast(frozenset[Role], held)


def _kind_by_name(name: str) -> AnnotatorKind:
    return next((machine for machine in MACHINES if str(name).startswith(f"{machine}:")), "person")


def _check_word(word: str, what: str) -> None:
    if not isinstance(word, str) or not 1 <= len(word.strip()) <= 64 or len(word) > 64:
        raise InputError(f"{what} must be a word of 1 to 64 characters, got {word!r:.80}")
    check_storable(word, what)


def _unstorable(name: str) -> bool:
    try:
        check_storable(name, "name")
    except InputError:
        return True
    return False


def _hash_password(password: str) -> str:
    low, high = PASSWORD_LENGTH
    if not isinstance(password, str) or not low <= len(password) <= high:
        raise InputError(f"a password has {low} to {high} characters")
    n, r, p = SCRYPT
    salt = secrets.token_bytes(16)
    encoded = [base64.b64encode(part).decode() for part in (salt, _scrypt(password, salt, n, r, p))]
    return f"scrypt:{n}:{r}:{p}:{encoded[0]}:{encoded[1]}"


def _password_fits(password: str, stored: str) -> bool:
    _, n, r, p, salt, expected = stored.split(":")
    given = _scrypt(password[: PASSWORD_LENGTH[1] + 1], base64.b64decode(salt), int(n), int(r), int(p))
    return hmac.compare_digest(given, base64.b64decode(expected))


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    # One text may be typed in several ways that look alike; NFKC makes them one (NIST SP 800-63B, 5.1.1.2).
    text = unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
    return hashlib.scrypt(text, salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=32)


def _nobodys_password() -> str:
    n, r, p = SCRYPT
    return f"scrypt:{n}:{r}:{p}:{base64.b64encode(bytes(16)).decode()}:{base64.b64encode(bytes(32)).decode()}"


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
