"""The page on teams, run: `prefloop serve` on PostgreSQL behind the nginx of docs/team.md, through TLS."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from prefloop.artifacts.workspace import Workspace
from tests.web.test_killed import Server

NAME = "feedback.example.org"
PAGE = Path(__file__).parents[2] / "docs" / "team.md"
PASSWORD = "a few plain words"
MEBIBYTE = 1024 * 1024


def free_port() -> int:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return int(some.getsockname()[1])


def configuration(folder: Path, tls: int, app: int) -> str:
    """The block that the page shows, with this test's ports and certificate in the places of the page's."""
    (block,) = re.findall(r"```\n(server \{.*?\n\})\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for theirs, ours in (
        ("listen 443 ssl", f"listen 127.0.0.1:{tls} ssl"),
        ("/etc/ssl/feedback.pem", str(folder / "cert.pem")),
        ("/etc/ssl/feedback.key", str(folder / "key.pem")),
        ("127.0.0.1:8700", f"127.0.0.1:{app}"),
    ):
        assert block.count(theirs) == 1, f"docs/team.md has no {theirs}"
        block = block.replace(theirs, ours)
    places = "".join(
        f"{name}_temp_path {folder / name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""
    head = f"{user}pid {folder / 'pid'};\nerror_log {folder / 'log'};\nevents {{}}\n"
    return f"{head}http {{\naccess_log off;\n{places}{block}\n}}\n"


@pytest.fixture
def team(tmp_path: Path, postgresql_url: str) -> Iterator[tuple[httpx.Client, str]]:
    """(a client that goes through nginx, the path of the first admin's link)."""
    for program in ("nginx", "openssl"):
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
            pytest.skip(f"{program} is not installed")
    key = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    named = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}", "-days", "2"]
    subprocess.run(["openssl", "req", "-x509", *key, *named], check=True, capture_output=True)
    work = tmp_path / "work"
    Workspace.create(work)
    server = Server(
        work, os.environ | {"PREFLOOP_DATABASE_URL": postgresql_url}, more=("--https", "--allow-host", NAME)
    )
    server.start()
    assert server.process is not None
    assert server.process.stderr is not None
    link = next(line.decode().strip() for line in server.process.stderr if b"/invitations/" in line)
    assert link.startswith(f"https://{NAME}/"), link
    tls = free_port()
    written = tmp_path / "nginx.conf"
    written.write_text(configuration(tmp_path, tls, server.port), encoding="utf-8")
    nginx = subprocess.Popen(
        ["nginx", "-c", str(written), "-g", "daemon off;"], env={"PATH": f"{os.environ['PATH']}:/usr/sbin"}
    )
    trusted = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    trusted.check_hostname = False  # this client goes by address; the certificate itself is checked
    client = httpx.Client(
        base_url=f"https://127.0.0.1:{tls}", verify=trusted, headers={"host": f"{NAME}:{tls}"}, timeout=60
    )
    try:
        for _ in range(100):
            try:
                client.get("/healthz")
                break
            except httpx.ConnectError:
                time.sleep(0.1)
        yield client, link.partition(NAME)[2]
    finally:
        client.close()
        nginx.terminate()
        nginx.wait()
        server.kill()


class Told(http.server.HTTPServer):
    got: list[str]


class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Told)
        self.server.got.append(self.rfile.read(int(self.headers["content-length"])).decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        return None


def csrf_of(page: str) -> str:
    return re.findall(r'data-csrf="(\w+)"', page)[0]


def test_the_page_on_teams_holds(team: tuple[httpx.Client, str]) -> None:
    client, link = team
    ours = {"origin": f"https://{client.headers['host']}", "accept": "text/html"}
    door = client.get("/login", headers=ours)
    assert (door.status_code, door.headers["strict-transport-security"]) == (200, "max-age=31536000")
    account = {"name": "Ruth", "password": PASSWORD, "again": PASSWORD}
    assert client.post(link, data=account, headers=ours | {"origin": "https://evil.example"}).status_code == 403
    made = client.post(link, data=account, headers=ours)
    assert made.status_code == 303
    cookie = made.headers["set-cookie"]
    assert cookie.startswith("__Host-prefloop=")
    assert {"httponly", "secure", "samesite=strict", "path=/"} <= {one.strip().lower() for one in cookie.split(";")}
    assert "domain" not in cookie.lower()
    client.cookies.clear()
    assert client.get("/lead", headers=ours).headers["location"] == "/login"
    signed_in = client.post("/login", data={"name": "Ruth", "password": PASSWORD}, headers=ours)
    assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/lead")
    csrf = csrf_of(client.get("/lead", headers=ours).text)

    with Told(("127.0.0.1", 0), Hook) as told:
        told.got = []
        listening = threading.Thread(target=told.serve_forever, kwargs={"poll_interval": 0.05})
        listening.start()
        hook = {"csrf": csrf, "url": f"http://127.0.0.1:{told.server_port}/hook"}
        assert client.post("/lead/webhooks", data=hook, headers=ours).status_code == 200

        rows = {"csrf": csrf, "as": "questions", "kind": "auto", "overlap": "1"}
        row = json.dumps({"prompt": "Name a colour.", "completions": ["Blue.", "Seven."]})
        filler = [json.dumps({"prompt": f"p {n}", "completions": ["x" * 5500, "y"]}) for n in range(1000)]
        large = "\n".join([row, *filler]).encode()
        assert len(large) > 5 * MEBIBYTE
        taken = client.post("/lead/import", data=rows, files={"file": ("rows.jsonl", large)}, headers=ours)
        assert "rows are questions now" in taken.text, taken.text[-2000:]
        huge = client.post(
            "/lead/import", data=rows, files={"file": ("rows.jsonl", b" " * 65 * MEBIBYTE)}, headers=ours
        )
        assert huge.status_code == 413

        agreed = {"csrf": csrf, "training": "yes", "publication": "no"}
        assert client.post("/consent", data=agreed, headers=ours).status_code == 303
        question = client.get("/work", headers=ours).text
        lease = re.findall(r'data-lease="([^"]+)"', question)[0]
        said = {"lease": lease, "value": {"choice": "a", "strength": 2}, "key": "0123456789abcdef"}
        assert client.post("/work/answers", json=said, headers=ours).status_code == 403, "without the CSRF token"
        foreign = ours | {"x-csrf-token": csrf, "origin": "https://evil.example"}
        assert client.post("/work/answers", json=said, headers=foreign).status_code == 403
        stored = client.post("/work/answers", json=said, headers=ours | {"x-csrf-token": csrf})
        assert stored.status_code == 200, stored.text
        assert stored.json()["id"]
        again = client.post("/work/answers", json=said, headers=ours | {"x-csrf-token": csrf})
        assert again.json()["id"] == stored.json()["id"]

        token_page = client.post("/lead/tokens", data={"csrf": csrf, "name": "bot", "role": "annotator"}, headers=ours)
        bearer = {"authorization": f"Bearer {re.findall(r'secret.>([^<]+)<', token_page.text)[0]}"}
        asked = client.post("/api/v1/questions/next", json={}, headers=bearer).json()
        answer = {"lease": asked["lease"]["token"], "value": {"choice": "tie"}}
        done = client.post("/api/v1/answers", json=answer, headers=bearer | {"idempotency-key": "k1"})
        assert done.status_code == 201, done.text
        deadline = time.monotonic() + 60
        while len(told.got) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        told.shutdown()
        listening.join()
    assert len(told.got) == 2, "both finished questions were told"

    assert client.get("/login", headers={"host": "evil.example"}).status_code == 421
    assert client.get("/", headers=ours).headers["location"] == "/lead", "and Ruth is still signed in"
