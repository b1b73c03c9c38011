"""`prefloop serve`: a workspace's store, the app over it, and the server, put together."""

from __future__ import annotations

import contextlib
import gc
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefloop.errors import InputError
from prefloop.workflows.places import Place, store_of, workspace_at

DEFAULT_PORT = 8700
BACKLOG = 2048
GRACE_SECONDS = 10
"""How long a stopping server waits for answers that are on their way."""
TURN_SECONDS = 0.0005
"""How long a thread keeps the interpreter's lock while another wants it. The usual 5 ms keep the writer's thread from
its results, and so the writer's process from its next requests (docs/LOG.md)."""


def serve(
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    *,
    workspace: Place = None,
    allow_hosts: tuple[str, ...] = (),
    https: bool = False,
    log: Callable[[str], Any] = print,
    started: Callable[[dict[str, Any]], Any] | None = None,
) -> None:
    """Serve the pages and the API until the process is stopped.

    `allow_hosts`: further names under which people reach the app; `https`: they reach it through TLS, so cookies are
    sent over nothing else. While there is no admin, a one-time link that makes one is passed to `log`. `started` gets
    `url`, `api` and `admin_link` (None once there is an admin) when the address is known.

    Raises InputError for a port that is taken or not allowed, and where there is no workspace.
    """
    import uvicorn

    from prefloop.store.accounts import has_admin
    from prefloop.store.invitations import invite
    from prefloop.store.writer_process import WriterProcess
    from prefloop.web import WebSettings, create_app

    if not all(re.fullmatch(r"[A-Za-z0-9.:_-]+", name) for name in allow_hosts):
        raise InputError(f"--allow-host takes a name such as feedback.example.org, got {', '.join(allow_hosts)!r:.80}")
    place = workspace_at(workspace)
    with store_of(place) as store, _bound(host, port) as listening, contextlib.closing(WriterProcess()) as transact:
        bound = listening.getsockname()
        shown = _shown_host(host)
        url = f"{'https' if https else 'http'}://{shown}:{bound[1]}"
        names = (*WebSettings().hosts, *allow_hosts, *([] if _everywhere(host) else [host.lower()]))
        settings = WebSettings(secure=https, hosts=names)
        link = None
        if not has_admin(store):
            base = f"https://{allow_hosts[0]}" if https and allow_hosts else url
            link = f"{base}/invitations/{invite(store, 'admin', purpose='first_admin')}"
        app = create_app(store, settings, artifacts=Path(place.artifacts), transact=transact)
        log(f"prefloop is at {url}   (Ctrl-C stops it)")
        if link:
            log(f"There is no admin yet. This link makes one, once, within three days:\n  {link}")
        if _everywhere(host) and not allow_hosts:
            log("Others can reach this machine, but only names given with --allow-host NAME are answered.")
        if started is not None:
            started({"url": url, "api": f"{url}/api/v1", "admin_link": link})
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing here goes by a caller's address, so no header may forge one
            loop="auto",
            timeout_graceful_shutdown=GRACE_SECONDS,
            limit_concurrency=2000,
            h11_max_incomplete_event_size=64 * 1024,
        )
        before = sys.getswitchinterval()
        try:
            gc.collect()
            gc.freeze()  # the modules and the routes stay: what looks for garbage need not go through them
            sys.setswitchinterval(TURN_SECONDS)
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:
            pass  # uvicorn passes the signal on once all is put away
        finally:
            sys.setswitchinterval(before)
        log("stopped; everything that was acknowledged is stored")


def _bound(host: str, port: int) -> socket.socket:
    """The listening socket, before anything is said: a port that is taken is an error and no traceback."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)  # whoever comes before the app is up waits and is not turned away
    except socket.gaierror as error:
        raise InputError(
            f"cannot listen at {host}: {error.strerror}; --host is an address of this machine, such as 127.0.0.1"
        ) from None
    except OSError as error:
        raise InputError(
            f"cannot listen at {host}:{port}: {error.strerror or error}; give another --port (0 takes any free one)"
        ) from None
    listening.set_inheritable(True)
    return listening


def _everywhere(host: str) -> bool:
    return host in ("0.0.0.0", "::", "")  # noqa: S104  (asked about, not bound to)


def _shown_host(host: str) -> str:
    if _everywhere(host):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
