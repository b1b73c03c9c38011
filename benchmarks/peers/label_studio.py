"""Label Studio beside prefloop's app: clients that ask for the next task, annotate it, and ask again.

It is started as its own pages say (`label-studio start`, SQLite), in an environment of its own, and asked through its
API. All clients share one account, as they may there: each task goes to whoever asks, and what two of them answer at
once is counted twice, which is in its favour.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import interpreter

PEER = "label-studio-1.23"
START_SECONDS = 300.0
LABELS = (
    '<View><Text name="prompt" value="$prompt"/><Pairwise name="better" toName="a,b"/>'
    '<Text name="a" value="$a"/><Text name="b" value="$b"/></View>'
)
SAID = {"type": "pairwise", "from_name": "better", "to_name": "a,b", "value": {"selected": "left"}}
HEADERS = {"content-type": "application/json"}


def cycles(clients: int, seconds: float, tasks: int) -> dict[str, Any]:
    """Next-task-and-annotate cycles per second. Raises NotThere where its environment was not made (`make peers`)."""
    program = interpreter(PEER).parent / "label-studio"
    with tempfile.TemporaryDirectory() as folder:
        token, port = secrets.token_hex(20), _free_port()
        process = _started(program, Path(folder), token, port)
        try:
            return _measured(port, token, clients, seconds, tasks)
        finally:
            process.terminate()
            process.wait()


def version() -> str:
    """The release that was installed."""
    (found,) = (interpreter(PEER).parent.parent / "lib").glob("python*/site-packages/label_studio-*.dist-info")
    return PathDistribution(found).version


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _started(program: Path, folder: Path, token: str, port: int) -> subprocess.Popen[bytes]:
    """The server, once its API answers."""
    quiet = {"COLLECT_ANALYTICS": "false", "LATEST_VERSION_CHECK": "false", "SENTRY_RATE": "0"}
    command = [program, "start", "--no-browser", "--data-dir", folder, "--internal-host", "127.0.0.1", "--port", port]
    command += ["--username", "lead@example.org", "--password", secrets.token_hex(12), "--user-token", token]
    command += ["--enable-legacy-api-token", "--log-level", "ERROR"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(word) for word in command], env=os.environ | quiet, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            if _asked(http.client.HTTPConnection("127.0.0.1", port), token, "GET", "/api/projects")[0] == 200:
                return process
        except OSError:
            pass
        time.sleep(1)
    process.kill()
    raise SystemExit("Label Studio did not start: " + (folder / "log").read_text(errors="replace")[-1000:])


def _asked(
    connection: http.client.HTTPConnection, token: str, method: str, path: str, body: Any = None
) -> tuple[int, Any]:
    content = None if body is None else json.dumps(body)
    connection.request(method, path, content, HEADERS | {"authorization": f"Token {token}"})
    response = connection.getresponse()
    said = response.read()
    return response.status, json.loads(said) if response.status < 300 and said else None


def _measured(port: int, token: str, clients: int, seconds: float, tasks: int) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    status, project = _asked(connection, token, "POST", "/api/projects", {"title": "bench", "label_config": LABELS})
    if status != 201:
        raise SystemExit(f"Label Studio made no project: {status}")
    place = f"/api/projects/{project['id']}"
    pair = {"a": "Blue, as the sky over the sea at noon.", "b": "Seven."}
    rows = [{"prompt": f"Name colour {n}.", **pair} for n in range(tasks)]
    if (status := _asked(connection, token, "POST", f"{place}/import", rows)[0]) != 201:
        raise SystemExit(f"Label Studio took no tasks: {status}")
    done: list[float] = []
    requests: list[float] = []
    failed: list[int] = []

    def work(until: float) -> None:
        own = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

        def timed(*words: Any) -> tuple[int, Any]:
            begun = time.perf_counter()
            found = _asked(own, token, *words)
            requests.append(time.perf_counter() - begun)
            return found

        while time.perf_counter() < until:
            begun = time.perf_counter()
            status, task = timed("GET", f"{place}/next")
            if status == 200:
                said = {"result": [SAID], "lead_time": 1.0}
                status, _ = timed("POST", f"/api/tasks/{task['id']}/annotations/", said)
            if status == 201:
                done.append(time.perf_counter() - begun)
            else:
                failed.append(status)

    begun = time.perf_counter()
    threads = [threading.Thread(target=work, args=(begun + seconds,)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took, every = time.perf_counter() - begun, sorted(requests)
    return {
        "clients": clients,
        "seconds": round(took, 2),
        "cycles": len(done),
        "failed": len(failed),
        "cycles_per_second": round(len(done) / took, 1),
        "request_p50_ms": round(1000 * statistics.median(every), 1),
        "request_p95_ms": round(1000 * every[int(0.95 * len(every))], 1),
    }
