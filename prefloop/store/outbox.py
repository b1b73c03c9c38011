"""Webhooks: who is told of finished questions, and what they have yet to be told.

What is to be told is written in the transaction that made it true, so nothing is told that did not happen and nothing
that happened stays untold. A sender (`serve` has one) takes what is `due`, posts `body`, and reports back; what fails
comes again after 10 seconds, 20, 40, ... up to 6 hours, 12 times in all.

Each request carries `X-Prefloop-Signature: t=SECONDS,v1=HEX`, an HMAC-SHA256 under the webhook's secret over
`SECONDS.BODY`. The receiver computes the same, compares in constant time, and refuses an old time; `delivery` in the
body is the same at each attempt, so that it can tell a repetition.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from prefloop.errors import InputError
from prefloop.records import canonical_json, content_hash
from prefloop.store.audit_log import OPERATOR, append, audited
from prefloop.store.database import Store
from prefloop.store.tables import outbox, webhooks
from prefloop.store.values import check_storable

FIRST_RETRY_SECONDS = 10.0
LONGEST_RETRY_SECONDS = 6 * 3600.0
MAX_ATTEMPTS = 12
SIGNATURE_HEADER = "X-Prefloop-Signature"


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """Somebody who wants to be told."""

    id: str
    url: str
    secret: str
    active: bool


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One message that is due."""

    number: int
    webhook: str
    url: str
    secret: str
    body: str
    """JSON: `delivery`, `event`, `at`, and what the event tells."""
    attempts: int
    """How often it was tried before."""

    def signature(self, now: datetime | None = None) -> str:
        """The value of the signature's header for a request that is sent now."""
        return sign(self.secret, self.body, now or datetime.now(UTC))


def sign(secret: str, body: str, at: datetime) -> str:
    """`t=SECONDS,v1=HEX`: HMAC-SHA256 over `SECONDS.BODY` in UTF-8."""
    seconds = int(at.timestamp())
    code = hmac.digest(secret.encode("utf-8"), f"{seconds}.{body}".encode(), "sha256").hex()
    return f"t={seconds},v1={code}"


def add_webhook(store: Store, url: str, *, by: str = OPERATOR) -> Webhook:
    """Tell this address of every question that is finished from now on. The secret signs what is sent to it.

    Raises InputError unless `url` is http(s) with a host and without a password.
    """
    check_storable(url, "url")
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and not parts.username and parts.port != 0
    except ValueError:
        good = False
    if not good or len(url) > 2000:
        raise InputError(f"a webhook is an address like https://host/path without a password in it, got {url!r:.80}")
    made = Webhook(id=secrets.token_hex(8), url=url, secret=secrets.token_urlsafe(32), active=True)
    row = vars(made) | {"created_by": by, "created_at": datetime.now(UTC)}
    with audited(store) as connection:
        connection.execute(sa.insert(webhooks).values(row))
        append(connection, "webhook", by, made.id, content_hash([made.id, url, True]))
    return made


def list_webhooks(store: Store) -> list[Webhook]:
    """All of them, also those that were ended."""
    with store.read() as connection:
        rows = connection.execute(sa.select(webhooks).order_by(webhooks.c.created_at, webhooks.c.id)).all()
    return [Webhook(id=row.id, url=row.url, secret=row.secret, active=row.active) for row in rows]


def end_webhook(store: Store, id: str, *, by: str = OPERATOR) -> None:
    """Tell this address nothing more; what was due for it is dropped, and says so."""
    with audited(store) as connection:
        row = connection.execute(sa.select(webhooks).where(webhooks.c.id == id)).first()
        if row is None:
            raise InputError(f"there is no webhook {id!r:.60}")
        connection.execute(sa.update(webhooks).where(webhooks.c.id == id).values(active=False))
        connection.execute(
            sa.update(outbox)
            .where(outbox.c.webhook_id == id, outbox.c.due_at.is_not(None))
            .values(due_at=None, error="the webhook was ended")
        )
        append(connection, "webhook", by, id, content_hash([id, row.url, False]))


_ACTIVE = sa.select(webhooks.c.id).where(webhooks.c.active.is_(True))


def active_webhooks(connection: Connection) -> list[str]:
    """The ids of those who want to be told."""
    return list(connection.scalars(_ACTIVE))


def enqueue(connection: Connection, to: Sequence[str], event: str, told: Sequence[dict[str, Any]]) -> None:
    """Tell each of the webhooks `to` each of these things, soon, if the transaction is committed."""
    now = datetime.now(UTC)
    rows = [
        {
            "webhook_id": webhook,
            "event": event,
            "body": {"delivery": secrets.token_hex(8), "event": event, "at": now.isoformat(), **what},
            "due_at": now,
            "created_at": now,
        }
        for what in told
        for webhook in to
    ]
    if rows:
        connection.execute(sa.insert(outbox), rows)


def due(store: Store, *, limit: int = 50, now: datetime | None = None) -> list[Delivery]:
    """What should be sent now, the longest waiting first. One sender at a time: nothing is marked as taken."""
    query = (
        sa.select(outbox, webhooks.c.url, webhooks.c.secret)
        .select_from(outbox.join(webhooks))
        .where(outbox.c.due_at <= (now or datetime.now(UTC)))
        .order_by(outbox.c.due_at, outbox.c.number)
        .limit(limit)
    )
    with store.read() as connection:
        rows = connection.execute(query).all()
    return [
        Delivery(
            number=row.number,
            webhook=row.webhook_id,
            url=row.url,
            secret=row.secret,
            body=canonical_json(row.body),
            attempts=row.attempts,
        )
        for row in rows
    ]


def delivered(store: Store, number: int, *, now: datetime | None = None) -> None:
    """The receiver has it (it answered with a status from 200 to 299)."""
    now = now or datetime.now(UTC)
    with store.write() as connection:
        connection.execute(
            sa.update(outbox)
            .where(outbox.c.number == number)
            .values(delivered_at=now, due_at=None, error=None, attempts=outbox.c.attempts + 1)
        )


def failed(store: Store, number: int, error: str, *, now: datetime | None = None) -> datetime | None:
    """It did not arrive. Returns when it is due again, or None when it is given up; the error stays in its row."""
    now = now or datetime.now(UTC)
    with store.write() as connection:
        row = connection.execute(sa.select(outbox).where(outbox.c.number == number)).first()
        if row is None or row.due_at is None:
            return None
        attempts = row.attempts + 1
        wait = min(FIRST_RETRY_SECONDS * 2 ** (attempts - 1), LONGEST_RETRY_SECONDS)
        again = None if attempts >= MAX_ATTEMPTS else now + timedelta(seconds=wait)
        said = error.replace("\x00", "").encode("utf-8", "replace").decode()[:500]
        connection.execute(
            sa.update(outbox).where(outbox.c.number == number).values(attempts=attempts, due_at=again, error=said)
        )
    return again


def undelivered(store: Store) -> dict[str, int]:
    """How many messages are waiting, and how many were given up."""
    with store.read() as connection:
        waiting = connection.scalar(sa.select(sa.func.count()).where(outbox.c.due_at.is_not(None)))
        lost = connection.scalar(
            sa.select(sa.func.count()).where(outbox.c.due_at.is_(None), outbox.c.delivered_at.is_(None))
        )
    return {"waiting": int(waiting or 0), "given_up": int(lost or 0)}
