"""Nothing lost, nothing doubled: the server is killed (`kill -9`) again and again under clients that write."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from benchmarks.web import Client
from prefloop.artifacts.workspace import Workspace
from prefloop.store.audit_log import verify
from prefloop.store.database import Store, open_store
from prefloop.store.tables import answers
from prefloop.store.tokens import create_token
from tests.web.crew import questions_of

KILLS = int(os.environ.get("PREFLOOP_KILLS", "50"))
CLIENTS = 30
LOST = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)


@dataclass
class Server:
    """`prefloop serve` as a process, at one port for all its lives."""

    folder: Path
    environment: dict[str, str]
    port: int = 0
    more: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "prefloop", "serve", "--port", str(self.port), "--workspace", str(self.folder)]
        command += self.more
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, env=self.environment)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if b"prefloop is at" in line:
                self.port = int(line.split()[3].rpartition(b":")[2])
                return
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


@dataclass
class Stubborn:
    """A client that goes on until told to stop: what was not acknowledged is sent again under its key."""

    server: Server
    token: str
    acknowledged: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Idempotency key -> (answer, question)."""
    replays: int = 0
    wire: Client | None = None

    async def call(self, path: str, body: Any, key: str | None, stop: asyncio.Event) -> tuple[int, Any] | None:
        """One call, repeated over dead connections; None when it is time to stop."""
        while not stop.is_set():
            try:
                if self.wire is None:
                    self.wire = Client(self.server.port, self.token)
                    await self.wire.connect()
                return await self.wire.post(path, body, key)
            except LOST:
                if self.wire is not None and hasattr(self.wire, "writer"):
                    self.wire.writer.close()
                self.wire = None
                await asyncio.sleep(0.05)
        return None

    async def work(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            asked = await self.call("/api/v1/questions/next", {}, None, stop)
            if asked is None or asked[0] == 204:
                return
            key = secrets.token_hex(8)
            lease, question = asked[1]["lease"]["token"], asked[1]["question"]["id"]
            said = await self.call("/api/v1/answers", {"lease": lease, "value": {"choice": "a"}}, key, stop)
            if said is None:
                return
            assert said[0] in (200, 201), said
            self.replays += said[0] == 200
            self.acknowledged[key] = (said[1]["id"], question)


async def _kill_again_and_again(server: Server, clients: list[Stubborn], kills: int) -> None:
    stop = asyncio.Event()
    working = [asyncio.create_task(client.work(stop)) for client in clients]
    rng = random.Random(0)
    for _ in range(kills):
        before = sum(len(client.acknowledged) for client in clients)
        deadline = time.monotonic() + 60
        while sum(len(client.acknowledged) for client in clients) < before + 20 and time.monotonic() < deadline:
            await asyncio.sleep(0.02)  # it is up, and people are writing
        await asyncio.sleep(rng.uniform(0.0, 0.5))
        server.kill()
        await asyncio.to_thread(server.start)
    await asyncio.sleep(1.0)
    stop.set()
    await asyncio.gather(*working)
    for client in clients:
        if client.wire is not None:
            client.wire.writer.close()


def killed_and_counted(store: Store, server: Server, kills: int) -> dict[str, int]:
    """What happened; raises AssertionError when an answer was lost, doubled or given to too many."""
    questions_of(store, "comparison", n=max(400, 300 * kills), overlap=2)
    tokens = [create_token(store, f"client {n}", "annotator").token for n in range(CLIENTS)]
    clients = [Stubborn(server, token) for token in tokens]
    server.start()
    try:
        asyncio.run(_kill_again_and_again(server, clients, kills))
    finally:
        server.kill()
    with store.read() as connection:
        rows = connection.execute(sa.select(answers)).all()
    by_key = {row.idempotency_key: row for row in rows}
    acknowledged = {key: said for client in clients for key, said in client.acknowledged.items()}
    assert len(by_key) == len(rows), "an answer is there twice"
    for key, (identity, question) in acknowledged.items():
        assert key in by_key, f"the acknowledged answer {identity} is lost"
        assert (by_key[key].id, by_key[key].question_id) == (identity, question)
    per_question = Counter(row.question_id for row in rows if not row.late)
    assert max(per_question.values()) <= 2, "a question has more answers than were wanted"
    assert max(Counter((row.question_id, row.annotator_id) for row in rows).values()) == 1
    assert verify(store).ok
    return {
        "kills": kills,
        "acknowledged": len(acknowledged),
        "stored": len(rows),
        "replays": sum(client.replays for client in clients),
    }


@pytest.mark.prove
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_killed_again_and_again_nothing_is_lost_or_doubled(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    workspace = Workspace.create(tmp_path)
    environment = {key: value for key, value in os.environ.items() if key != "PREFLOOP_DATABASE_URL"}
    url = workspace.database_url
    if kind == "postgresql":
        url = environment["PREFLOOP_DATABASE_URL"] = request.getfixturevalue("postgresql_url")
    store = open_store(url)
    result = killed_and_counted(store, Server(tmp_path, environment), KILLS)
    store.close()
    print(kind, result)
    assert result["acknowledged"] >= 20 * KILLS
