"""The annotators' pages: one question at a time, the guideline and its quiz, history and corrections."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from prefloop.errors import InputError
from prefloop.store.accounts import Principal
from prefloop.store.consents import QuizDue, quiz_is_due, record_quiz
from prefloop.store.corrections import correct
from prefloop.store.database import Store
from prefloop.store.feedback import AnswerRow, history, newest_guideline
from prefloop.store.queue import release
from prefloop.store.submissions import Submission
from prefloop.web.access import WorkerPage
from prefloop.web.bodies import json_body, read_form, text_of
from prefloop.web.questions import LEVELS, LONG, SCALE, SKIPS, Task, criteria_of, said_in_words, task_of
from prefloop.web.reading import held_lease, own_answer, own_figures, question_extras
from prefloop.web.rendering import fragment, page
from prefloop.web.routes.account import see, undecided
from prefloop.web.state import State, state_of

router = APIRouter(include_in_schema=False)
Form = Annotated[Mapping[str, Any], Depends(read_form)]
AnswerId = Annotated[str, Path(pattern=r"^[0-9a-f]{24}$")]


class Said(BaseModel):
    """What the page sends."""

    model_config = ConfigDict(extra="forbid")
    lease: str | None = Field(None, max_length=200)
    value: dict[str, Any]
    key: str = Field(min_length=8, max_length=200)
    seconds: float | None = Field(None, ge=0, le=30 * 24 * 3600, allow_inf_nan=False)


class Returned(BaseModel):
    """A lease that is given back."""

    model_config = ConfigDict(extra="forbid")
    lease: str = Field(min_length=1, max_length=200)


@router.get("/work")
async def work(request: Request, who: WorkerPage) -> Response:
    """The question that one holds, or the next one; before that consent and the guideline's quiz, where due."""
    state = state_of(request)
    before = await run_in_threadpool(_before_work, state, who.annotator)
    if before is not None:
        return see(before)
    task = await _next_task(state, who)
    figures = await run_in_threadpool(own_figures, state.store, who.annotator)
    return page(request, "work.html", task=task, figures=figures, **_words())


def _before_work(state: State, annotator: str) -> str | None:
    if undecided(state, annotator):
        return "/consent"
    return "/quiz" if quiz_is_due(state.store, annotator) else None


async def _next_task(state: State, who: Principal) -> Task | None:
    lease = await run_in_threadpool(held_lease, state.store, who.annotator)
    if lease is None:
        lease = await state.desk.lease(who.annotator)
    if lease is None:
        return None
    extras = await run_in_threadpool(question_extras, state.store, lease.question_id)
    newest = await run_in_threadpool(newest_guideline, state.store)
    return task_of(lease, extras, newest)


def _words() -> dict[str, Any]:
    return {"SCALE": SCALE, "SKIPS": SKIPS, "LEVELS": LEVELS, "LONG": LONG}


@router.post("/work/answers")
async def answer(request: Request, who: WorkerPage) -> Response:
    """Store an answer, and send the next question along with the receipt."""
    state = state_of(request)
    body = await json_body(request, Said)
    if not body.lease:
        raise InputError("lease: name the lease that this answers")
    submission = Submission(lease_token=body.lease, value=body.value, idempotency_key=body.key, seconds=body.seconds)
    receipt = await state.desk.submit(who.annotator, submission)
    try:
        task = await _next_task(state, who)
    except QuizDue:  # the guideline changed meanwhile; what was said is saved
        return JSONResponse({"id": receipt.answer_id, "saved_at": _now(), "go": "/quiz"})
    figures = await run_in_threadpool(own_figures, state.store, who.annotator)
    html = fragment("task.html", task=task, figures=figures, **_words())
    return JSONResponse({"id": receipt.answer_id, "saved_at": _now(), "next": html, "today": figures.today})


@router.post("/work/release")
async def give_back(request: Request, who: WorkerPage) -> Response:
    """Give the question back without an answer."""
    body = await json_body(request, Returned)
    freed = await run_in_threadpool(release, state_of(request).store, who.annotator, [body.lease])
    return JSONResponse({"freed": freed})


@router.get("/work/history")
def past(request: Request, who: WorkerPage) -> Response:
    """What one said last, each to be looked at and corrected."""
    rows = history(state_of(request).store, who.annotator)
    shown = [{"row": row, "words": said_in_words(row.kind, row.raw, letters(row))} for row in rows]
    return page(request, "history.html", rows=shown)


def letters(row: AnswerRow) -> dict[str, str]:
    """Candidate id -> the letter under which its annotator saw it."""
    return {one: chr(ord("A") + n) for n, one in enumerate(row.presented_order)}


@router.get("/work/history/{answer}")
def look_again(request: Request, who: WorkerPage, answer: AnswerId) -> Response:
    """One's own answer as it was given, to be corrected."""
    store = state_of(request).store
    row = own_answer(store, who.annotator, answer)
    if row is None:
        return page(request, "error.html", status=404, title="Not here", words="There is no such answer of yours.")
    task = correction_task(store, row)
    figures = own_figures(store, who.annotator)
    return page(request, "work.html", task=task, figures=figures, **_words())


def correction_task(store: Store, row: AnswerRow) -> Task:
    """The screen on which an answer is given anew: the same texts in the same order, with what was said."""
    texts = {one["id"]: one["text"] for one in row.candidates}
    extras = question_extras(store, row.question_id)
    return Task(
        question=row.question_id,
        kind=row.kind,
        messages=row.messages,
        candidates=[{"id": one, "text": texts[one]} for one in row.presented_order],
        guideline=newest_guideline(store),
        post_to=f"/work/history/{row.id}",
        value=row.raw,
        criteria=criteria_of(extras["columns"]),
    )


@router.post("/work/history/{answer}")
async def say_anew(request: Request, who: WorkerPage, answer: AnswerId) -> Response:
    """Store a correction: a further answer that names the old one."""
    body = await json_body(request, Said)
    receipt = await run_in_threadpool(
        correct,
        state_of(request).store,
        who.annotator,
        answer,
        body.value,
        idempotency_key=body.key,
        seconds=body.seconds,
    )
    return JSONResponse({"id": receipt.answer_id, "saved_at": _now(), "go": "/work"})


@router.get("/guideline")
def guideline(request: Request, who: WorkerPage) -> Response:
    """The guideline that holds now."""
    return page(request, "guideline.html", guideline=newest_guideline(state_of(request).store))


@router.get("/quiz")
def quiz_page(request: Request, who: WorkerPage) -> Response:
    """The guideline, and a few questions about it."""
    newest = newest_guideline(state_of(request).store)
    if newest is None or not newest["quiz"]:
        return see("/work")
    return page(request, "quiz.html", guideline=newest, wrong=[], chosen={})


@router.post("/quiz")
def quiz(request: Request, who: WorkerPage, form: Form) -> Response:
    """All right, and work begins; otherwise what was wrong is named, and one tries again."""
    store = state_of(request).store
    newest = newest_guideline(store)
    if newest is None or not newest["quiz"]:
        return see("/work")
    chosen = {n: text_of(form, f"q{n}", 4) for n in range(len(newest["quiz"]))}
    wrong = [n for n, one in enumerate(newest["quiz"]) if chosen[n] != str(one["correct"])]
    if text_of(form, "version", 12) != str(newest["version"]):
        return page(request, "quiz.html", status=409, guideline=newest, wrong=[], chosen={})
    record_quiz(store, who.annotator, newest["version"], not wrong)
    if wrong:
        return page(request, "quiz.html", status=422, guideline=newest, wrong=wrong, chosen=chosen)
    return see("/work", "quiz")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
