"""The leads' pages: progress, import, agreement, review, guidelines, export."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from prefloop.errors import InputError, RunError
from prefloop.records import QUESTION_KINDS, QuestionKind
from prefloop.snapshots.answer_rows import IMPORT_KINDS
from prefloop.snapshots.export import FORMATS, export
from prefloop.snapshots.importing import import_file
from prefloop.store.accounts import people
from prefloop.store.asking import queue_options, set_queue_options
from prefloop.store.backup import record_file
from prefloop.store.corrections import adjudicate
from prefloop.store.counting import counts
from prefloop.store.database import Store
from prefloop.store.feedback import AnswerRow, add_guideline, answers
from prefloop.store.privacy import NOT_COVERED, without_consent
from prefloop.store.rulings import DECISIONS, rule, rulings
from prefloop.web.access import WORKERS, JudgePage, LeadPage, ReaderPage
from prefloop.web.bodies import json_body, read_form, text_of, texts_of, upload_of, whole_number
from prefloop.web.charts import bar, columns, interval
from prefloop.web.consent import PURPOSES
from prefloop.web.incoming import pasted_file, take_questions, temporary_folder, uploaded_file
from prefloop.web.outgoing import as_csv, as_json_lines
from prefloop.web.quality import worst_first
from prefloop.web.questions import KIND_NAMES, LEVELS, LONG, SCALE, SKIPS, Task, said_in_words
from prefloop.web.quizzes import parse_quiz, quiz_text
from prefloop.web.reading import (
    all_guidelines,
    answered_together,
    answers_per_day,
    names_of,
    one_question,
    people_progress,
    progress,
)
from prefloop.web.rendering import page
from prefloop.web.routes.account import see
from prefloop.web.routes.work import Said
from prefloop.web.state import State, state_of

router = APIRouter(include_in_schema=False)
Form = Annotated[Mapping[str, Any], Depends(read_form)]
QuestionId = Annotated[str, Path(pattern=r"^[0-9a-f]{24}$")]

MOST_PASTED = 5_000_000


@router.get("/lead")
def overview(request: Request, who: ReaderPage, rate: Annotated[str, Query(max_length=12)] = "") -> Response:
    """Progress, time and cost per kind, answers per day, and who does what."""
    return page(request, "lead.html", **_progress(state_of(request), rate))


@router.get("/lead/progress")
def progress_part(request: Request, who: ReaderPage, rate: Annotated[str, Query(max_length=12)] = "") -> Response:
    """The part of the overview that renews itself; who opens it alone is led to the whole."""
    if "hx-request" not in request.headers:
        return see(f"/lead?{request.url.query}" if request.url.query else "/lead")
    return page(request, "progress.html", **_progress(state_of(request), rate))


def _progress(state: State, rate: str) -> dict[str, Any]:
    store = state.store
    hourly = _rate(rate)
    kinds = state.recent("progress", 2.0, lambda: progress(store))
    days = state.recent("days", 5.0, lambda: answers_per_day(store))
    return {
        "kinds": kinds,
        "days": days,
        "chart": columns("days", "Answers per day, the last 30 days", days),
        "people": state.recent("people", 5.0, lambda: people_progress(store)),
        "asking": state.recent("asking", 5.0, state.quality.asking),
        "rate": hourly,
        "bar": bar,
        "names": KIND_NAMES,
        "now": datetime.now(UTC),
    }


def _rate(given: str) -> float | None:
    try:
        hourly = float(given.replace(",", ".")) if given.strip() else None
    except ValueError:
        raise InputError(f"the pay per hour must be a number such as 15, got {given!r:.30}") from None
    if hourly is not None and not 0 <= hourly <= 10_000:
        raise InputError(f"the pay per hour must be from 0 to 10,000, got {given!r:.30}")
    return hourly


@router.get("/lead/import")
def import_page(request: Request, who: LeadPage) -> Response:
    """Where prompts, completions and answers come in."""
    return _import(request)


ASKED = {"as": "questions", "kind": "auto", "overlap": "2", "most": "", "criterion": "", "source": ""}
"""The fields of the import page as they are before anybody fills them in."""


def _import(request: Request, status: int = 200, **said: Any) -> Response:
    store = state_of(request).store
    given = {
        "wrong": None,
        "result": None,
        "pasted": "",
        "chosen": (),
        "asked": ASKED,
        "queue": queue_options(store),
    } | said
    return page(
        request,
        "import.html",
        status=status,
        kinds=QUESTION_KINDS,
        names=KIND_NAMES,
        answer_kinds=IMPORT_KINDS,
        who_may=_who_may(store),
        **given,
    )


def _who_may(store: Store) -> dict[str, str]:
    """Whom a question may be kept for, role or id -> words: roles whose holders answer, then people."""
    answering = set(WORKERS)
    named = [one for one in people(store) if one.active and one.roles & answering]
    return {role: f"every {role}" for role in WORKERS} | {one.id: one.name for one in named}


@router.post("/lead/import")
def import_rows(request: Request, who: LeadPage, form: Form) -> Response:
    """Ask a question per row of an upload or of pasted rows, or take in answers that were given elsewhere."""
    state = state_of(request)
    pasted = text_of(form, "pasted", MOST_PASTED)
    upload = upload_of(form, "file")
    what = text_of(form, "as", 40, "questions")
    kind = text_of(form, "kind", 40, "auto")
    source = text_of(form, "source", 200)
    criterion = text_of(form, "criterion", 200)
    try:
        if criterion and what in ("questions", "prompts"):
            raise InputError(f"a column that names the criterion is for answers given elsewhere; these are {what}")
        if what != "questions" and what not in IMPORT_KINDS:
            raise InputError(f"what is in the file? one of questions, {', '.join(IMPORT_KINDS)}, got {what!r}")
        if kind != "auto" and kind not in QUESTION_KINDS:
            raise InputError(f"kind must be auto or one of {', '.join(QUESTION_KINDS)}, got {kind!r}")
        overlap = whole_number(form, "overlap", 1, 1000, 2)
        most = whole_number(form, "most", 0, 1000, 0) or None
        audience = texts_of(form, "audience")
        if strange := set(audience) - set(_who_may(state.store)):
            raise InputError(f"who may answer: roles or people of this project, got {min(strange)!r:.60}")
        with temporary_folder() as name:
            folder = FilePath(name)
            if upload is not None:
                file = uploaded_file(upload.filename or "", upload.file, folder)
            elif pasted:
                file = pasted_file(pasted, folder)
            else:
                raise InputError("choose a file, or paste some rows")
            named = source or (FilePath(upload.filename or "").name[:200] if upload else "pasted")
            if what == "questions":
                result = take_questions(
                    state.store, file, kind, overlap, named, most=most, audience=audience, by=who.annotator
                )
                words = f"{result.asked:,} of {result.rows:,} rows are questions now."
                problems = result.problems
            else:
                taken = import_file(
                    state.store, file, what, rejects_dir=folder, source_name=named, criterion=criterion or None
                )
                words = f"{taken.imported:,} answers are in, {taken.rejected:,} rows were left out."
                problems = [f"{reason}: {n:,} rows" for reason, n in taken.reasons.items()]
    except InputError as error:
        # Neither the folder of an upload nor the rejects in it are there for anybody to read afterwards.
        wrong = re.sub(rf"{re.escape(tempfile.gettempdir())}/prefloop-import-\w*/", "", str(error))
        said = {"wrong": wrong.partition("; the rows are in ")[0], "pasted": pasted}
        asked = {name: text_of(form, name, 200) for name in ASKED}
        return _import(request, 422, chosen=texts_of(form, "audience"), asked=asked, **said)
    state.figures.clear()
    return _import(request, result=words, problems=problems)


@router.post("/lead/queue")
def queue(request: Request, who: LeadPage, form: Form) -> Response:
    """How questions are handed out: the share that is gold, and the share that comes again, swapped."""
    changes = {name: whole_number(form, name, 0, 100, 0) / 100 for name in ("gold_share", "repeat_share")}
    set_queue_options(state_of(request).store, by=who.annotator, **changes)
    return see("/lead/import", "saved")


@router.get("/lead/agreement")
def agreement(request: Request, who: ReaderPage) -> Response:
    """How often two people say the same, and what each annotator's answers are worth, from the newest report."""
    state = state_of(request)
    shown = state.quality.shown()
    found = shown.report.value if shown.report else None
    listed = worst_first(found["annotators"]) if found else []
    return page(
        request,
        "agreement.html",
        shown=shown,
        found=found,
        listed=listed,
        names=KIND_NAMES,
        interval=interval,
        people=names_of(state.store, [one["id"] for one in listed]),
        ruled=rulings(state.store),
    )


@router.get("/lead/agreement/made")
def agreement_made(request: Request, who: ReaderPage) -> Response:
    """The page asks while the next report is being made: 204 until it is there, then the page is shown anew."""
    if state_of(request).quality.busy():
        return Response(status_code=204)
    return Response(headers={"hx-refresh": "true"})


@router.post("/lead/agreement")
def agreement_anew(request: Request, who: ReaderPage) -> Response:
    """Work the figures out again, now."""
    state_of(request).quality.refresh()
    return see("/lead/agreement")


@router.post("/lead/rulings")
def ruling(request: Request, who: LeadPage, form: Form) -> Response:
    """What a lead decides about the findings that they see: keep at full weight, exclude, or take that back."""
    state = state_of(request)
    decision = text_of(form, "decision", 20)
    if decision not in DECISIONS:
        raise InputError(f"a ruling is one of {', '.join(DECISIONS)}, got {decision!r:.30}")
    seen = text_of(form, "findings", 400).split()
    rule(state.store, text_of(form, "annotator", 200), decision, seen, by=who.annotator)
    state.quality.refresh()
    return see("/lead/agreement", "ruling")


@router.get("/lead/review")
def review(
    request: Request,
    who: JudgePage,
    kind: Annotated[QuestionKind | None, Query()] = None,
    before: Annotated[int | None, Query(ge=1, le=2**62)] = None,
    all: Annotated[bool, Query()] = False,
) -> Response:
    """Questions that several people answered; those they disagree on first come to mind."""
    store = state_of(request).store
    found = answered_together(store, kind=kind, before=before)
    shown = [one for one in found if all or one.disagree]
    more = found[-1].number if len(found) == 50 else None
    return page(
        request,
        "review.html",
        shown=shown,
        seen=len(found),
        more=more,
        kind=kind,
        all=all,
        kinds=QUESTION_KINDS,
        names=KIND_NAMES,
        words=lambda row: said_in_words(row.kind, row.value, stored_letters(row)),
    )


def stored_letters(row: AnswerRow) -> dict[str, str]:
    """Candidate id -> letter, in the stored order, which is the same for everybody."""
    return {one["id"]: chr(ord("A") + n) for n, one in enumerate(row.candidates)}


@router.get("/lead/review/{question}")
def side_by_side(request: Request, who: JudgePage, question: QuestionId) -> Response:
    """What each annotator said, side by side, and the place for the verdict that settles it."""
    store = state_of(request).store
    found = one_question(store, question)
    if found is None:
        words = "There is no such question, or nobody has answered it yet."
        return page(request, "error.html", status=404, title="Not here", words=words)
    first = found.answers[0]
    task = Task(
        question=found.id,
        kind=found.kind,
        messages=found.messages,
        candidates=[{"id": one["id"], "text": one["text"]} for one in first.candidates],
        guideline=None,
        post_to=f"/lead/review/{found.id}",
    )
    return page(
        request,
        "side_by_side.html",
        found=found,
        task=task,
        names=names_of(store, [row.annotator for row in found.answers]),
        words=lambda row: said_in_words(row.kind, row.value, stored_letters(row)),
        kind_names=KIND_NAMES,
        SCALE=SCALE,
        SKIPS=SKIPS,
        LEVELS=LEVELS,
        LONG=LONG,
    )


@router.post("/lead/review/{question}")
async def settle(request: Request, who: JudgePage, question: QuestionId) -> Response:
    """Store the verdict that settles a disagreement: an answer of its own, marked as such."""
    body = await json_body(request, Said)
    receipt = await run_in_threadpool(
        adjudicate,
        state_of(request).store,
        who.annotator,
        question,
        body.value,
        idempotency_key=body.key,
        seconds=body.seconds,
    )
    saved = datetime.now(UTC).isoformat(timespec="seconds")
    return JSONResponse({"id": receipt.answer_id, "saved_at": saved, "go": "/lead/review?done=adjudicated"})


@router.get("/lead/guidelines")
def guidelines(request: Request, who: ReaderPage) -> Response:
    """Every version of the guideline."""
    return _guidelines(request)


def _guidelines(request: Request, status: int = 200, **said: Any) -> Response:
    versions = all_guidelines(state_of(request).store)
    newest = versions[0] if versions else None
    given = {
        "wrong": None,
        "text": newest["text"] if newest else "",
        "quiz": quiz_text(newest["quiz"]) if newest else "",
    } | said
    return page(request, "guidelines.html", status=status, versions=versions, **given)


@router.post("/lead/guidelines")
def new_guideline(request: Request, who: LeadPage, form: Form) -> Response:
    """A new version; everybody passes its quiz before they go on."""
    text, quiz = text_of(form, "text", 100_000), text_of(form, "quiz", 20_000)
    try:
        add_guideline(state_of(request).store, text, quiz=parse_quiz(quiz) or None, by=who.annotator)
    except InputError as error:
        return _guidelines(request, 422, wrong=str(error), text=text, quiz=quiz)
    return see("/lead/guidelines", "guideline")


@router.get("/lead/export")
def export_page(request: Request, who: LeadPage) -> Response:
    """What can be taken out, and how much of it there is."""
    return _export(request)


def _export(request: Request, status: int = 200, wrong: str | None = None) -> Response:
    state = state_of(request)
    numbers = state.recent("counts", 5.0, lambda: counts(state.store))
    return page(
        request,
        "export.html",
        status=status,
        wrong=wrong,
        counts=numbers,
        formats=FORMATS,
        purposes=PURPOSES,
        not_covered=NOT_COVERED,
        kinds=QUESTION_KINDS,
        names=KIND_NAMES,
    )


@router.post("/lead/export")
def export_file(request: Request, who: LeadPage, form: Form) -> Response:
    """A file to keep: every answer, or the consensus of comparisons or demonstrations for a trainer."""
    state = state_of(request)
    format = text_of(form, "format", 40)
    purpose = text_of(form, "purpose", 40)
    kind = text_of(form, "kind", 40)
    if purpose not in {one for one, _, _ in PURPOSES}:
        raise InputError(f"say what the file is for: {' or '.join(one for one, _, _ in PURPOSES)}")
    redacted = text_of(form, "redacted", 4) == "yes"
    stamp = f"{datetime.now(UTC):%Y%m%d-%H%M}"
    folder = tempfile.TemporaryDirectory(prefix="prefloop-export-")
    try:
        if format in ("csv", "answers"):
            out = FilePath(folder.name) / f"answers-{stamp}.{'csv' if format == 'csv' else 'jsonl'}"
            with out.open("w", encoding="utf-8", newline="") as file:
                write = as_csv if format == "csv" else as_json_lines
                file.writelines(write(_consented(state, purpose, kind or None), redacted=redacted))
        elif format in FORMATS:
            out = FilePath(folder.name) / f"{format}-{stamp}.{'parquet' if format == 'parquet' else 'jsonl'}"
            what = "demonstrations" if format == "trl-prompt-completion" else "comparisons"
            export(state.store, format, out, kind=what, refuse=_refusal(state, purpose), redacted=redacted)
        else:
            raise InputError(f"format must be csv, answers or one of {', '.join(FORMATS)}, got {format!r}")
        record_file(state.store, "export", out, by=who.annotator, purpose=purpose)
    except (InputError, RunError) as error:
        folder.cleanup()
        return _export(request, 422, str(error).replace(folder.name, ""))
    except BaseException:
        folder.cleanup()
        raise
    return FileResponse(out, filename=out.name, background=BackgroundTask(folder.cleanup))


def _refusal(state: State, purpose: str) -> Callable[[dict[str, Any]], str | None]:
    """Why a row of a snapshot may not leave for this purpose."""
    known: dict[str, bool] = {}

    def refuse(row: dict[str, Any]) -> str | None:
        people = [who for who in row["annotators"] if who not in known]
        barred = without_consent(state.store, people, purpose) if people else set()
        known.update((who, who in barred) for who in people)
        return "no consent" if any(known[who] for who in row["annotators"]) else None

    return refuse


def _consented(state: State, purpose: str, kind: str | None) -> Iterator[AnswerRow]:
    """Answers whose annotators agreed to this purpose; machines' and imported ones stand on their source."""
    barred: dict[str, bool] = {}
    for row in answers(state.store, kind=kind):
        if row.annotator not in barred:
            barred[row.annotator] = bool(without_consent(state.store, [row.annotator], purpose))
        if not barred[row.annotator]:
            yield row
