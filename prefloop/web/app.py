"""The app: routes under rules, limits around them, and words for what goes wrong."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from prefloop.errors import InputError, RunError
from prefloop.quality.overlap import AdaptiveOverlap
from prefloop.store.consents import QuizDue
from prefloop.store.database import Store
from prefloop.store.submissions import LeaseError
from prefloop.store.writer import Transact, Writer, transact
from prefloop.version import __version__
from prefloop.web.access import Denied, NotSignedIn, check_every_route
from prefloop.web.desk import Desk, LateAnswer
from prefloop.web.limits import Limits, TooLarge
from prefloop.web.quality import Quality
from prefloop.web.rendering import FOLDER, page
from prefloop.web.routes import account, admin, api, lead, work
from prefloop.web.settings import WebSettings
from prefloop.web.state import State
from prefloop.web.webhooks import Sender

logger = logging.getLogger("prefloop.web")


def create_app(
    store: Store, settings: WebSettings | None = None, *, artifacts: Path | None = None, transact: Transact = transact
) -> FastAPI:
    """The app over an open store. `artifacts`: where snapshots and exports are made; without it there are none.
    `transact`: as in `Writer`.

    Raises TypeError when a route has no rule of access.
    """
    settings = settings or WebSettings()
    writer = Writer(store, overlap=AdaptiveOverlap(), transact=transact)
    sender = Sender(store)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sender.start()
        yield
        sender.stop()
        app.state.prefloop.close()

    app = FastAPI(
        title="prefloop",
        version=__version__,
        description="Ask people what they prefer, and take their answers. Documentation: docs/api.md.",
        docs_url=None,  # FastAPI's page loads scripts from another host; /api shows the same
        redoc_url=None,
        openapi_url=None,  # served by routes/api.py, under a rule like everything else
        lifespan=lifespan,
    )
    desk = Desk(store, writer, settings.lease_seconds)
    app.state.prefloop = State(store, desk, settings, Quality(store), artifacts)
    for module in (api, account, work, lead, admin):
        # Not include_router: the rules are read off the routes, so they stand in the app's own table as they are.
        app.router.routes.extend(module.router.routes)
    app.mount("/static", StaticFiles(directory=FOLDER / "static"), name="static")
    _handle_errors(app)
    check_every_route(app)
    app.add_middleware(Limits, settings=settings)
    return app


def _handle_errors(app: FastAPI) -> None:
    """Each kind of error, in words: JSON for machines and scripts, a page for people."""

    @app.exception_handler(NotSignedIn)
    async def not_signed_in(request: Request, error: NotSignedIn) -> Response:
        if _wants_page(request):
            return RedirectResponse("/login", status_code=303)
        words = "give a valid token: Authorization: Bearer TOKEN (prefloop token create makes one)"
        if not _is_api(request):
            words = "your session has ended; sign in again (what you wrote is kept in this browser)"
        return JSONResponse({"error": words}, status_code=401, headers={"www-authenticate": "Bearer"})

    @app.exception_handler(Denied)
    async def denied(request: Request, error: Denied) -> Response:
        return _said(request, 403, "Not for you", str(error))

    @app.exception_handler(LateAnswer)
    async def late(request: Request, error: LateAnswer) -> Response:
        return JSONResponse({"error": str(error), "id": error.answer_id, "late": True}, status_code=409)

    @app.exception_handler(LeaseError)
    async def used(request: Request, error: LeaseError) -> Response:
        return JSONResponse({"error": str(error), "id": error.answer_id, "late": False}, status_code=409)

    @app.exception_handler(QuizDue)
    async def quiz_first(request: Request, error: QuizDue) -> Response:
        return _said(request, 403, "First the guideline", str(error))

    @app.exception_handler(InputError)
    async def wrong_input(request: Request, error: InputError) -> Response:
        return _said(request, 422, "That cannot be", str(error))

    @app.exception_handler(RequestValidationError)
    async def wrong_parameter(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return _said(request, 422, "That cannot be", f"{place}: {first['msg']}")

    @app.exception_handler(TooLarge)
    async def too_large(request: Request, error: TooLarge) -> Response:
        response = _said(request, 413, "Too large", "the request has more bytes than this place takes")
        response.headers["connection"] = "close"
        return response

    @app.exception_handler(RunError)
    async def failed(request: Request, error: RunError) -> Response:
        logger.error("%s", error)
        return _said(request, 503, "This did not work", str(error))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        return _said(request, error.status_code, str(error.detail), str(error.detail).lower())

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> Response:
        return _said(request, 500, "Our fault", "a defect in prefloop; the server's log says where")


def _said(request: Request, status: int, title: str, words: str) -> Response:
    words = words.encode("utf-8", "replace").decode()
    if _wants_page(request):
        return page(request, "error.html", status=status, title=title, words=words)
    return JSONResponse({"error": words}, status_code=status)


def _is_api(request: Request) -> bool:
    return request.url.path.startswith("/api/") or request.url.path == "/healthz"


def _wants_page(request: Request) -> bool:
    """Browsers that go somewhere, and not our scripts or machines."""
    return not _is_api(request) and "text/html" in request.headers.get("accept", "")
