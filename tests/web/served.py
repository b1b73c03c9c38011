"""The app behind a real socket, for tests with a real browser, and the browser itself."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import uvicorn
from fastapi import FastAPI

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]


def found_browser() -> str:
    """The path of a Chromium: PREFLOOP_CHROMIUM, or the first on the path; skips, visibly, where there is none."""
    path = os.environ.get("PREFLOOP_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the path; set PREFLOOP_CHROMIUM to one")
    return path


@dataclass(frozen=True)
class Site:
    """A running app."""

    url: str
    app: FastAPI


@contextlib.contextmanager
def served(app: FastAPI) -> Iterator[Site]:
    """The app at a free port of this machine, for the block."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield Site(f"http://127.0.0.1:{listening.getsockname()[1]}", app)
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        listening.close()
