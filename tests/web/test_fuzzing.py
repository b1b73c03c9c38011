"""Requests that a machine makes up from our own OpenAPI description: none of them is a 5xx."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from starlette.testclient import TestClient

from prefloop.store.database import Store
from prefloop.web import create_app
from tests.web.crew import machine, questions_of

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install 'prefloop[dev]'")

CASES = 20_000


@pytest.fixture
def client(app: FastAPI, desk_store: Store) -> TestClient:
    questions_of(desk_store, n=50, kind="comparison")
    return machine(app, desk_store, "admin")


def tried(app: FastAPI, client: TestClient, cases: int) -> dict[str, int]:
    """How many of the made-up requests got which status; about as many for each operation."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [result.ok() for result in schema.get_all_operations()]
    seen: dict[str, int] = {}
    for operation in operations:
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

            @settings(
                max_examples=max(1, cases // len(operations) // 2),
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def send(case) -> None:
                response = case.call(session=client, headers={"authorization": client.headers["authorization"]})
                name = f"{case.method} {case.path}"
                assert response.status_code < 500, f"{name}: {response.status_code} {response.text[:300]}"
                seen[f"{response.status_code}"] = seen.get(f"{response.status_code}", 0) + 1

            try:
                send()
            except Unsatisfiable:
                continue  # an operation without a body or parameters has no wrong requests
    return seen


def test_made_up_requests_are_no_5xx(app: FastAPI, client: TestClient) -> None:
    seen = tried(app, client, 160)
    assert sum(seen.values()) > 60
    assert "422" in seen


@pytest.mark.prove
def test_twenty_thousand_made_up_requests_are_no_5xx(desk_store: Store) -> None:
    questions_of(desk_store, n=2000, kind="comparison")
    app = create_app(desk_store)
    # A third more: an operation without parameters has one request only, and cannot have its share of them.
    seen = tried(app, machine(app, desk_store, "admin"), CASES * 4 // 3)
    app.state.prefloop.close()
    print(seen)
    assert sum(seen.values()) >= CASES
