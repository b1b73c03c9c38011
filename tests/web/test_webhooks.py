"""Finished questions are told to webhooks: signed, once where all is well, again where it is not."""

from __future__ import annotations

import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from prefloop.store.database import Store
from prefloop.store.outbox import SIGNATURE_HEADER, add_webhook, due, undelivered
from prefloop.store.queue import lease
from prefloop.store.submissions import Submission, submit
from prefloop.web.webhooks import Sender, send
from tests.web.crew import person, questions_of


class Receiver(HTTPServer):
    """Keeps what it is sent; refuses with `status`."""

    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/hook?x=1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        assert isinstance(self.server, Receiver)
        self.server.got.append((body, self.headers[SIGNATURE_HEADER]))
        self.send_response(self.server.status)
        self.send_header("location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()

    def log_message(self, *words: object) -> None:
        return None


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def finished(store: Store) -> str:
    (question,) = questions_of(store, "approval")
    (held,) = lease(store, person(store, "ada", "annotator"))
    submit(store, [Submission(lease_token=held.token, value={"approved": True}, idempotency_key="k")])
    return question


def test_a_finished_question_is_told_once_and_signed(desk_store: Store, receiver: Receiver) -> None:
    secret = add_webhook(desk_store, receiver.url).secret
    question = finished(desk_store)
    sender = Sender(desk_store, pause=0.02)
    sender.start()
    deadline = time.monotonic() + 10
    while due(desk_store) and time.monotonic() < deadline:
        time.sleep(0.02)
    sender.stop()
    ((body, signature),) = receiver.got
    seconds, code = signature.removeprefix("t=").split(",v1=")
    assert hmac.digest(secret.encode(), f"{seconds}.{body}".encode(), "sha256").hex() == code
    assert question in json.dumps(json.loads(body))
    assert not any(undelivered(desk_store).values())


@pytest.mark.parametrize("status", [500, 404, 302])
def test_what_was_not_taken_stays_due(desk_store: Store, receiver: Receiver, status: int) -> None:
    receiver.status = status
    add_webhook(desk_store, receiver.url)
    finished(desk_store)
    (one,) = due(desk_store)
    assert send(one) == f"it answered with status {status}"
    assert len(receiver.got) == 1, "a redirect is not followed"


def test_nobody_there_is_a_reason_and_no_crash(desk_store: Store) -> None:
    add_webhook(desk_store, "http://127.0.0.1:9/hook")
    finished(desk_store)
    (one,) = due(desk_store)
    assert "refused" in (send(one, timeout=2) or "")
