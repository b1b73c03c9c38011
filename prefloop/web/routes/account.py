"""Signing in and out, links that make an account, consent, and one's own page. Nobody can register uninvited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import URL

from prefloop.errors import InputError
from prefloop.store.consents import consents, record_consent, refused, set_refusals
from prefloop.store.invitations import accept_invitation, invitation
from prefloop.store.sessions import check_password, end_session, session_owner, start_session
from prefloop.store.tokens import create_token, revoke_token, tokens
from prefloop.web.access import Anyone, MemberPage, session_secret
from prefloop.web.attempts import Attempts
from prefloop.web.bodies import read_form, text_of, texts_of
from prefloop.web.charts import columns
from prefloop.web.consent import CONSENT_VERSION, PURPOSES
from prefloop.web.reading import own_figures, sensitive_tags
from prefloop.web.rendering import page
from prefloop.web.state import State, state_of

router = APIRouter(include_in_schema=False)
Form = Annotated[Mapping[str, Any], Depends(read_form)]
Secret = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{20,100}$")]
Identity = Annotated[str, Path(pattern=r"^[A-Za-z0-9:._-]{1,200}$")]

ATTEMPTS = Attempts(most=10, seconds=300.0)


def see(path: str, done: str | None = None) -> RedirectResponse:
    """Go on to another page after something was done."""
    return RedirectResponse(str(URL(path).include_query_params(done=done)) if done else path, status_code=303)


def home_of(roles: frozenset[str]) -> str:
    """Where somebody with these roles begins."""
    return "/lead" if roles & {"admin", "lead", "viewer", "adjudicator"} else "/work"


@router.get("/")
def front(request: Request, access: Anyone) -> Response:
    """To one's own beginning, or to the door."""
    state = state_of(request)
    secret = session_secret(request)
    who = session_owner(state.store, secret) if secret else None
    return see(home_of(who.roles) if who else "/login")


@router.get("/login")
def login_page(request: Request, access: Anyone) -> Response:
    """The door."""
    return page(request, "login.html", wrong=None, name="")


@router.post("/login")
def login(request: Request, access: Anyone, form: Form) -> Response:
    """Sign in. Ten wrong passwords in five minutes for one name, and that name waits."""
    state = state_of(request)
    name, password = text_of(form, "name", 200), text_of(form, "password", 1000)
    if not ATTEMPTS.allowed(name):
        words = "Too many wrong passwords for this name. Wait five minutes, then try again."
        return page(request, "login.html", status=429, wrong=words, name=name)
    who = check_password(state.store, name, password)
    if who is None:
        ATTEMPTS.failed(name)
        words = "That name and password do not belong together."
        return page(request, "login.html", status=401, wrong=words, name=name)
    ATTEMPTS.forget(name)
    return signed_in(state, who.annotator, home_of(who.roles))


def signed_in(state: State, annotator: str, to: str) -> Response:
    """A response that opens a session: the cookie is out of reach of scripts and of other sites."""
    response = see(to)
    response.set_cookie(
        state.cookie,
        start_session(state.store, annotator, hours=state.settings.session_hours),
        max_age=int(state.settings.session_hours * 3600),
        path="/",
        secure=state.settings.secure,
        httponly=True,
        samesite="strict" if state.settings.secure else "lax",
    )
    return response


@router.post("/logout")
def logout(request: Request, who: MemberPage) -> Response:
    """End the session, here and in the database."""
    state = state_of(request)
    end_session(state.store, session_secret(request) or "")
    response = see("/login")
    response.delete_cookie(state.cookie, path="/", secure=state.settings.secure, httponly=True)
    return response


@router.get("/invitations/{secret}")
def invitation_page(request: Request, access: Anyone, secret: Secret) -> Response:
    """A link that somebody was sent; looking at it does not use it up."""
    found = invitation(state_of(request).store, secret)
    status = 200 if found else 404
    return page(request, "invitation.html", status=status, link=found, secret=secret, wrong=None, name="")


@router.post("/invitations/{secret}")
def accept(request: Request, access: Anyone, secret: Secret, form: Form) -> Response:
    """Use the link: make the account, or set the new password, and sign in."""
    state = state_of(request)
    found = invitation(state.store, secret)
    name, password = text_of(form, "name", 200), text_of(form, "password", 1000)
    try:
        if password != text_of(form, "again", 1000):
            raise InputError("the two passwords differ; type the same one twice")
        annotator = accept_invitation(state.store, secret, name, password)
    except InputError as error:
        return page(request, "invitation.html", status=422, link=found, secret=secret, wrong=str(error), name=name)
    role = found[1] if found else "annotator"
    return signed_in(state, annotator, home_of(frozenset({role})))


@router.get("/consent")
def consent_page(request: Request, who: MemberPage) -> Response:
    """What answers may be used for, in plain words, once."""
    given = consents(state_of(request).store, who.annotator)
    return page(request, "consent.html", purposes=PURPOSES, given=given)


@router.post("/consent")
def consent(request: Request, who: MemberPage, form: Form) -> Response:
    """Keep each choice that changed; a choice that was not made is refused, not guessed."""
    store = state_of(request).store
    before = consents(store, who.annotator)
    for purpose, name, _ in PURPOSES:
        said = text_of(form, purpose, 3)
        if said not in ("yes", "no"):
            raise InputError(f"choose yes or no for {name!r}")
        known = before.get(purpose)
        if known is None or known.version != CONSENT_VERSION or known.given != (said == "yes"):
            record_consent(store, who.annotator, purpose, CONSENT_VERSION, said == "yes")
    return see("/me" if all(purpose in before for purpose, _, _ in PURPOSES) else "/work", "consent")


def undecided(state: State, annotator: str) -> bool:
    """Whether somebody has yet to be asked for consent, in these words."""
    given = consents(state.store, annotator)
    return any(p not in given or given[p].version != CONSENT_VERSION for p, _, _ in PURPOSES)


@router.get("/me")
def me(request: Request, who: MemberPage) -> Response:
    """One's own figures, choices and tokens."""
    return _me(request, who.annotator)


def _me(request: Request, annotator: str, fresh: str | None = None) -> Response:
    store = state_of(request).store
    return page(
        request,
        "me.html",
        figures=(figures := own_figures(store, annotator)),
        chart=columns("mine", "Your answers per day, the last 14 days", figures.days),
        purposes=PURPOSES,
        given=consents(store, annotator),
        tags=sorted({*sensitive_tags(store), *refused(store, annotator)} - {"*"}),
        refused=refused(store, annotator),
        tokens=[one for one in tokens(store, annotator) if one.revoked_at is None],
        fresh=fresh,
    )


@router.post("/me/refusals")
def refusals(request: Request, who: MemberPage, form: Form) -> Response:
    """Which content warnings one does not want to see."""
    set_refusals(state_of(request).store, who.annotator, texts_of(form, "refuse"))
    return see("/me", "saved")


@router.post("/me/tokens")
def new_token(request: Request, who: MemberPage, form: Form) -> Response:
    """A token of one's own, in one of one's own roles; it is shown once."""
    role = text_of(form, "role", 20)
    if role not in who.roles:
        raise InputError(f"a token has one of your own roles ({', '.join(sorted(who.roles))}), got {role!r:.30}")
    made = create_token(
        state_of(request).store, who.name, next(r for r in who.roles if r == role), by=who.annotator, days=90,
        annotator=who.annotator,
    )  # fmt: skip
    return _me(request, who.annotator, made.token)


@router.post("/me/tokens/{token}/revoke")
def revoke(request: Request, who: MemberPage, token: Identity) -> Response:
    """End one of one's own tokens."""
    state = state_of(request)
    if token not in {one.id for one in tokens(state.store, who.annotator)}:
        raise InputError(f"you have no token {token}")
    revoke_token(state.store, token, by=who.annotator)
    state.token_owners.clear()
    return see("/me", "revoked")
