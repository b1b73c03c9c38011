"""How fast people and machines are served: lease+answer cycles per second through HTTP, and how long pages take.

usage: python -m benchmarks.web [--clients 30] [--seconds 10] [--questions 20000] [--pages 100000] [--peer]
                               [--json FILE]

A server of its own (`prefloop serve` on SQLite, `synchronous=FULL`, in a folder that is removed afterwards), and
clients in another process that each lease a question, answer it, and lease the next, over one connection. The pages
(every GET route for people, from the app's own table) are asked for with `--pages` questions in the store, each
answered once, a fiftieth twice: milliseconds by the clock, median and 95th of
100, and by the server's processor (Linux), which a busy machine does not change; `report_seconds` is how long the
process beside the app takes for what the page on agreement shows. With --peer the same clients, seconds and questions
go through Label Studio afterwards (`make peers` installs it). With PREFLOOP_DATABASE_URL set it
measures PostgreSQL, in that database, which must be empty.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.peers import label_studio

TIMES = 101
"""How often each page is asked for; the first time warms it."""
WORKERS = 10
"""Who answered, where pages are measured."""


@dataclass
class Client:
    """One connection that speaks just enough HTTP, so that the clients do not take the server's processor."""

    port: int
    token: str
    cycles: list[float] = field(default_factory=list)
    """Seconds per lease+answer."""
    requests: list[float] = field(default_factory=list)
    """Seconds per request."""

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)

    async def post(self, path: str, body: Any, key: str | None = None) -> tuple[int, Any]:
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {self.token}\r\n"
        head += f"content-length: {len(content)}\r\n" + (f"idempotency-key: {key}\r\n" if key else "") + "\r\n"
        begun = time.perf_counter()
        self.writer.write(head.encode() + content)
        status, answer = await self._response()
        self.requests.append(time.perf_counter() - begun)
        return status, answer

    async def _response(self) -> tuple[int, Any]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = next((int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:")), 0)
        body = await self.reader.readexactly(length) if length else b""
        return int(head.split(" ", 2)[1]), json.loads(body) if body else None

    async def work(self, until: float) -> None:
        while time.perf_counter() < until:
            begun = time.perf_counter()
            status, asked = await self.post("/api/v1/questions/next", {})
            if status == 204:
                raise SystemExit("the questions ran out; give more with --questions")
            value = {"choice": "a", "strength": 2}
            body = {"lease": asked["lease"]["token"], "value": value}
            status, _ = await self.post("/api/v1/answers", body, secrets.token_hex(8))
            if status != 201:
                raise SystemExit(f"an answer was refused: {status}")
            self.cycles.append(time.perf_counter() - begun)


def prepared(folder: Path, clients: int, questions: int) -> tuple[list[str], str]:
    """A workspace with questions, a token per client, and the session of a lead; (tokens, session)."""
    import prefloop
    from prefloop.store.accounts import add_person
    from prefloop.store.consents import record_consent
    from prefloop.store.database import open_store
    from prefloop.store.sessions import start_session
    from prefloop.store.tokens import create_token
    from prefloop.web.asking import Item, ask
    from prefloop.web.consent import CONSENT_VERSION, PURPOSES

    store = open_store(prefloop.init(folder).database_url)
    for start in range(0, questions, 5000):
        names = range(start, min(start + 5000, questions))
        pair = ["Blue, as the sky over the sea at noon.", "Seven."]
        ask(store, [Item(kind="comparison", prompt=f"Name colour {n}.", candidates=pair, overlap=2) for n in names])
    tokens = [create_token(store, f"client {n}", "annotator").token for n in range(clients)]
    lead = add_person(store, "lead", roles=["admin"])
    for purpose, _, _ in PURPOSES:
        record_consent(store, lead, purpose, CONSENT_VERSION, True)
    session = start_session(store, lead)
    store.close()
    return tokens, session


def started(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The server and its port."""
    command = [sys.executable, "-m", "prefloop", "serve", "--port", "0", "--workspace", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stderr is not None
    for line in process.stderr:
        if b"prefloop is at" in line:
            return process, int(line.split()[3].rpartition(b":")[2])
    raise SystemExit(f"the server did not start (exit code {process.wait()})")


def ended(process: subprocess.Popen[bytes]) -> None:
    """Stop the server."""
    process.terminate()
    process.wait()
    assert process.stderr is not None
    process.stderr.close()


async def _drive(port: int, tokens: list[str], seconds: float) -> list[Client]:
    clients = [Client(port, token) for token in tokens]
    for client in clients:
        await client.connect()
    until = time.perf_counter() + seconds
    await asyncio.gather(*(client.work(until) for client in clients))
    for client in clients:
        client.writer.close()
        await client.writer.wait_closed()
    return clients


def _processor_time() -> list[int]:
    """What all processors together did since the machine started, by kind (proc(5), /proc/stat); nothing elsewhere."""
    file = Path("/proc/stat")
    return [int(n) for n in file.read_text().split("\n", 1)[0].split()[1:9]] if file.is_file() else []


def _stolen(before: list[int], after: list[int]) -> float | None:
    """Share of the processors' time that a virtual machine's host gave to others; None where nobody counts it."""
    spent = [b - a for a, b in zip(before, after, strict=True)]
    return round(spent[7] / max(sum(spent), 1), 3) if spent else None


def cycles(folder: Path, clients: int, seconds: float, questions: int) -> dict[str, Any]:
    """Lease+answer cycles per second, and the time of a request."""
    tokens, _ = prepared(folder, clients, questions)
    process, port = started(folder)
    try:
        uvloop.run(_drive(port, tokens[:2], 1.0))  # warm
        before = _processor_time()
        begun = time.perf_counter()
        done = uvloop.run(_drive(port, tokens, seconds))
        took = time.perf_counter() - begun
        after = _processor_time()
    finally:
        ended(process)
    every = sorted(one for client in done for one in client.requests)
    count = sum(len(client.cycles) for client in done)
    return {
        "clients": clients,
        "seconds": round(took, 2),
        "cycles": count,
        "cycles_per_second": round(count / took, 1),
        "stolen": _stolen(before, after),
        "request_p50_ms": round(1000 * statistics.median(every), 1),
        "request_p95_ms": round(1000 * every[int(0.95 * len(every))], 1),
        "request_max_ms": round(1000 * every[-1], 1),
    }


def answered(folder: Path, questions: int) -> dict[str, str]:
    """Answer every question once and a fiftieth of them twice, past HTTP; ids for the pages that want one."""
    import prefloop
    from prefloop.quality.report import make_report
    from prefloop.store.accounts import add_person, people
    from prefloop.store.database import open_store
    from prefloop.store.feedback import history
    from prefloop.store.invitations import invite
    from prefloop.store.queue import lease
    from prefloop.store.submissions import Submission, submit
    from prefloop.web.reading import answered_together

    store = open_store(prefloop.init(folder).database_url)
    draw = random.Random(0)
    lead = next(one.id for one in people(store) if one.name == "lead")
    workers = [add_person(store, f"worker {n}", roles=["annotator"]) for n in range(WORKERS)]
    left = questions + questions // 50
    turns = itertools.chain([(lead, 50)], itertools.cycle((who, 1000) for who in workers))
    while left > 0:
        who, most = next(turns)
        held = lease(store, who, limit=min(most, left))
        values = [{"choice": draw.choice("ab"), "strength": draw.randint(1, 3)} for _ in held]
        submit(
            store,
            [
                Submission(lease_token=h.token, value=value, idempotency_key=h.token, seconds=draw.uniform(5, 60))
                for h, value in zip(held, values, strict=True)
            ],
        )
        left -= len(held)
    begun = time.perf_counter()
    make_report(store)
    found = {
        "report_seconds": f"{time.perf_counter() - begun:.1f}",
        "answer": history(store, lead)[0].id,
        "question": answered_together(store)[0].id,
        "secret": invite(store, "annotator"),
    }
    store.close()
    return found


def page_routes() -> list[str]:
    """Every page that can be asked for: the GET routes of the app that are not the API's."""
    from prefloop.web.routes import account, admin, lead, work

    routers = (account.router, work.router, lead.router, admin.router)
    return [route.path for router in routers for route in router.routes if "GET" in route.methods]  # type: ignore[attr-defined]


def processor_seconds(process: subprocess.Popen[bytes]) -> float | None:
    """What a process has used of the processor so far; None where the system does not say."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pages(folder: Path, questions: int) -> dict[str, dict[str, float | None]]:
    """Milliseconds per page, through HTTP: `p50` and `p95` by the clock, `processor` on average by the server's."""
    import http.client

    _, session = prepared(folder, 1, questions)
    known = answered(folder, questions)
    process, port = started(folder)
    found: dict[str, dict[str, float | None]] = {"report_seconds": {"once": float(known["report_seconds"])}}
    connection = http.client.HTTPConnection("127.0.0.1", port)
    headers = {"cookie": f"prefloop={session}", "accept": "text/html", "hx-request": "true"}
    try:
        for route in page_routes():
            path = route.format(**known)
            times = []
            used = None
            for number in range(TIMES):
                if number == 1:
                    used = processor_seconds(process)
                begun = time.perf_counter()
                connection.request("GET", path, headers=headers)
                response = connection.getresponse()
                response.read()
                times.append(time.perf_counter() - begun)
                if response.status not in (200, 204, 303):  # the front door leads on, and some have nothing to show
                    raise SystemExit(f"{path} gave {response.status}")
            end, warm = processor_seconds(process), sorted(times[1:])
            each = None if used is None or end is None else round(1000 * (end - used) / len(warm), 1)
            found[route] = {
                "p50": round(1000 * statistics.median(warm), 1),
                "p95": round(1000 * warm[int(0.95 * len(warm))], 1),
                "processor": each,
            }
    finally:
        connection.close()
        ended(process)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--questions", type=int, default=20_000)
    parser.add_argument("--pages", type=int, default=100_000)
    parser.add_argument("--peer", action="store_true", help="Label Studio beside it")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    result: dict[str, Any] = {"cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        result["cycles"] = cycles(Path(folder), given.clients, given.seconds, given.questions)
    print(json.dumps(result["cycles"]), flush=True)
    if given.peer:
        peer = label_studio.cycles(given.clients, given.seconds, given.questions)
        result["label_studio"] = {"version": label_studio.version(), **peer}
        result["ratio"] = round(result["cycles"]["cycles_per_second"] / max(peer["cycles_per_second"], 1e-9), 1)
        print(json.dumps({key: result[key] for key in ("label_studio", "ratio")}), flush=True)
    if given.pages and "PREFLOOP_DATABASE_URL" not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            result["pages_ms"] = pages(Path(folder), given.pages)
        for route, figures in result["pages_ms"].items():
            print(route, json.dumps(figures), flush=True)
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
