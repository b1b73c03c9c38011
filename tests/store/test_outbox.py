"""Webhooks: told is what happened and nothing else, signed, and again until it arrives."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

import pytest

from prefloop.errors import InputError
from prefloop.store.annotators import add_annotator
from prefloop.store.audit_log import verify
from prefloop.store.database import Store
from prefloop.store.outbox import (
    MAX_ATTEMPTS,
    add_webhook,
    delivered,
    due,
    end_webhook,
    failed,
    list_webhooks,
    undelivered,
)
from prefloop.store.queue import lease
from prefloop.store.submissions import Submission, submit
from tests.store.test_asking import ask, say

NOW = datetime.now(UTC) + timedelta(hours=1)


def test_a_finished_question_is_told_once(store: Store) -> None:
    ask(store, first=9)
    ada, bo = (add_annotator(store, name, kind="person") for name in ("Ada", "Bo"))
    say(store, lease(store, ada)[0])  # before anybody wanted to know
    hook = add_webhook(store, "https://example.org/hook")
    (question,) = ask(store, overlap=2)
    say(store, lease(store, ada)[0])
    assert due(store, now=NOW) == []
    say(store, lease(store, bo)[0])
    (one,) = due(store, now=NOW)
    told = json.loads(one.body)
    assert (told["event"], told["question"], told["kind"], told["answers"]) == (
        "question.finished",
        question,
        "comparison",
        2,
    )
    assert (one.url, one.webhook) == ("https://example.org/hook", hook.id)
    delivered(store, one.number)
    assert due(store, now=NOW + timedelta(days=9)) == []
    assert undelivered(store) == {"waiting": 0, "given_up": 0}
    assert verify(store).problems == []


def test_nothing_is_told_that_was_not_committed(store: Store) -> None:
    add_webhook(store, "https://example.org/hook")
    ask(store)
    (held,) = lease(store, add_annotator(store, "Ada", kind="person"))
    good = Submission(lease_token=held.token, value={"choice": "a"}, idempotency_key="1")
    bad = Submission(lease_token=held.token, value={"choice": "x"}, idempotency_key="2")
    with pytest.raises(InputError):
        submit(store, [good, bad])
    assert due(store, now=NOW) == []


def test_what_fails_comes_again_later_and_later(store: Store) -> None:
    add_webhook(store, "http://127.0.0.1:9/hook")
    ask(store)
    say(store, lease(store, add_annotator(store, "Ada", kind="person"))[0])
    (one,) = due(store, now=NOW)
    waits, now = [], NOW
    while again := failed(store, one.number, "refused\x00", now=now):
        waits.append((again - now).total_seconds())
        assert due(store, now=again - timedelta(seconds=1)) == []
        (same,) = due(store, now=again)
        assert (same.number, same.body) == (one.number, one.body)
        now = again
    assert waits == [10 * 2**n for n in range(MAX_ATTEMPTS - 1)]
    assert undelivered(store) == {"waiting": 0, "given_up": 1}
    assert failed(store, one.number, "again") is None


def test_the_signature_is_an_hmac_of_time_and_body(store: Store) -> None:
    hook = add_webhook(store, "https://example.org/hook")
    ask(store)
    say(store, lease(store, add_annotator(store, "Ada", kind="person"))[0])
    (one,) = due(store, now=NOW)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    seconds = int(at.timestamp())
    expected = hmac.new(hook.secret.encode(), f"{seconds}.{one.body}".encode(), hashlib.sha256).hexdigest()
    assert one.signature(at) == f"t={seconds},v1={expected}"


def test_an_ended_webhook_is_told_nothing_more(store: Store) -> None:
    hook = add_webhook(store, "https://example.org/hook")
    ask(store, 2)
    who = add_annotator(store, "Ada", kind="person")
    say(store, lease(store, who)[0])
    end_webhook(store, hook.id)
    assert due(store, now=NOW) == []
    say(store, lease(store, who)[0])
    assert due(store, now=NOW) == []
    assert [one.active for one in list_webhooks(store)] == [False]
    with pytest.raises(InputError, match="there is no webhook"):
        end_webhook(store, "none")


@pytest.mark.parametrize("url", ["ftp://x", "https://", "https://a:b@host/", "javascript:alert(1)", "http://[", "x"])
def test_addresses_that_are_refused(store: Store, url: str) -> None:
    with pytest.raises(InputError, match="a webhook is an address like"):
        add_webhook(store, url)
