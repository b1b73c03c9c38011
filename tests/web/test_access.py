"""Every route times every role, from the app's own table of routes; what has no rule is not served."""

from __future__ import annotations

import re

import pytest
from fastapi import APIRouter, FastAPI
from starlette.testclient import TestClient

from prefloop.store.accounts import ROLES, add_person, deactivate
from prefloop.store.database import Store
from prefloop.store.sessions import session_owner, start_session
from prefloop.web import create_app
from prefloop.web.access import Access, Public, api_routes, check_every_route, csrf_token, rules_of
from tests.web.crew import browser, machine, person

SOMEBODY = "person:0000000000000000"
FILLED = {
    "{secret}": "x" * 30,
    "{answer}": "0" * 24,
    "{question}": "0" * 24,
    "{annotator}": SOMEBODY,
    "{token}": "t1",
    "{webhook}": "w1",
}
PUBLIC = {
    ("GET", "/"), ("GET", "/healthz"), ("GET", "/login"), ("POST", "/login"), ("GET", "/invitations/{secret}"),
    ("POST", "/invitations/{secret}"), ("GET", "/openapi.json"),
}  # fmt: skip
EXPECTED = {
    ("POST", "/api/v1/questions/next"): "admin lead adjudicator annotator",
    ("POST", "/api/v1/answers"): "admin lead adjudicator annotator",
    ("POST", "/api/v1/questions"): "admin lead",
    ("POST", "/api/v1/consents"): "admin lead adjudicator annotator viewer",
    ("GET", "/api/v1/answers"): "admin lead viewer",
    ("GET", "/work"): "admin lead adjudicator annotator",
    ("POST", "/work/answers"): "admin lead adjudicator annotator",
    ("GET", "/lead"): "admin lead adjudicator viewer",
    ("POST", "/lead/import"): "admin lead",
    ("POST", "/lead/export"): "admin lead",
    ("GET", "/lead/review"): "admin lead adjudicator",
    ("POST", "/lead/review/{question}"): "admin lead adjudicator",
    ("POST", "/lead/guidelines"): "admin lead",
    ("POST", "/lead/invitations"): "admin lead",
    ("POST", "/lead/people/{annotator}/roles"): "admin",
    ("POST", "/lead/people/{annotator}/reset"): "admin",
    ("POST", "/lead/people/{annotator}/active"): "admin",
    ("POST", "/lead/tokens"): "admin",
    ("POST", "/lead/webhooks"): "admin",
    ("POST", "/lead/queue"): "admin lead",
    ("POST", "/lead/rulings"): "admin lead",
    ("POST", "/lead/tokens/{token}/revoke"): "admin",
}
"""Written down a second time on purpose: loosening a rule has to be done twice."""


def address(path: str) -> str:
    return re.sub(r"\{\w+\}", lambda found: FILLED[found[0]], path)


def calls(app: FastAPI) -> list[tuple[str, str, Access | Public]]:
    return [(m, r.path, rules_of(r)[0]) for r in api_routes(app) for m in sorted(r.methods) if m != "HEAD"]


def test_every_route_times_every_role(app: FastAPI, desk_store: Store) -> None:
    pages = {role: browser(app, desk_store, person(desk_store, role, role)) for role in ROLES}
    machines = {role: machine(app, desk_store, role, f"machine {role}") for role in ROLES}
    nobody = TestClient(app, follow_redirects=False)
    tried = 0
    for method, path, rule in calls(app):
        if path == "/logout":
            continue  # has its own test: it ends the session that the others need
        alone = nobody.request(method, address(path), headers={"accept": "application/json"})
        if isinstance(rule, Public):
            assert (method, path) in PUBLIC, f"{method} {path} is open to everybody"
            assert alone.status_code not in (401, 403) or path == "/login"  # which says 401 to a wrong password
            continue
        assert alone.status_code == 401, f"{method} {path} without anything"
        for role in ROLES:
            fits, other = (pages, machines) if rule.via == "page" else (machines, pages)
            accept = {"accept": "application/json"}
            status = fits[role].request(method, address(path), headers=accept).status_code
            allowed = role in rule.roles
            assert (status != 403) == allowed, f"{method} {path} as {role}: {status}"
            assert status not in (401, 500), f"{method} {path} as {role}: {status}"
            wrong = other[role].request(method, address(path), headers=accept)
            assert wrong.status_code == 401, f"{method} {path} takes a {rule.via} rule's other key"
            tried += 1
    assert tried > 150


def test_the_rules_are_the_ones_meant(app: FastAPI) -> None:
    rules = {(method, path): rule for method, path, rule in calls(app)}
    for place, roles in EXPECTED.items():
        rule = rules[place]
        assert isinstance(rule, Access)
        assert rule.roles == set(roles.split()), place
    assert {place for place, rule in rules.items() if isinstance(rule, Public)} == PUBLIC


def test_a_route_without_a_rule_does_not_start(app: FastAPI) -> None:
    open_router = APIRouter()

    @open_router.get("/forgotten")
    def forgotten() -> str:
        return "secret"

    app.router.routes.extend(open_router.routes)
    with pytest.raises(TypeError, match="/forgotten needs exactly one rule"):
        check_every_route(app)


def test_what_is_mounted_has_no_rule_and_does_not_start(app: FastAPI) -> None:
    app.mount("/other", FastAPI())
    with pytest.raises(TypeError, match="cannot have a rule"):
        check_every_route(app)


def test_pages_that_change_something_want_the_csrf_token(app: FastAPI, desk_store: Store) -> None:
    admin = browser(app, desk_store, person(desk_store, "admin", "admin"))
    for method, path, rule in calls(app):
        if method == "GET" or isinstance(rule, Public) or rule.via == "api":
            continue
        for token in ("", "0" * 64, csrf_token("another session")):
            response = admin.request(method, address(path), headers={"x-csrf-token": token})
            assert response.status_code == 403, f"{method} {path}"
    elsewhere = {"origin": "https://evil.example"}
    assert admin.post("/me/refusals", headers=elsewhere).status_code == 403
    assert admin.post("/me/refusals", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert admin.post("/me/refusals").status_code == 303
    nobody = TestClient(app)
    form = {"name": "x", "password": "y"}
    assert nobody.post("/login", data=form, headers=elsewhere).status_code == 403
    assert nobody.post("/login", data=form).status_code == 401


def test_the_csrf_token_may_come_as_a_field(app: FastAPI, desk_store: Store) -> None:
    who = person(desk_store, "a", "annotator")
    secret = start_session(desk_store, who)
    client = TestClient(app, follow_redirects=False)
    client.cookies.set("prefloop", secret)
    assert client.post("/me/refusals", data={"csrf": csrf_token(secret)}).status_code == 303
    assert client.post("/me/refusals", data={"csrf": "0" * 64}).status_code == 403


def test_signing_in_and_out(app: FastAPI, desk_store: Store) -> None:
    add_person(desk_store, "ada", roles=["annotator"], password="correct horse battery")
    client = TestClient(app, follow_redirects=False)
    wrong = client.post("/login", data={"name": "ada", "password": "wrong horse battery"})
    assert wrong.status_code == 401
    assert "set-cookie" not in wrong.headers
    right = client.post("/login", data={"name": "ada", "password": "correct horse battery"})
    assert (right.status_code, right.headers["location"]) == (303, "/work")
    cookie = right.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    secret = client.cookies["prefloop"]
    assert session_owner(desk_store, secret) is not None
    out = client.post("/logout", headers={"x-csrf-token": csrf_token(secret)})
    assert out.status_code == 303
    assert session_owner(desk_store, secret) is None


def test_behind_tls_the_cookie_is_bound_to_it(desk_store: Store) -> None:
    from prefloop.web import WebSettings

    app = create_app(desk_store, WebSettings(secure=True))
    add_person(desk_store, "ada", roles=["annotator"], password="correct horse battery")
    client = TestClient(app, base_url="https://testserver", follow_redirects=False)
    response = client.post("/login", data={"name": "ada", "password": "correct horse battery"})
    cookie = response.headers["set-cookie"]
    assert cookie.startswith("__Host-prefloop=")
    assert "Secure" in cookie
    assert "SameSite=strict" in cookie
    assert "max-age" in response.headers["strict-transport-security"]
    app.state.prefloop.close()


def test_guessing_passwords_is_slowed_down(app: FastAPI, desk_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefloop.web.attempts import Attempts
    from prefloop.web.routes import account

    monkeypatch.setattr(account, "ATTEMPTS", Attempts(most=2, seconds=60))
    client = TestClient(app)
    statuses = [client.post("/login", data={"name": "eve", "password": "guess"}).status_code for _ in range(3)]
    assert statuses == [401, 401, 429]


def test_who_was_let_in_no_more_is_out_at_once(app: FastAPI, desk_store: Store) -> None:
    who = person(desk_store, "a", "annotator")
    client = browser(app, desk_store, who)
    assert client.get("/me").status_code == 200
    deactivate(desk_store, who)
    assert client.get("/me").status_code == 303


def test_another_host_name_is_refused(app: FastAPI) -> None:
    assert TestClient(app).get("/healthz", headers={"host": "evil.example"}).status_code == 421
    assert TestClient(app).get("/healthz", headers={"host": "127.0.0.1:8700"}).status_code == 200


def test_nobody_registers_uninvited(app: FastAPI) -> None:
    client = TestClient(app)
    form = {"name": "eve", "password": "long enough pass", "again": "long enough pass"}
    response = client.post(f"/invitations/{'x' * 30}", data=form)
    assert response.status_code == 422
    assert "not valid" in response.text


def test_an_invitation_makes_one_account(app: FastAPI, desk_store: Store) -> None:
    from prefloop.store.invitations import invite

    path = f"/invitations/{invite(desk_store, 'annotator')}"
    form = {"name": "ada", "password": "long enough pass", "again": "long enough pass"}
    client = TestClient(app, follow_redirects=False)
    assert client.get(path).status_code == 200
    assert client.post(path, data={**form, "again": "another pass!"}).status_code == 422
    assert client.post(path, data=form).headers["location"] == "/work"
    assert client.get("/work").headers["location"] == "/consent"
    assert TestClient(app).post(path, data={**form, "name": "eve"}).status_code == 422


def test_every_response_carries_the_policy(app: FastAPI, desk_store: Store) -> None:
    client = browser(app, desk_store, person(desk_store, "admin", "admin"))
    for path in ("/login", "/lead", "/nowhere", "/static/app.css", "/healthz"):
        headers = client.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
