"""People, questions and clients for the tests of the app."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.testclient import TestClient

from prefloop.store.accounts import Role, add_person
from prefloop.store.consents import record_consent
from prefloop.store.database import Store
from prefloop.store.sessions import start_session
from prefloop.store.tokens import create_token
from prefloop.web.access import csrf_token
from prefloop.web.asking import Item, ask
from prefloop.web.consent import CONSENT_VERSION, PURPOSES

JUDGED = [
    Item(kind="comparison", prompt="Name a colour.", candidates=["Blue.", "Seven."]),
    Item(kind="ranking", prompt="Name a fruit.", candidates=["Pear.", "Chair.", "Plum."]),
    Item(kind="rating", prompt="What is 2 + 2?", candidates=["It is 4."]),
    Item(kind="approval", prompt="Say hello.", candidates=["Hello!"]),
    Item(kind="edit", prompt="Where is Oslo?", candidates=["Oslo is the **capital** of Sweden."]),
    Item(kind="flags", prompt="Who wrote Faust?", candidates=["Schiller did."]),
    Item(kind="demonstration", prompt="Write a haiku about rain."),
]
"""One question of each kind."""
VALUES = {
    "comparison": {"choice": "a", "strength": 2},
    "rating": {"scores": {"helpful": 4}},
    "approval": {"approved": True},
    "edit": {"text": "Oslo is the capital of Norway."},
    "flags": {"flags": ["hallucination"]},
    "demonstration": {"text": "Rain on the tin roof"},
}
"""A right answer of each kind; a ranking names the candidates of its question."""


def questions_of(store: Store, kind: str | None = None, n: int = 1, overlap: int = 1) -> list[str]:
    """Ask one question of each kind (or `n` of one kind)."""
    if kind is None:
        return ask(store, JUDGED)
    like = next(item for item in JUDGED if item.kind == kind)
    items = [
        Item(kind=kind, prompt=f"{like.prompt} ({number})", candidates=like.candidates, overlap=overlap)
        for number in range(n)
    ]
    return ask(store, items)


def person(store: Store, name: str, *roles: Role) -> str:
    """The id of somebody who has said what their answers may be used for."""
    who = add_person(store, name, roles=roles)
    for purpose, _, _ in PURPOSES:
        record_consent(store, who, purpose, CONSENT_VERSION, True)
    return who


def browser(app: FastAPI, store: Store, annotator: str) -> TestClient:
    """A client that is signed in and knows its CSRF token."""
    secret = start_session(store, annotator)
    client = TestClient(app, follow_redirects=False)
    client.cookies.set("prefloop", secret)
    client.headers["x-csrf-token"] = csrf_token(secret)
    client.headers["accept"] = "text/html"
    return client


def machine(app: FastAPI, store: Store, role: Role, name: str | None = None) -> TestClient:
    """A client with a token."""
    client = TestClient(app)
    client.headers["authorization"] = f"Bearer {create_token(store, name or role, role).token}"
    return client
