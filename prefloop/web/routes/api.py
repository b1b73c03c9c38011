"""The API for machines: ask for a question, answer it, ask questions, read answers. Contract: docs/api.md.

Every call carries `Authorization: Bearer TOKEN` (`prefloop token create`). What is wrong comes back as
`{"error": words}`: 401 no valid token, 403 another role is needed, 409 the lease ended or was used, 413 too large,
422 the body says something that cannot be.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from prefloop.errors import InputError
from prefloop.records import QUESTION_KINDS, Message, QuestionKind
from prefloop.store.consents import record_consent
from prefloop.store.feedback import answers as stored_answers
from prefloop.store.queue import Lease
from prefloop.store.submissions import Submission
from prefloop.store.values import MAX_INTEGER
from prefloop.web.access import Anyone, LeadApi, MemberApi, ReaderApi, WorkerApi
from prefloop.web.asking import Item, ask
from prefloop.web.bodies import json_body
from prefloop.web.consent import CONSENT_VERSION
from prefloop.web.state import state_of

MOST_ITEMS = 10_000
"""Questions per call."""
MOST_ANSWERS = 1000
"""Answers per page."""

router = APIRouter(tags=["api"])


class Body(BaseModel):
    """A request body: a key that nobody knows is an error."""

    model_config = ConfigDict(extra="forbid")


class NextBody(Body):
    """What a machine wants to be asked."""

    kinds: list[QuestionKind] | None = Field(None, min_length=1, max_length=len(QUESTION_KINDS))


class AnswerBody(Body):
    """What a machine says under a lease."""

    lease: str = Field(min_length=1, max_length=200)
    value: dict[str, Any]
    seconds: float | None = Field(None, ge=0, le=30 * 24 * 3600, allow_inf_nan=False)


class Turn(Body):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class ItemBody(Body):
    """One question."""

    kind: QuestionKind
    prompt: str | list[Turn] = Field(min_length=1)
    candidates: list[str] = Field(default_factory=list, max_length=26)
    overlap: int = Field(1, ge=1, le=1000)
    most: int | None = Field(None, ge=1, le=1000)
    priority: int = Field(0, ge=-1_000_000, le=1_000_000)
    sensitive: str | None = Field(None, min_length=1, max_length=64)
    audience: list[str] = Field(default_factory=list, max_length=1000)
    gold: dict[str, Any] | None = None
    columns: dict[str, Any] = Field(default_factory=dict)


class QuestionsBody(Body):
    """Several questions, asked all or none."""

    items: list[ItemBody] = Field(min_length=1, max_length=MOST_ITEMS)


class ConsentBody(Body):
    """What the bearer of the token agrees to, or takes back."""

    purpose: Literal["training", "publication"]
    given: bool


def _described(model: type[BaseModel], required: bool = True) -> dict[str, Any]:
    """What OpenAPI says about a body that we read ourselves: the model's schema with its parts written out."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            reference = value.get("$ref", "")
            if reference:
                return whole(parts[reference.rpartition("/")[2]])
            return {key: whole(inner) for key, inner in value.items()}
        return [whole(inner) for inner in value] if isinstance(value, list) else value

    return {"requestBody": {"required": required, "content": {"application/json": {"schema": whole(schema)}}}}


def _says(words: str, *properties: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    for name in properties:
        schema["properties"][name] = {}
    return {"description": words, "content": {"application/json": {"schema": schema}}}


def _object(words: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"description": words, "content": {"application/json": {"schema": schema}}}


TEXT = {"type": "string"}
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: _says("The request is not HTTP as it should be."),
    401: _says("No valid token."),
    403: _says("This needs another role, or the guideline's quiz comes first."),
    413: _says("The body is too large."),
    422: _says("The request says something that cannot be; the words name it."),
}
QUESTION = {
    "type": "object",
    "properties": {
        "id": TEXT,
        "kind": {"enum": list(QUESTION_KINDS)},
        "prompt": {"type": "array", "items": {"type": "object", "properties": {"role": TEXT, "content": TEXT}}},
        "candidates": {"type": "array", "items": {"type": "object", "properties": {"id": TEXT, "text": TEXT}}},
        "guideline": {"type": ["object", "null"], "properties": {"version": {"type": "integer"}, "text": TEXT}},
    },
}
LEASE = {"type": "object", "properties": {"token": TEXT, "expires_at": {"type": "string", "format": "date-time"}}}
ANSWER = {
    "type": "object",
    "properties": {
        "id": TEXT,
        "question": TEXT,
        "kind": {"enum": list(QUESTION_KINDS)},
        "annotator": TEXT,
        "value": {"type": "object"},
        "at": {"type": "string", "format": "date-time"},
    },
}


@router.get("/healthz", tags=["health"], summary="Whether the app is up")
def healthz(access: Anyone) -> dict[Literal["status"], str]:
    """200 as long as the app answers."""
    return {"status": "ok"}


@router.post(
    "/api/v1/questions/next",
    summary="A question to answer",
    status_code=200,
    response_class=JSONResponse,
    responses={
        **REFUSALS,
        200: _object("The question, and the right to answer it.", question=QUESTION, lease=LEASE),
        204: {"description": "There is nothing to do."},
    },
    openapi_extra=_described(NextBody, required=False),
)
async def next_question(request: Request, who: WorkerApi) -> Response:
    """Leases a question to the token's annotator. `a` is its first candidate, in this order, for this lease."""
    body = await json_body(request, NextBody, empty=NextBody(kinds=None))
    lease = await state_of(request).desk.lease(who.annotator, body.kinds)
    return Response(status_code=204) if lease is None else JSONResponse(lease_json(lease))


def lease_json(lease: Lease) -> dict[str, Any]:
    """A lease as the API gives it."""
    return {
        "question": {
            "id": lease.question_id,
            "kind": lease.kind,
            "prompt": lease.messages,
            "candidates": lease.candidates,
            "guideline": lease.guideline,
        },
        "lease": {"token": lease.token, "expires_at": lease.expires_at.isoformat()},
    }


@router.post(
    "/api/v1/answers",
    summary="Answer a question",
    status_code=201,
    response_class=JSONResponse,
    responses={
        **REFUSALS,
        201: _object("Stored; it is on the disk.", id=TEXT),
        200: _object("This very answer was stored before, under this id.", id=TEXT),
        409: _says(
            "The lease ended (the answer is kept, marked late, under `id`) or was used (by `id`).", "id", "late"
        ),
    },
    openapi_extra=_described(AnswerBody),
)
async def answer(
    request: Request,
    who: WorkerApi,
    key: Annotated[str, Header(alias="Idempotency-Key", min_length=1, max_length=200)],
) -> Response:
    """`value` by kind: docs/questions.md. Send the same key again after a broken connection: it is stored once."""
    body = await json_body(request, AnswerBody)
    submission = Submission(lease_token=body.lease, value=body.value, idempotency_key=key, seconds=body.seconds)
    receipt = await state_of(request).desk.submit(who.annotator, submission)
    return JSONResponse({"id": receipt.answer_id}, status_code=200 if receipt.replay else 201)


@router.post(
    "/api/v1/consents",
    summary="Say what one's own answers may be used for",
    response_class=JSONResponse,
    responses={**REFUSALS, 200: _object("What holds from now on.", purpose=TEXT, given={"type": "boolean"})},
    openapi_extra=_described(ConsentBody),
)
async def consent(request: Request, who: MemberApi) -> Response:
    """An export leaves out answers of people who have not agreed to its purpose. The words are those of the pages:
    "training" (train and measure models in this project), "publication" (publish under a made-up id)."""
    body = await json_body(request, ConsentBody)
    store = state_of(request).store
    await run_in_threadpool(record_consent, store, who.annotator, body.purpose, CONSENT_VERSION, body.given)
    return JSONResponse({"purpose": body.purpose, "given": body.given})


@router.post(
    "/api/v1/questions",
    summary="Ask questions",
    status_code=201,
    response_class=JSONResponse,
    responses={
        **REFUSALS,
        201: _object("Their ids, in order; a question that was asked before keeps its id.", ids={"type": "array"}),
    },
    openapi_extra=_described(QuestionsBody),
)
async def questions(request: Request, who: LeadApi) -> Response:
    """Each waits in the queue until `overlap` annotators have answered it."""
    body = await json_body(request, QuestionsBody)
    items = [
        Item(
            kind=item.kind,
            prompt=item.prompt
            if isinstance(item.prompt, str)
            else [Message(role=t.role, content=t.content) for t in item.prompt],
            candidates=item.candidates,
            overlap=item.overlap,
            most=item.most,
            priority=item.priority,
            sensitive=item.sensitive,
            audience=item.audience,
            gold=item.gold,
            columns=item.columns,
        )
        for item in body.items
    ]
    ids = await run_in_threadpool(ask, state_of(request).store, items, by=who.annotator)
    return JSONResponse({"ids": ids}, status_code=201)


@router.get(
    "/api/v1/answers",
    summary="Read answers",
    response_class=JSONResponse,
    responses={
        **REFUSALS,
        200: _object("Answers in the order of their commits.", answers={"type": "array", "items": ANSWER}, next={}),
    },
)
def answers(
    request: Request,
    who: ReaderApi,
    after: Annotated[str, Query(max_length=19, pattern=r"^\d*$")] = "",
    limit: Annotated[int, Query(ge=1, le=MOST_ANSWERS)] = 100,
) -> Response:
    """`after` is the `next` of the page before; `next` is null on a page without answers. Corrections are answers
    too, and name the one they replace. Nothing is skipped while others write."""
    cursor = int(after or 0)
    if cursor > MAX_INTEGER:
        raise InputError(f"after must be a cursor that this API gave, got {after}")
    found = []
    for row in stored_answers(state_of(request).store, after=cursor, corrected=True):
        found.append(row)
        if len(found) == limit:
            break
    said = [
        {
            "id": row.id,
            "question": row.question_id,
            "kind": row.kind,
            "annotator": row.annotator,
            "simulated": row.simulated,
            "value": row.raw,
            "presented_order": row.presented_order,
            "candidates": [one["id"] for one in row.candidates],
            "replaces": row.replaces,
            "skipped": row.skipped,
            "late": row.late,
            "seconds": row.seconds,
            "at": row.at,
        }
        for row in found
    ]
    return JSONResponse({"answers": said, "next": str(found[-1].cursor) if found else None})
