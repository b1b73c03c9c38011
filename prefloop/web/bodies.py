"""Reading what a request carries. Everything that is not what a route expects is an InputError, never a crash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from prefloop.errors import InputError
from prefloop.store.values import check_storable

M = TypeVar("M", bound=BaseModel)

FORM_FIELDS = 500
"""More parts than any of our forms has, and few enough that parsing them costs nothing."""
FORM_FILES = 1
PART_BYTES = 64 * 1024 * 1024


async def json_body(request: Request, model: type[M], *, empty: M | None = None) -> M:
    """The body as `model`; an empty one is `empty` where that is given.

    pydantic's own parser refuses lone surrogates and bounds the depth; NaN and numbers beyond 63 bits are refused
    where values are checked. Raises InputError that names the place and what would be right, and repeats no input.
    """
    body = await request.body()
    if not body.strip() and empty is not None:
        return empty
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise InputError(_words(error)) from None


def _words(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"][:8])
    words = str(first["msg"])[:300].encode("utf-8", "replace").decode()
    return f"{place[:200]}: {words}" if place else words


async def read_form(request: Request) -> Mapping[str, Any]:
    """The fields of a form, text and files, read once per request; nothing for a body of another kind."""
    known: FormData | None = getattr(request.state, "form", None)
    if known is not None:
        return known
    if not request.headers.get("content-type", "").startswith(
        ("application/x-www-form-urlencoded", "multipart/form-data")
    ):
        return {}
    try:
        form = await request.form(max_files=FORM_FILES, max_fields=FORM_FIELDS, max_part_size=PART_BYTES)
    except (HTTPException, MultiPartException, FormParserError, UnicodeDecodeError) as error:
        words = getattr(error, "detail", None) or getattr(error, "message", None) or "it is not well-formed"
        raise InputError(f"the form cannot be read: {words}") from None
    request.state.form = form
    return form


def text_of(form: Mapping[str, Any], name: str, most: int = 10_000, default: str = "") -> str:
    """One text field, with its ends stripped and line ends as `\\n`. Raises InputError where it is too long."""
    value = form.get(name, default)
    if not isinstance(value, str):
        raise InputError(f"{name} must be text")
    check_storable(value, name)
    value = value.replace("\r\n", "\n").replace("\r", "\n").strip()
    if len(value) > most:
        raise InputError(f"{name} may have {most:,} characters, got {len(value):,}")
    return value


def texts_of(form: Mapping[str, Any], name: str, most: int = 1000) -> list[str]:
    """Every value of a field that may be there several times, in the order in which they came."""
    items = form.multi_items() if isinstance(form, FormData) else form.items()
    given = [value for field, value in items if field == name and isinstance(value, str)]
    for value in given:
        check_storable(value, name)
        if len(value) > most:
            raise InputError(f"{name} may have {most:,} characters, got {len(value):,}")
    return given


def whole_number(form: Mapping[str, Any], name: str, low: int, high: int, default: int) -> int:
    """One field with a whole number from `low` to `high`; `default` where it is left empty."""
    given = text_of(form, name, 30)
    if not given:
        return default
    if not given.isascii() or not given.lstrip("-").isdigit() or not low <= int(given) <= high:
        raise InputError(f"{name} must be a whole number from {low} to {high:,}, got {given!r}")
    return int(given)


def upload_of(form: Mapping[str, Any], name: str) -> UploadFile | None:
    """The file in a field, or None where none was chosen."""
    value = form.get(name)
    return value if isinstance(value, UploadFile) and value.filename else None
