"""What a caller gives to the store, checked and made rows; nothing here reads or writes it.

A place such as `answers[3]` is where an item stands in what was given: every error names it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prefloop.errors import InputError
from prefloop.records import as_messages, canonical_json, content_hash, prompt_id
from prefloop.store.values import check_candidate_count, check_kind, check_storable, validate_value

MAX_OVERLAP = 1000
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Draft:
    """One imported answer, checked, before anything is written."""

    annotator: str
    source: str | None
    prompt: dict[str, Any]
    completions: list[dict[str, Any]]
    question: dict[str, Any]
    value: dict[str, Any]
    said: str
    rest: dict[str, Any]


def prompt_row(item: Mapping[str, Any], place: str, now: datetime) -> dict[str, Any]:
    """A prompt as `add_prompts` takes it. Raises InputError for one that is no text and no list of messages."""
    _check_item(item, (), place)
    given = item.get("messages", item.get("prompt"))
    if isinstance(given, str) or (
        isinstance(given, Sequence)
        and given
        and all(isinstance(m, Mapping) and m.get("role") in ROLES and isinstance(m.get("content"), str) for m in given)
    ):
        messages = as_messages(given)
    else:
        raise InputError(
            f"{place}: messages must be text or a list of {{'role': {' | '.join(ROLES)}, 'content': text}}, "
            f"got {given!r:.80}"
        )
    check_storable(messages, f"{place}.messages")
    columns = item.get("columns") or {}
    _check_columns(columns, place)
    return {
        "id": prompt_id(messages),
        "messages": messages,
        "source": _optional_text(item, "source", place),
        "licence": _optional_text(item, "licence", place),
        "columns": columns,
        "created_at": now,
    }


def completion_row(item: Mapping[str, Any], place: str, now: datetime) -> dict[str, Any]:
    """A completion as `add_completions` takes it. Raises InputError where something in it has the wrong type."""
    _check_item(item, ("prompt_id", "text"), place)
    if not isinstance(item["text"], str):
        raise InputError(f"{place}: a completion is text, got {item['text']!r:.60}")
    check_storable(item["text"], f"{place}.text")
    sampling, terminated = item.get("sampling"), item.get("terminated")
    if sampling is not None:
        _check_columns(sampling, f"{place}.sampling")
    if terminated is not None and not isinstance(terminated, bool):
        raise InputError(f"{place}: terminated must be true or false, got {terminated!r:.60}")
    row = {
        "prompt_id": item["prompt_id"],
        "text": item["text"],
        "policy": _optional_text(item, "policy", place),
        "sampling": sampling,
        "terminated": terminated,
    }
    return {"id": content_hash(["completion", *row.values()])[:24], **row, "created_at": now}


def question_row(item: Mapping[str, Any], place: str, now: datetime, imported: bool = False) -> dict[str, Any]:
    """A question as `add_questions` takes it; an imported one may be asked of nobody. Raises InputError."""
    _check_item(item, ("kind", "prompt_id", "candidates"), place)
    kind, shown = item["kind"], item["candidates"]
    check_kind(kind, f"{place}.kind")
    if isinstance(shown, str) or not all(isinstance(one, str) for one in shown):
        raise InputError(f"{place}: candidates must be a list of completion ids, got {shown!r:.80}")
    check_candidate_count(kind, len(shown), place)
    if len(set(shown)) != len(shown):
        raise InputError(f"{place}: the candidates of a question must differ, but one appears twice")
    columns = item.get("columns") or {}
    _check_columns(columns, place)
    overlap = whole(item.get("overlap", 1), 0 if imported else 1, MAX_OVERLAP, f"{place}.overlap")
    turn = whole(item.get("round") or 0, 0, 2**31 - 1, f"{place}.round")
    whole(item.get("priority", 0), -(2**31), 2**31 - 1, f"{place}.priority")
    most, sensitive, audience = item.get("most"), _optional_text(item, "sensitive", place), item.get("audience") or ()
    if most is not None:
        whole(most, overlap, MAX_OVERLAP, f"{place}.most")
    if sensitive is not None and not 1 <= len(sensitive) <= 64:
        raise InputError(f"{place}: sensitive must be a word of 1 to 64 characters, got {sensitive!r:.80}")
    if isinstance(audience, str) or not all(isinstance(one, str) and 1 <= len(one) <= 200 for one in audience):
        raise InputError(f"{place}: audience must be a list of roles and annotators' ids, got {audience!r:.80}")
    if item.get("gold") is not None:
        try:
            validate_value(kind, item["gold"], shown)
        except InputError as error:
            raise InputError(f"{place}.gold: {error}") from None
    identity = content_hash(["question", kind, item["prompt_id"], list(shown), turn, columns, imported])
    seed = item.get("seed")
    return {
        "id": identity[:24],
        "kind": kind,
        "prompt_id": item["prompt_id"],
        "overlap": overlap,
        "round": turn,
        "seed": int(identity[-12:], 16) if seed is None else whole(seed, 0, 2**63 - 1, f"{place}.seed"),
        "guideline": item.get("guideline"),
        "source": _optional_text(item, "source", place),
        "licence": _optional_text(item, "licence", place),
        "columns": columns,
        "created_at": now,
        "most": most,
        "sensitive": sensitive,
    }


def drafted(item: Mapping[str, Any], place: str, now: datetime) -> Draft:
    """An answer as `import_answers` takes it. Raises InputError where it, its question or a text cannot be stored."""
    _check_item(item, ("kind", "value", "annotator"), place)
    kind, value = item["kind"], item["value"]
    check_kind(kind, f"{place}.kind")
    prompt = prompt_row({**item, "columns": None}, place, now)
    texts: Sequence[Any] = item.get("candidates") or []
    policies: Sequence[Any] = item.get("policies") or [None] * len(texts)
    if isinstance(texts, str) or len(policies) != len(texts):
        raise InputError(f"{place}: candidates must be a list of texts, and policies, when given, one for each")
    written = [
        completion_row({"prompt_id": prompt["id"], "text": text, "policy": policy}, f"{place}.candidates[{i}]", now)
        for i, (text, policy) in enumerate(zip(texts, policies, strict=True))
    ]
    ids = [row["id"] for row in written]
    question = question_row(
        {
            "kind": kind,
            "prompt_id": prompt["id"],
            "candidates": ids,
            "overlap": 0,
            "source": item.get("source"),
            "licence": item.get("licence"),
        },
        place,
        now,
        imported=True,
    )
    value = _by_id(value, ids) if kind == "ranking" else value
    try:
        validate_value(kind, value, ids)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    columns = item.get("columns") or {}
    _check_columns(columns, place)
    seconds = item.get("seconds")
    return Draft(
        annotator=item["annotator"],
        source=item.get("source"),
        prompt=prompt,
        completions=written,
        question=question,
        value=value,
        said=canonical_json(value),
        rest={
            "late": False,
            "source": item.get("source"),
            "licence": item.get("licence"),
            "columns": columns,
            "seconds": None if seconds is None else check_seconds(seconds, place),
            "at": _time(item.get("at"), f"{place}.at", now),
        },
    )


def quiz_question(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    """One of the questions that gate a guideline. Raises InputError where it has no right option."""
    _check_item(item, ("question", "options", "correct"), place)
    question, options, correct = item["question"], item["options"], item["correct"]
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"{place}.question must be text, got {question!r:.60}")
    if not isinstance(options, list) or len(options) < 2 or not all(isinstance(o, str) and o.strip() for o in options):
        raise InputError(f"{place}.options must be at least two texts, got {options!r:.80}")
    check_storable([question, options], place)
    return {
        "question": question,
        "options": options,
        "correct": whole(correct, 0, len(options) - 1, f"{place}.correct"),
    }


def check_seconds(value: Any, place: str) -> float:
    """Seconds that somebody took: finite and not negative. Raises InputError otherwise."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise InputError(f"{place}: seconds must be a number of at least 0, got {value!r:.60}")
    return float(value)


def whole(value: Any, low: int, high: int, place: str) -> int:
    """`value`, a whole number from `low` to `high`. Raises InputError for anything else, True and False included."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(f"{place} must be a whole number from {low} to {high}, got {value!r:.60}")
    return value


def _by_id(value: Any, ids: list[str]) -> Any:
    """A ranking by positions as one by candidate ids; anything else unchanged, for validate_value to judge."""
    order = value.get("order") if isinstance(value, Mapping) else None
    if not isinstance(order, list) or not all(
        isinstance(group, list) and all(type(one) is int and 0 <= one < len(ids) for one in group) for group in order
    ):
        return value
    return {**value, "order": [[ids[one] for one in group] for group in order]}


def _check_item(item: Any, needed: tuple[str, ...], place: str) -> None:
    if not isinstance(item, Mapping):
        raise InputError(f"{place} must be an object, got {item!r:.80}")
    missing = [name for name in needed if item.get(name) is None]
    if missing:
        raise InputError(f"{place} lacks {', '.join(missing)}; it has {', '.join(map(str, item)) or 'nothing'}")


def _check_columns(columns: Any, place: str) -> None:
    if not isinstance(columns, Mapping):
        raise InputError(f"{place}: columns must be an object, got {columns!r:.60}")
    check_storable(columns, f"{place}.columns")


def _optional_text(item: Mapping[str, Any], name: str, place: str) -> str | None:
    value = item.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InputError(f"{place}: {name} must be text, got {value!r:.60}")
    check_storable(value, f"{place}.{name}")
    return value


def _time(value: Any, place: str, default: datetime) -> datetime:
    """A given time as an aware one; a time without a zone is taken as UTC."""
    if value is None:
        return default
    try:
        if isinstance(value, datetime):
            given = value
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            given = datetime.fromtimestamp(value, UTC)
        else:
            given = datetime.fromisoformat(value)
    except (TypeError, ValueError, OverflowError, OSError):
        raise InputError(f"{place} must be a time such as 2026-01-31T12:00:00Z, got {value!r:.60}") from None
    return given.astimezone(UTC) if given.tzinfo else given.replace(tzinfo=UTC)
