"""What pages show and what files hold, without a browser."""

from __future__ import annotations

import csv
import io
import time

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from starlette.testclient import TestClient

from prefloop.errors import InputError
from prefloop.store.accounts import add_person
from prefloop.store.asking import gold_answers
from prefloop.store.consents import record_consent
from prefloop.store.database import Store
from prefloop.store.feedback import answers
from prefloop.store.queue import lease
from prefloop.store.sessions import set_password
from prefloop.store.submissions import Submission, submit
from prefloop.store.tables import leases
from prefloop.store.tokens import create_token
from prefloop.web.asking import Item, ask
from prefloop.web.outgoing import harmless
from prefloop.web.quizzes import parse_quiz, quiz_text
from prefloop.web.rendering import markdown
from tests.web.crew import browser, person, questions_of


def answer_all(store: Store, who: str, value: dict) -> None:
    while found := lease(store, who):
        submit(store, [Submission(lease_token=found[0].token, value=value, idempotency_key=found[0].token)])


@pytest.mark.parametrize(
    ("cell", "safe"),
    [
        ("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "'-1"), ("@SUM(A1)", "'@SUM(A1)"), ("\t=1", "'\t=1"),
        ("  =1", "'  =1"), ("\n=1", "'\n=1"), ("plain", "plain"), (None, ""), (2.5, "2.5"), ({"a": 1}, '{"a": 1}'),
    ],
)  # fmt: skip
def test_a_spreadsheet_runs_no_cell(cell: object, safe: str) -> None:
    assert harmless(cell) == safe


def test_the_table_holds_what_was_said_and_no_formula(app: FastAPI, desk_store: Store) -> None:
    ask(desk_store, [Item(kind="demonstration", prompt='=HYPERLINK("http://evil.invalid")')])
    who = person(desk_store, "=cmd|x", "annotator")
    answer_all(desk_store, who, {"text": "=1+1"})
    client = browser(app, desk_store, person(desk_store, "lead", "lead"))
    response = client.post("/lead/export", data={"format": "csv", "purpose": "training"})
    assert response.headers["content-disposition"].startswith('attachment; filename="answers-')
    header, row = csv.reader(io.StringIO(response.text))
    assert dict(zip(header, row, strict=True))["annotator"] == who
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row)
    assert "cmd" not in response.text


def test_only_consented_answers_leave(app: FastAPI, desk_store: Store) -> None:
    questions_of(desk_store, "approval", overlap=2)
    yes, no = person(desk_store, "yes", "annotator"), add_person(desk_store, "no", roles=["annotator"])
    record_consent(desk_store, no, "publication", 1, True)
    for who in (yes, no):
        answer_all(desk_store, who, {"approved": True})
    client = browser(app, desk_store, person(desk_store, "lead", "lead"))
    for purpose, expected in (("training", {yes}), ("publication", {yes, no})):
        rows = csv.DictReader(io.StringIO(client.post("/lead/export", data={"format": "csv", "purpose": purpose}).text))
        assert {row["annotator"] for row in rows} == expected
    assert client.post("/lead/export", data={"format": "csv", "purpose": "fun"}).status_code == 422


def test_personal_data_is_named_and_can_be_left_out(app: FastAPI, desk_store: Store) -> None:
    ask(desk_store, [Item(kind="approval", prompt="Write to ada@example.org", candidates=["Done."])])
    who = person(desk_store, "ada", "annotator")
    shown = browser(app, desk_store, who).get("/work").text
    assert "an e-mail address" in shown
    assert "Names and postal addresses are not looked for" in shown
    answer_all(desk_store, who, {"approved": True})
    with desk_store.write() as connection:  # the page holds the lease; give it back
        connection.exec_driver_sql("UPDATE slots SET annotator_id=NULL, token=NULL, expires_at=NULL")
    answer_all(desk_store, who, {"approved": True})
    client = browser(app, desk_store, person(desk_store, "lead", "lead"))
    form = {"format": "answers", "purpose": "training"}
    assert "ada@example.org" in client.post("/lead/export", data=form).text
    assert "[email]" in client.post("/lead/export", data={**form, "redacted": "yes"}).text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", b'{"prompt": "p", "completions": ["x", "y"]}\n{"prompt": "q", "completions": ["x", "y"]}\n'),
        ("rows.csv", b"prompt,completion_a,completion_b\np,x,y\nq,x,y\n"),
        (
            "rows.json",
            b'[{"prompt": "p", "chosen": "x", "rejected": "y"}, {"prompt": "q", "chosen": "x", "rejected": "y"}]',
        ),
    ],
)
def test_files_become_questions(app: FastAPI, desk_store: Store, name: str, content: bytes) -> None:
    client = browser(app, desk_store, person(desk_store, "lead", "lead"))
    form = {"as": "questions", "kind": "auto", "overlap": "1"}
    response = client.post("/lead/import", data=form, files={"file": (name, content)})
    assert "2 of 2 rows are questions now" in response.text
    (found,) = lease(desk_store, person(desk_store, "ada", "annotator"))
    assert found.kind == "comparison"
    assert {one["text"] for one in found.candidates} == {"x", "y"}


def test_answers_given_elsewhere_come_in_as_such(app: FastAPI, desk_store: Store) -> None:
    client = browser(app, desk_store, person(desk_store, "lead", "lead"))
    rows = b'{"prompt": "p", "chosen": "x", "rejected": "y", "annotator": "w7"}\n'
    response = client.post("/lead/import", data={"as": "comparisons"}, files={"file": ("old.jsonl", rows)})
    assert "1 answers are in" in response.text
    (row,) = answers(desk_store)
    assert (row.source, row.annotator.partition(":")[0]) == ("old.jsonl", "imported")


def test_a_column_of_another_name_says_what_answers_are_about(app: FastAPI, desk_store: Store) -> None:
    client = browser(app, desk_store, person(desk_store, "lead", "lead"))
    rows = b'{"prompt": "p", "chosen": "x", "rejected": "y", "about": "harmless"}\n'
    upload = {"files": {"file": ("old.jsonl", rows)}}
    form = {"as": "comparisons", "criterion": "abuot"}
    assert (
        "column &#39;abuot&#39;, which is to name the criterion"
        in client.post("/lead/import", data=form, **upload).text
    )
    asked = client.post("/lead/import", data={"as": "questions", "criterion": "about"}, **upload)
    assert (asked.status_code, "is for answers given elsewhere; these are questions" in asked.text) == (422, True)
    assert "1 answers are in" in client.post("/lead/import", data=form | {"criterion": "about"}, **upload).text
    (row,) = answers(desk_store)
    assert row.columns["criterion"] == "harmless"


def test_who_may_answer_is_chosen_when_questions_come_in(app: FastAPI, desk_store: Store) -> None:
    client = browser(app, desk_store, person(desk_store, "lead", "lead"))
    ada, bo = person(desk_store, "ada", "annotator"), person(desk_store, "bo", "annotator")
    judge = person(desk_store, "judge", "adjudicator")
    form = {"as": "questions", "kind": "auto", "pasted": "prompt,completion_a,completion_b\nOne?,x,y\n"}
    refused = client.post("/lead/import", data=form | {"audience": [ada, "the whole world"]})
    assert (refused.status_code, "the whole world" in refused.text) == (422, True)
    assert "1 of 1 rows" in client.post("/lead/import", data=form | {"audience": [ada, "adjudicator"]}).text
    assert [len(lease(desk_store, who)) for who in (bo, ada, judge)] == [0, 1, 1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"prompt": "p"}\n{"x": 1}', "prompt"),
        (b'{"prompt": "p", "completions": ["same", "same"]}', "same text"),
        (b"", "row"),
        (b"\xff\xfe\x00", "row"),
        (b"[" * 100_000, "row"),
    ],
)
def test_rows_that_are_none_are_explained(app: FastAPI, desk_store: Store, content: bytes, words: str) -> None:
    client = browser(app, desk_store, person(desk_store, "lead", "lead"))
    form = {"as": "questions", "kind": "comparison"}
    response = client.post("/lead/import", data=form, files={"file": ("rows.jsonl", content)})
    assert response.status_code == 422
    assert words in response.text


def test_a_row_may_bring_the_right_answer(app: FastAPI, desk_store: Store) -> None:
    client = browser(app, desk_store, person(desk_store, "lead", "lead"))
    table = "prompt,completion_a,completion_b,gold\nOne?,x,y,b\nTwo?,x,y,\nThree?,x,y,TRUE\n"
    response = client.post("/lead/import", data={"as": "questions", "kind": "auto", "pasted": table})
    assert "2 of 3 rows are questions now" in response.text
    assert "gold must be a, b or tie for a comparison" in response.text
    assert list(gold_answers(desk_store).values()) == [{"choice": "b"}]


def test_a_quiz_is_typed_as_text() -> None:
    text = "Which?\n- the longer\n+ the better\n\nAnd now?\n+ yes\n- no"
    quiz = parse_quiz(text)
    assert quiz[0] == {"question": "Which?", "options": ["the longer", "the better"], "correct": 1}
    assert quiz_text(quiz) == text
    for wrong in ("- alone", "Which?\n- a\n- b", "Which?\n+ a", "Which?\n+ a\n+ b"):
        with pytest.raises(InputError, match="quiz"):
            parse_quiz(wrong)


def test_a_new_guideline_is_passed_before_work_goes_on(app: FastAPI, desk_store: Store) -> None:
    questions_of(desk_store, "approval", n=2)
    lead = browser(app, desk_store, person(desk_store, "lead", "lead"))
    who = person(desk_store, "ada", "annotator")
    set_password(desk_store, who, "a few plain words")
    ada = browser(app, desk_store, who)
    assert ada.get("/work").status_code == 200
    assert lead.post("/lead/guidelines", data={"text": "Be kind.", "quiz": "How?\n+ kindly\n- not"}).status_code == 303
    with desk_store.read() as connection:
        token = connection.scalar(sa.select(leases.c.token))
    said = ada.post("/work/answers", json={"lease": token, "value": {"approved": True}, "key": "12345678"})
    assert (said.status_code, said.json()["go"]) == (200, "/quiz")
    assert len(list(answers(desk_store))) == 1
    bearer = {"authorization": f"Bearer {create_token(desk_store, '', 'annotator', annotator=who).token}"}
    refused = TestClient(app).post("/api/v1/questions/next", headers=bearer)
    assert (refused.status_code, "pass its quiz" in refused.json()["error"]) == (403, True)
    assert ada.get("/work").headers["location"] == "/quiz"
    assert ada.post("/quiz", data={"version": "1", "q0": "1"}).status_code == 422
    assert ada.get("/work").headers["location"] == "/quiz"
    assert ada.post("/quiz", data={"version": "1", "q0": "0"}).headers["location"].startswith("/work")
    assert ada.get("/work").status_code == 200


def test_markdown_keeps_formatting_and_nothing_that_acts() -> None:
    html = markdown("**bold** `code` [x](https://e.invalid) ![y](https://e.invalid/y.png) <b onclick=a()>raw</b>")
    assert "<strong>bold</strong>" in html
    assert "<code>code</code>" in html
    assert "(https://e.invalid)" in html
    assert "<a" not in html
    assert "<img" not in html
    assert "&lt;b onclick" in html


@pytest.mark.parametrize("text", ["*" * 50_000, "[" * 20_000, "> " * 10_000, "`" * 50_000, "- " * 5_000, "|" * 20_000])
def test_markdown_takes_no_time_for_what_means_nothing(text: str) -> None:
    begun = time.thread_time()  # the processor's: how busy the machine is does not matter
    markdown(text)
    assert time.thread_time() - begun < 5


def test_progress_counts_and_days_add_up(app: FastAPI, desk_store: Store) -> None:
    from prefloop.web.reading import answers_per_day, progress

    questions_of(desk_store, "approval", n=3, overlap=2)
    answer_all(desk_store, person(desk_store, "ada", "annotator"), {"approved": True})
    (row,) = progress(desk_store)
    assert (row.kind, row.questions, row.slots, row.done, row.leased) == ("approval", 3, 6, 3, 0)
    days = answers_per_day(desk_store)
    assert [n for _, n in days] == [0] * 29 + [3]


def test_a_part_of_a_page_that_is_opened_alone_leads_to_the_whole(app: FastAPI, desk_store: Store) -> None:
    client = browser(app, desk_store, person(desk_store, "lead", "lead"))
    alone = client.get("/lead/progress?rate=15")
    assert (alone.status_code, alone.headers["location"]) == (303, "/lead?rate=15")
    part = client.get("/lead/progress?rate=15", headers={"hx-request": "true"})
    assert part.status_code == 200
    assert "<html" not in part.text
