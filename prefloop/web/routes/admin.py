"""People, their roles and links, tokens, and the documentation of the API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse

from prefloop.errors import InputError
from prefloop.store.accounts import ROLES, Role, deactivate, people, reactivate, set_roles
from prefloop.store.invitations import invite
from prefloop.store.outbox import add_webhook, end_webhook, list_webhooks, undelivered
from prefloop.store.tokens import create_token, revoke_token, tokens
from prefloop.web.access import AdminPage, Anyone, LeadPage, MemberPage, api_routes
from prefloop.web.bodies import read_form, text_of
from prefloop.web.rendering import page
from prefloop.web.routes.account import Identity, see
from prefloop.web.state import state_of

router = APIRouter(include_in_schema=False)
Form = Annotated[Mapping[str, Any], Depends(read_form)]
ROLE_WORDS = {
    "admin": "everything, and people",
    "lead": "questions, guidelines, review, export",
    "adjudicator": "answers, and settles disagreements",
    "annotator": "answers",
    "viewer": "sees progress and agreement",
}


def checked_role(given: str) -> Role:
    """A role by its name. Raises InputError for another word."""
    for role in ROLES:
        if role == given:
            return role
    raise InputError(f"a role is one of {', '.join(ROLES)}, got {given!r:.30}")


@router.get("/lead/people")
def people_page(request: Request, who: LeadPage) -> Response:
    """Everybody, with roles; leads invite annotators, admins do the rest."""
    return _people(request, who.roles)


def _people(
    request: Request,
    roles: frozenset[Role],
    link: str | None = None,
    token: str | None = None,
    secret: str | None = None,
) -> Response:
    store = state_of(request).store
    everybody = people(store)
    return page(
        request,
        "people.html",
        people=everybody,
        names={one.id: one.name for one in everybody},
        roles=ROLES,
        role_words=ROLE_WORDS,
        admin="admin" in roles,
        link=link,
        token=token,
        secret=secret,
        webhooks=[one for one in list_webhooks(store) if one.active],
        undelivered=undelivered(store),
        tokens=[one for one in tokens(store) if one.revoked_at is None],
    )


def _link(request: Request, secret: str) -> str:
    scheme = "https" if state_of(request).settings.secure else "http"
    return f"{scheme}://{request.headers['host']}/invitations/{secret}"


@router.post("/lead/invitations")
def invitation(request: Request, who: LeadPage, form: Form) -> Response:
    """A link with which one person makes an account, once, within three days."""
    role = checked_role(text_of(form, "role", 20))
    if role != "annotator" and "admin" not in who.roles:
        raise InputError("a lead invites annotators; an admin invites everybody else")
    return _people(request, who.roles, link=_link(request, invite(state_of(request).store, role, by=who.annotator)))


@router.post("/lead/people/{annotator}/reset")
def reset(request: Request, who: AdminPage, annotator: Identity) -> Response:
    """A link with which somebody sets a new password."""
    secret = invite(state_of(request).store, "annotator", by=who.annotator, purpose="reset", annotator=annotator)
    return _people(request, who.roles, link=_link(request, secret))


@router.post("/lead/people/{annotator}/roles")
def change_roles(request: Request, who: AdminPage, annotator: Identity, form: Form) -> Response:
    """What somebody may do, from now on."""
    chosen = [role for role in ROLES if text_of(form, role, 4)]
    state = state_of(request)
    set_roles(state.store, annotator, chosen, by=who.annotator)
    state.token_owners.clear()
    return see("/lead/people", "roles")


@router.post("/lead/people/{annotator}/active")
def change_active(request: Request, who: AdminPage, annotator: Identity, form: Form) -> Response:
    """Let somebody in no more, or in again; what they said stays."""
    state = state_of(request)
    change = reactivate if text_of(form, "active", 4) == "yes" else deactivate
    change(state.store, annotator, by=who.annotator)
    state.token_owners.clear()
    return see("/lead/people", "saved")


@router.post("/lead/tokens")
def machine_token(request: Request, who: AdminPage, form: Form) -> Response:
    """A token for a machine or a script, shown once."""
    name, role = text_of(form, "name", 180), checked_role(text_of(form, "role", 20))
    made = create_token(state_of(request).store, name, role, by=who.annotator)
    return _people(request, who.roles, token=made.token)


@router.post("/lead/tokens/{token}/revoke")
def revoke(request: Request, who: AdminPage, token: Identity) -> Response:
    """End a token, at once."""
    state = state_of(request)
    revoke_token(state.store, token, by=who.annotator)
    state.token_owners.clear()
    return see("/lead/people", "revoked")


@router.post("/lead/webhooks")
def new_webhook(request: Request, who: AdminPage, form: Form) -> Response:
    """An address that is told of finished questions; its secret is shown once."""
    made = add_webhook(state_of(request).store, text_of(form, "url", 2000), by=who.annotator)
    return _people(request, who.roles, secret=made.secret)


@router.post("/lead/webhooks/{webhook}/end")
def no_webhook(request: Request, who: AdminPage, webhook: Identity) -> Response:
    """Tell that address nothing more."""
    end_webhook(state_of(request).store, webhook, by=who.annotator)
    return see("/lead/people", "saved")


def schema_of(request: Request) -> dict[str, Any]:
    """The API as OpenAPI 3.1."""
    routes = [route for route in api_routes(request.app) if route.include_in_schema]
    schema = get_openapi(
        title=request.app.title, version=request.app.version, description=request.app.description, routes=routes
    )
    schema["components"] = schema.get("components", {}) | {
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}
    }
    schema["security"] = [{"token": []}]
    schema["paths"]["/healthz"]["get"]["security"] = []
    return schema


@router.get("/openapi.json")
def openapi(request: Request, access: Anyone) -> Response:
    """For machines: what the API takes and gives."""
    return JSONResponse(schema_of(request))


@router.get("/api")
def api_page(request: Request, who: MemberPage) -> Response:
    """For people: the same, to read."""
    return page(request, "api.html", schema=schema_of(request))
