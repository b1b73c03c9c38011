"""The API as the contract has it: docs/api.md."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from starlette.testclient import TestClient

from prefloop.store.database import Store
from prefloop.store.tables import slots
from tests.web.crew import JUDGED, VALUES, machine, questions_of


def following(client: TestClient, *kinds: str) -> dict:
    response = client.post("/api/v1/questions/next", json={"kinds": list(kinds)} if kinds else {})
    assert response.status_code == 200, response.text
    return response.json()


def answered(client: TestClient, lease: str, value: object, key: str):
    body = {"lease": lease, "value": value}
    return client.post("/api/v1/answers", json=body, headers={"idempotency-key": key})


def test_health_needs_no_token(app: FastAPI) -> None:
    response = TestClient(app).get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_the_whole_way_for_every_kind(both_app: FastAPI, store: Store) -> None:
    lead, annotator = machine(both_app, store, "lead"), machine(both_app, store, "annotator")
    items = [{"kind": i.kind, "prompt": i.prompt, "candidates": list(i.candidates)} for i in JUDGED]
    asked = lead.post("/api/v1/questions", json={"items": items})
    assert asked.status_code == 201
    ids = asked.json()["ids"]
    assert len(set(ids)) == 7
    said = {}
    for n in range(7):
        found = following(annotator)
        question, lease = found["question"], found["lease"]
        assert question["prompt"][0]["role"] == "user"
        assert datetime.fromisoformat(lease["expires_at"]) > datetime.now(UTC)
        value = VALUES.get(question["kind"]) or {"order": [[one["id"]] for one in question["candidates"]]}
        response = answered(annotator, lease["token"], value, f"key-{n}")
        assert response.status_code == 201, response.text
        said[question["id"]] = (response.json()["id"], value)
    assert set(said) == set(ids)
    assert annotator.post("/api/v1/questions/next").status_code == 204
    page = lead.get("/api/v1/answers", params={"limit": 100}).json()
    assert {one["question"]: (one["id"], one["value"]) for one in page["answers"]} == said
    assert {"id", "question", "kind", "annotator", "value", "at"} <= page["answers"][0].keys()


def test_a_replay_is_the_same_answer(both_app: FastAPI, store: Store) -> None:
    questions_of(store, "comparison")
    annotator = machine(both_app, store, "annotator")
    lease = following(annotator)["lease"]["token"]
    first = answered(annotator, lease, {"choice": "b"}, "k1")
    again = answered(annotator, lease, {"choice": "b"}, "k1")
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    other = answered(annotator, lease, {"choice": "a"}, "k1")
    assert other.status_code == 422
    used = answered(annotator, lease, {"choice": "a"}, "k2")
    assert used.status_code == 409
    assert used.json()["id"] == first.json()["id"]


def test_late_work_is_kept_and_said_so(both_app: FastAPI, store: Store) -> None:
    (question,) = questions_of(store, "comparison")
    annotator, lead = machine(both_app, store, "annotator"), machine(both_app, store, "lead")
    lease = following(annotator)["lease"]["token"]
    with store.write() as connection:
        connection.execute(sa.update(slots).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    late = answered(annotator, lease, {"choice": "b"}, "k")
    assert late.status_code == 409
    assert late.json()["late"] is True
    (kept,) = lead.get("/api/v1/answers").json()["answers"]
    assert (kept["id"], kept["late"], kept["question"]) == (late.json()["id"], True, question)


def test_nobody_answers_under_another_ones_lease(both_app: FastAPI, store: Store) -> None:
    questions_of(store, "comparison")
    mine, other = machine(both_app, store, "annotator", "one"), machine(both_app, store, "annotator", "two")
    lease = following(mine)["lease"]["token"]
    assert answered(other, lease, {"choice": "a"}, "k").status_code == 409
    assert answered(mine, lease, {"choice": "a"}, "k").status_code == 201


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"choice": "c"}, "a, b, tie"),
        ({"choice": "a", "strength": 4}, "1 (slightly)"),
        ({"choice": "a", "more": 1}, "more"),
        ({}, "choice"),
        ({"skip": ""}, "reason"),
    ],
)
def test_a_wrong_value_is_explained(app: FastAPI, desk_store: Store, value: object, words: str) -> None:
    questions_of(desk_store, "comparison")
    annotator = machine(app, desk_store, "annotator")
    response = answered(annotator, following(annotator)["lease"]["token"], value, "k")
    assert response.status_code == 422
    assert words in response.json()["error"]


def test_kinds_choose_and_skips_free(app: FastAPI, desk_store: Store) -> None:
    questions_of(desk_store)
    one, two = machine(app, desk_store, "annotator", "one"), machine(app, desk_store, "annotator", "two")
    found = following(one, "rating", "flags")
    assert found["question"]["kind"] in ("rating", "flags")
    assert answered(one, found["lease"]["token"], {"skip": "no idea"}, "k").status_code == 201
    assert {following(two, "rating", "flags")["question"]["kind"] for _ in range(2)} == {"rating", "flags"}


def test_answers_are_paged_in_a_stable_order(app: FastAPI, desk_store: Store) -> None:
    questions_of(desk_store, "comparison", n=7)
    annotator, viewer = machine(app, desk_store, "annotator"), machine(app, desk_store, "viewer")
    for n in range(7):
        answered(annotator, following(annotator)["lease"]["token"], {"choice": "tie"}, str(n))
    seen, cursor = [], ""
    while True:
        page = viewer.get("/api/v1/answers", params={"after": cursor, "limit": 3}).json()
        seen.append(len(page["answers"]))
        if page["next"] is None:
            break
        cursor = page["next"]
    assert seen == [3, 3, 1, 0]


BAD = [
    b"{",
    b"[]",
    b"\xff\xfe",
    b'{"kinds": []}',
    b'{"kinds": ["nonsense"]}',
    b'{"kinds": null, "more": 1}',
    b"[" * 100_000,
    b'{"kinds": [' + b"[" * 100_000,
    b'{"kinds": ["\\ud800"]}',
    b'{"kinds": NaN}',
]


@pytest.mark.parametrize("body", BAD, ids=range(len(BAD)))
def test_a_body_that_is_none_is_a_422(app: FastAPI, desk_store: Store, body: bytes) -> None:
    annotator = machine(app, desk_store, "annotator")
    response = annotator.post("/api/v1/questions/next", content=body)
    assert response.status_code == 422
    assert response.json()["error"]


@pytest.mark.parametrize(
    "text",
    ['"a\\u0000b"', '"\\ud800"', "9223372036854775808", "NaN", "1e400", "[" * 100_000 + "]" * 100_000],
    ids=["NUL", "surrogate", "2**63", "NaN", "infinity", "deep"],
)
def test_what_no_database_keeps_is_refused(app: FastAPI, desk_store: Store, text: str) -> None:
    questions_of(desk_store, "flags")
    annotator = machine(app, desk_store, "annotator")
    lease = following(annotator)["lease"]["token"]
    body = f'{{"lease": "{lease}", "value": {{"flags": [], "note": {text}}}}}'
    response = annotator.post("/api/v1/answers", content=body.encode(), headers={"idempotency-key": "k"})
    assert response.status_code == 422
    assert answered(annotator, lease, {"flags": []}, "k").status_code == 201


def test_the_key_is_needed(app: FastAPI, desk_store: Store) -> None:
    questions_of(desk_store, "flags")
    annotator = machine(app, desk_store, "annotator")
    lease = following(annotator)["lease"]["token"]
    response = annotator.post("/api/v1/answers", json={"lease": lease, "value": {"flags": []}})
    assert response.status_code == 422
    assert "idempotency" in response.json()["error"].lower()


def test_asking_is_all_or_nothing(app: FastAPI, desk_store: Store) -> None:
    lead = machine(app, desk_store, "lead")
    good = {"kind": "comparison", "prompt": "p", "candidates": ["x", "y"]}
    for bad in ({"kind": "comparison", "prompt": "p", "candidates": ["x"]}, {**good, "candidates": ["x", "x"]}):
        response = lead.post("/api/v1/questions", json={"items": [good, bad]})
        assert response.status_code == 422
        assert "items[1]" in response.json()["error"]
    assert machine(app, desk_store, "annotator").post("/api/v1/questions/next").status_code == 204
    once, twice = (lead.post("/api/v1/questions", json={"items": [good]}).json() for _ in range(2))
    assert once == twice


def test_a_token_that_is_revoked_is_over(app: FastAPI, desk_store: Store) -> None:
    from prefloop.store.tokens import revoke_token, tokens

    annotator = machine(app, desk_store, "annotator")
    assert annotator.post("/api/v1/questions/next").status_code == 204
    revoke_token(desk_store, tokens(desk_store)[0].id)
    app.state.prefloop.token_owners.clear()
    response = annotator.post("/api/v1/questions/next")
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")


def test_openapi_describes_the_contract(app: FastAPI) -> None:
    schema = TestClient(app).get("/openapi.json").json()
    assert set(schema["paths"]) == {
        "/healthz", "/api/v1/questions/next", "/api/v1/answers", "/api/v1/questions",
        "/api/v1/consents",
    }  # fmt: skip
    assert "$ref" not in json.dumps(schema["paths"]["/api/v1/questions"]["post"]["requestBody"])
    assert {"200", "201", "409", "422"} <= schema["paths"]["/api/v1/answers"]["post"]["responses"].keys()


def test_gold_and_an_audience_come_with_the_question(app: FastAPI, desk_store: Store) -> None:
    from prefloop.store.asking import gold_answers, set_queue_options

    set_queue_options(desk_store, gold_share=1.0)
    lead = machine(app, desk_store, "lead")
    items = [
        {"kind": "ranking", "prompt": "p", "candidates": ["x", "y", "z"], "gold": {"order": [[2], [0, 1]]}},
        {"kind": "approval", "prompt": "q", "candidates": ["x"], "audience": ["adjudicator"]},
    ]
    first, second = lead.post("/api/v1/questions", json={"items": items}).json()["ids"]
    found = following(machine(app, desk_store, "adjudicator"), "approval")["question"]
    assert found["id"] == second
    annotator = machine(app, desk_store, "annotator")
    assert annotator.post("/api/v1/questions/next", json={"kinds": ["approval"]}).status_code == 204
    ranked = following(annotator, "ranking")["question"]
    texts = {one["id"]: one["text"] for one in ranked["candidates"]}
    (best,), rest = gold_answers(desk_store)[first]["order"]
    assert texts[best] == "z"
    assert {texts[one] for one in rest} == {"x", "y"}
    bad = [{**items[0], "gold": {"order": [[7]]}}]
    assert lead.post("/api/v1/questions", json={"items": bad}).status_code == 422


def test_a_machines_person_agrees_through_the_api(app: FastAPI, desk_store: Store) -> None:
    from prefloop.store.privacy import without_consent
    from prefloop.store.tokens import tokens

    annotator = machine(app, desk_store, "annotator")
    (token,) = tokens(desk_store)
    assert without_consent(desk_store, [token.annotator], "training") == {token.annotator}
    for given in (True, False):
        response = annotator.post("/api/v1/consents", json={"purpose": "training", "given": given})
        assert response.json() == {"purpose": "training", "given": given}
        assert bool(without_consent(desk_store, [token.annotator], "training")) != given
    assert annotator.post("/api/v1/consents", json={"purpose": "fun", "given": True}).status_code == 422
