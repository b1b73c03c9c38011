"""The page on what answers are worth: shown at once from the newest report, which is made beside the app."""

from __future__ import annotations

import time

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from prefloop.quality.report import NAME, make_report
from prefloop.store.database import Store
from prefloop.store.erasure import erase_subject
from prefloop.store.queue import lease
from prefloop.store.reports import Moment, answers_since, keep_report, moment, newest_report
from prefloop.store.rulings import rule
from prefloop.store.submissions import Submission, submit
from prefloop.web import quality
from prefloop.web.quality import worst_first
from tests.web.crew import browser, person, questions_of


def answer_all(store: Store, who: str) -> None:
    while held := lease(store, who):
        said = {"approved": True} if held[0].kind == "approval" else {"choice": "a"}
        submit(store, [Submission(lease_token=held[0].token, value=said, idempotency_key=held[0].token)])


def until_made(client: TestClient, path: str = "/lead/agreement/made") -> None:
    deadline = time.monotonic() + 120
    while client.get(path).status_code == 204:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_newest_report_is_kept_and_an_older_one_does_not_replace_it(store: Store) -> None:
    assert newest_report(store, "x") is None
    keep_report(store, "x", Moment(event=5, answer=3), 1.5, {"a": 1})
    first = newest_report(store, "x")
    assert first is not None
    assert (first.moment, first.seconds, first.value) == (Moment(event=5, answer=3), 1.5, {"a": 1})
    assert newest_report(store, "x", first) is first
    keep_report(store, "x", Moment(event=4, answer=2), 1.0, {"a": 0})
    assert newest_report(store, "x") == first
    keep_report(store, "x", Moment(event=6, answer=4), 1.0, {"a": 2})
    second = newest_report(store, "x", first)
    assert second is not None
    assert second.value == {"a": 2}


def test_a_report_knows_its_moment_and_goes_when_something_is_erased(store: Store) -> None:
    questions_of(store, "approval", n=3, overlap=2)
    ada = person(store, "ada", "annotator")
    assert moment(store).answer == 0
    answer_all(store, ada)
    make_report(store)
    report = newest_report(store, NAME)
    assert report is not None
    assert report.moment == moment(store)
    assert [(one["id"], one["n"]) for one in report.value["annotators"]] == [(ada, 3)]
    answer_all(store, person(store, "bo", "annotator"))
    assert answers_since(store, report.moment) == 3
    erase_subject(store, ada, reason="asked to")
    assert newest_report(store, NAME) is None


def test_the_page_has_the_report_made_beside_it(both_app: FastAPI, store: Store) -> None:
    client = browser(both_app, store, person(store, "lead", "lead"))
    assert "Nothing to compare yet" in client.get("/lead/agreement").text
    questions_of(store, "comparison", n=4, overlap=2)
    for name in ("ada", "bo"):
        answer_all(store, person(store, name, "annotator"))
    assert "for the first time" in client.get("/lead/agreement").text
    until_made(client)
    assert client.get("/lead/agreement/made").headers["hx-refresh"] == "true"
    shown = client.get("/lead/agreement").text
    assert "Worked out just now" in shown
    assert "newer answer" not in shown
    assert "ada" in shown
    assert "Took the first shown" in shown
    questions_of(store, "approval")
    answer_all(store, person(store, "cy", "annotator"))
    assert "1 newer answer is not in it" in client.get("/lead/agreement").text
    assert client.get("/lead/agreement/made").status_code == 200, "the last one was just made: a pause comes first"
    assert client.post("/lead/agreement").status_code == 303
    until_made(client)
    assert "newer answer" not in client.get("/lead/agreement").text


def test_a_process_that_dies_leaves_the_old_report_and_is_begun_again(
    app: FastAPI, desk_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = browser(app, desk_store, person(desk_store, "lead", "lead"))
    questions_of(desk_store, "approval", n=2)
    answer_all(desk_store, person(desk_store, "ada", "annotator"))
    make_report(desk_store)
    questions_of(desk_store, "comparison")
    answer_all(desk_store, person(desk_store, "bo", "annotator"))
    shown = client.get("/lead/agreement").text
    assert "being worked out again" in shown
    process = app.state.prefloop.quality._process
    process.kill()
    process.wait()
    shown = client.get("/lead/agreement").text
    assert "did not succeed" in shown
    assert "1 newer answer is not in it" in shown
    assert "ada" in shown
    monkeypatch.setattr(quality, "AFTER_FAILURE", 0.0)
    client.post("/lead/agreement")
    until_made(client)
    shown = client.get("/lead/agreement").text
    assert "did not succeed" not in shown
    assert "newer answer" not in shown


def test_findings_ask_a_lead_until_one_has_decided(app: FastAPI, desk_store: Store) -> None:
    client = browser(app, desk_store, person(desk_store, "lead", "lead"))
    ada = person(desk_store, "ada", "annotator")
    questions_of(desk_store, "approval")
    found = {"annotators": [{"id": ada, "flags": ["fast"]}, {"id": "x", "flags": []}]}

    def asked() -> bool:
        app.state.prefloop.figures.clear()
        return "1 annotator has findings that nobody has looked at" in client.get("/lead").text

    assert not asked()
    keep_report(desk_store, NAME, Moment(event=10**6, answer=0), 1.0, found)
    assert asked()
    rule(desk_store, ada, "keep", ["position"])
    assert asked(), "what was decided was something else"
    rule(desk_store, ada, "keep", ["fast"])
    assert not asked()
    rule(desk_store, ada, "as_found")
    assert asked()
    rule(desk_store, ada, "exclude")
    assert not asked()


def test_those_with_findings_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    people = [
        {"id": "a", "flags": [], "reliability": 0.2},
        {"id": "b", "flags": ["fast"], "reliability": 0.9},
        {"id": "c", "flags": [], "reliability": 0.1},
    ]
    assert [one["id"] for one in worst_first(people)] == ["b", "c", "a"]
    monkeypatch.setattr(quality, "SHOWN", 2)
    assert [one["id"] for one in worst_first(people)] == ["b", "c"]
