"""How large and how deep a request may be: a 4xx, at once, with flat memory."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from prefloop.store.database import Store
from prefloop.store.sessions import start_session
from prefloop.web.access import csrf_token
from tests.web.crew import browser, machine, person
from tests.web.served import Site, served

GIBIBYTE = 1024**3


@pytest.fixture
def site(app: FastAPI) -> Iterator[Site]:
    with served(app) as running:
        yield running


def sent(site: Site, head: str, pieces: Iterator[bytes]) -> tuple[int, int]:
    """Status, and how many bytes the server took before it said it."""
    host, port = site.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as wire:
        wire.sendall(head.replace("\n", "\r\n").encode() + b"\r\n")
        wire.settimeout(0.0)
        taken = 0
        for piece in pieces:
            wire.settimeout(10)
            try:
                wire.sendall(piece)
            except OSError:
                break
            taken += len(piece)
            wire.settimeout(0.0)
            try:
                if wire.recv(1, socket.MSG_PEEK):
                    break
            except (BlockingIOError, TimeoutError):
                continue
            except OSError:
                break
        wire.settimeout(10)
        try:
            answer = wire.recv(4096)
        except OSError:
            answer = b""
    return int(answer.split(b" ", 2)[1]) if answer else 0, taken


def test_ten_gigabytes_are_refused_before_they_are_read(site: Site, desk_store: Store) -> None:
    token = machine(site.app, desk_store, "lead").headers["authorization"]
    common = f"POST /api/v1/questions HTTP/1.1\nhost: 127.0.0.1\nauthorization: {token}\n"
    block = b"x" * 65536
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    announced = sent(site, f"{common}content-length: {10 * GIBIBYTE}\n", (block for _ in range(10 * GIBIBYTE // 65536)))
    assert announced[0] == 413
    assert announced[1] < 32 * 1024**2
    chunk = b"10000\r\n" + block + b"\r\n"
    unannounced = sent(site, f"{common}transfer-encoding: chunked\n", (chunk for _ in range(10 * GIBIBYTE // 65536)))
    assert unannounced[0] == 413
    assert unannounced[1] < 160 * 1024**2
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 256 * 1024, f"{grown} KiB more memory"
    assert TestClient(site.app).get("/healthz").status_code == 200


@pytest.mark.parametrize("length", ["-1", "1e9", "9" * 40, "0x10"])
def test_a_length_that_is_none_is_refused(app: FastAPI, length: str) -> None:
    response = TestClient(app).post("/login", headers={"content-length": length}, content=b"")
    assert response.status_code in (400, 413)


def test_a_hundred_thousand_parts_are_refused(app: FastAPI, desk_store: Store) -> None:
    secret = start_session(desk_store, person(desk_store, "lead", "lead"))
    client = TestClient(app)
    client.cookies.set("prefloop", secret)
    fields = "&".join(f"f{n}=x" for n in range(100_000)).encode()
    form = {"content-type": "application/x-www-form-urlencoded", "x-csrf-token": csrf_token(secret)}
    parts = b"".join(b'--b\r\ncontent-disposition: form-data; name="f%d"\r\n\r\nx\r\n' % n for n in range(100_000))
    multipart = {"content-type": "multipart/form-data; boundary=b", "x-csrf-token": csrf_token(secret)}
    for path in ("/lead/import", "/lead/guidelines", "/me/refusals", "/login"):
        assert 400 <= client.post(path, content=fields, headers=form).status_code < 500, path
        assert 400 <= client.post(path, content=parts + b"--b--\r\n", headers=multipart).status_code < 500, path


@pytest.mark.parametrize(
    "body", [b"--b", b"--b\r\n\r\n", b"\x00" * 100, b"--b\r\ncontent-disposition: form-data\r\n\r\nx\r\n--b--"]
)
def test_a_broken_form_is_a_4xx(app: FastAPI, desk_store: Store, body: bytes) -> None:
    client = browser(app, desk_store, person(desk_store, "lead", "lead"))
    for kind in ("multipart/form-data; boundary=b", "multipart/form-data", "application/x-www-form-urlencoded"):
        response = client.post("/lead/guidelines", content=body, headers={"content-type": kind})
        assert 400 <= response.status_code < 500, kind


@pytest.mark.parametrize("text", ["a\x00b", "\ud800"], ids=["NUL", "surrogate"])
def test_text_that_no_database_keeps_is_refused_in_forms(app: FastAPI, desk_store: Store, text: str) -> None:
    client = browser(app, desk_store, person(desk_store, "lead", "lead"))
    body = b"text=" + text.encode("utf-8", "surrogatepass")
    headers = {"content-type": "application/x-www-form-urlencoded"}
    response = client.post("/lead/guidelines", content=body, headers=headers)
    assert response.status_code in (303, 422)  # a lone surrogate is no UTF-8 and has become U+FFFD by then
    assert (response.status_code == 422) == ("\x00" in text)


def test_odd_addresses_are_no_5xx(app: FastAPI, desk_store: Store) -> None:
    client = browser(app, desk_store, person(desk_store, "admin", "admin"))
    for path in ("/work/history/%00", "/lead/review/%ED%A0%80", f"/lead/review/{'0' * 5000}", "/lead?rate=nan",
                 "/lead?rate=1e999", "/lead?rate=%00", "/lead/review?before=9223372036854775808", "/static/../app.py",
                 "/static/%2e%2e/app.py", "/lead/review?kind=%00", "/lead?rate=" + "9" * 10, "/%ff"):  # fmt: skip
        assert 400 <= client.get(path).status_code < 500, path
