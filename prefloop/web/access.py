"""Who may call a route. A rule is the type of a route's parameter, and a route without one does not start.

    def progress(who: LeadPage) -> Response: ...        signed in on a page, as lead or admin
    def next_question(who: WorkerApi) -> Response: ...  with a token in one of the roles that answer

Pages go by a session cookie, the API by `Authorization: Bearer TOKEN`, and neither accepts the other's. A page that
changes something also wants the session's CSRF token, in the field `csrf` or the header `X-CSRF-Token`.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.routing import Mount

from prefloop.store.accounts import Principal, Role
from prefloop.store.sessions import session_owner
from prefloop.store.tokens import token_owner
from prefloop.web.bodies import read_form
from prefloop.web.state import state_of

SAFE_METHODS = frozenset({"GET", "HEAD"})
TOKEN_SECONDS = 1.0
"""For how long a token that was looked up is believed; another process may revoke it meanwhile."""


class NotSignedIn(Exception):
    """Nobody is signed in, or the token is not known."""


class Denied(Exception):
    """Somebody is signed in, and may not do this. The message says why."""


@dataclass(frozen=True)
class Access:
    """The rule of one route; called by FastAPI, it gives the caller or refuses."""

    via: Literal["page", "api"]
    roles: frozenset[Role]

    async def __call__(self, request: Request) -> Principal:
        who = await (_by_session(request) if self.via == "page" else _by_token(request))
        request.state.principal = who
        if not self.roles & who.roles:
            wanted = " or ".join(sorted(self.roles))
            raise Denied(f"this needs the role {wanted}; you are {' and '.join(sorted(who.roles)) or 'without a role'}")
        return who


@dataclass(frozen=True)
class Public:
    """The rule of a route that anybody may call: signing in, the health check, the files of the pages."""

    async def __call__(self, request: Request) -> None:
        if request.method not in SAFE_METHODS:
            check_same_origin(request)


ANYBODY: tuple[Role, ...] = ("admin", "lead", "adjudicator", "annotator", "viewer")
WORKERS: tuple[Role, ...] = ("admin", "lead", "adjudicator", "annotator")
READERS: tuple[Role, ...] = ("admin", "lead", "adjudicator", "viewer")
JUDGES: tuple[Role, ...] = ("admin", "lead", "adjudicator")
LEADS: tuple[Role, ...] = ("admin", "lead")


def _page(*roles: Role) -> Access:
    return Access("page", frozenset(roles))


def _api(*roles: Role) -> Access:
    return Access("api", frozenset(roles))


Anyone = Annotated[None, Depends(Public())]
MemberPage = Annotated[Principal, Depends(_page(*ANYBODY))]
WorkerPage = Annotated[Principal, Depends(_page(*WORKERS))]
ReaderPage = Annotated[Principal, Depends(_page(*READERS))]
JudgePage = Annotated[Principal, Depends(_page(*JUDGES))]
LeadPage = Annotated[Principal, Depends(_page(*LEADS))]
AdminPage = Annotated[Principal, Depends(_page("admin"))]
MemberApi = Annotated[Principal, Depends(_api(*ANYBODY))]
WorkerApi = Annotated[Principal, Depends(_api(*WORKERS))]
ReaderApi = Annotated[Principal, Depends(_api("admin", "lead", "viewer"))]
LeadApi = Annotated[Principal, Depends(_api(*LEADS))]


def rules_of(route: APIRoute) -> list[Access | Public]:
    """The rules that a route is under, found in its parameters."""

    def walk(dependant: Dependant) -> Iterator[Access | Public]:
        if isinstance(dependant.call, Access | Public):
            yield dependant.call
        for inner in dependant.dependencies:
            yield from walk(inner)

    return list(walk(route.dependant))


def check_every_route(app: FastAPI) -> None:
    """Raise TypeError for a route without exactly one rule: what nobody thought about is not served.

    The files under /static are for everybody; nothing else may be mounted.
    """
    for other in app.routes:
        if not isinstance(other, APIRoute) and not (isinstance(other, Mount) and other.path == "/static"):
            raise TypeError(f"{other!r} cannot have a rule of access; make it a route")
    if not api_routes(app):
        raise TypeError("the app has no routes")
    for route in api_routes(app):
        if len(rules_of(route)) != 1:
            raise TypeError(f"{route.path} needs exactly one rule of access, got {len(rules_of(route))}")


def api_routes(app: FastAPI) -> list[APIRoute]:
    """The app's own routes, each with its methods."""
    return [route for route in app.routes if isinstance(route, APIRoute)]


def csrf_token(session: str) -> str:
    """The proof that a form comes from a page that we gave to this session; tells nothing about the session."""
    return hmac.digest(session.encode("utf-8", "surrogatepass"), b"prefloop csrf", hashlib.sha256).hex()


def session_secret(request: Request) -> str | None:
    """What the browser's cookie says, unchecked."""
    return request.cookies.get(state_of(request).cookie)


def check_same_origin(request: Request) -> None:
    """Raise Denied when a browser says that another site's page sent this."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Denied("this form was sent from another site")
    origin = request.headers.get("origin")
    if origin not in (None, "null") and origin.partition("://")[2] != request.headers.get("host"):
        raise Denied("this form was sent from another site")


async def _by_session(request: Request) -> Principal:
    secret = session_secret(request)
    who = None if not secret else await run_in_threadpool(session_owner, state_of(request).store, secret)
    if who is None or not secret:
        raise NotSignedIn
    request.state.csrf = csrf_token(secret)
    if request.method not in SAFE_METHODS:
        check_same_origin(request)
        given = request.headers.get("x-csrf-token") or (await read_form(request)).get("csrf")
        if not isinstance(given, str) or not hmac.compare_digest(
            given.encode("utf-8", "replace"), request.state.csrf.encode()
        ):
            raise Denied("this form is older than your session; go back, load the page again and repeat")
    return who


async def _by_token(request: Request) -> Principal:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise NotSignedIn
    who = await _token_owner(request, token.strip())
    if who is None:
        raise NotSignedIn
    return who


async def _token_owner(request: Request, token: str) -> Principal | None:
    """Looked up once a second and not for each of a machine's many calls."""
    state = state_of(request)
    digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
    known = state.token_owners.get(digest)
    if known is not None and known[0] > time.monotonic():
        return known[1]
    who = await run_in_threadpool(token_owner, state.store, token)
    if who is not None:  # an unknown token is looked up each time: guessing must not fill the memory
        state.token_owners[digest] = (time.monotonic() + TOKEN_SECONDS, who)
    return who
