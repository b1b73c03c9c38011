"""Answers as files for people: CSV whose cells no spreadsheet runs, and JSON Lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

from prefloop.store.feedback import AnswerRow
from prefloop.store.privacy import redact_value

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A cell that begins so is a formula to a spreadsheet (OWASP, CSV Injection)."""
COLUMNS = (
    "id", "question", "kind", "annotator", "simulated", "at", "seconds", "skipped", "late", "replaces", "prompt",
    "candidates", "value",
)  # fmt: skip


def harmless(cell: Any) -> str:
    """A cell as text that no spreadsheet runs: an apostrophe stands before what would begin a formula."""
    text = "" if cell is None else cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA_STARTS) else text


def as_csv(rows: Iterable[AnswerRow], *, redacted: bool = False) -> Iterator[str]:
    """The rows as CSV (RFC 4180), a header first."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    for row in rows:
        record = _record(row, redacted)
        writer.writerow([harmless(record[name]) for name in COLUMNS])
        if buffer.tell() > 64 * 1024:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def as_json_lines(rows: Iterable[AnswerRow], *, redacted: bool = False) -> Iterator[str]:
    """The rows as JSON Lines."""
    for row in rows:
        yield json.dumps(_record(row, redacted), ensure_ascii=False) + "\n"


def as_record(row: AnswerRow) -> dict[str, Any]:
    """One answer: `value` in the stored order of `candidates`."""
    return {
        "id": row.id,
        "question": row.question_id,
        "kind": row.kind,
        "annotator": row.annotator,
        "simulated": row.simulated,
        "at": row.at,
        "seconds": row.seconds,
        "skipped": row.skipped,
        "late": row.late,
        "replaces": row.replaces,
        "prompt": row.messages,
        "candidates": [one["text"] for one in row.candidates],
        "value": row.value,
        "source": row.source,
        "licence": row.licence,
    }


def _record(row: AnswerRow, redacted: bool) -> dict[str, Any]:
    record = as_record(row)
    if redacted:
        record |= {name: redact_value(record[name]) for name in ("prompt", "candidates", "value")}
    return record
