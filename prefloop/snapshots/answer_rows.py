"""Rows of a file as answers for the store, one parser per kind of `prefloop import --as`.

| kind | columns |
|---|---|
| comparisons | those of formats.parse_comparison; `label` above, at or below 0.5 is the choice a, tie or b |
| rankings | prompt, `completions` (2 to 26 texts), `ranks` (1 is best, equal is a tie) or `best` (its place, from 0) |
| ratings | prompt, completion, `scores` ({criterion: 1..5}) or `score` (1..5, criterion "overall") |
| approvals | prompt, completion, `label` (true or false: TRL's unpaired format) |
| edits | prompt, completion, `edited` (the better text) or `spans` ([{start, end, ...}]) or both; `rejected` if known |
| flags | prompt, completion, `flags` (names; an empty list says that nothing is wrong) |
| demonstrations | those of formats.parse_demonstration |
| prompts | those of formats.parse_prompt |

Any row may have `annotator` (a name or id), `at` (a time), `seconds`, `source` and `licence`; every other column is
kept beside the answer. A row that says `simulated: true`, or whose annotators are `simulated:` or `ai:`, stays
marked as such: a machine's answer never becomes a person's by being imported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from prefloop.errors import InputError
from prefloop.records import Messages
from prefloop.snapshots.formats import (
    conversation,
    missing,
    parse_comparison,
    parse_demonstration,
    parse_prompt,
    parse_transcript,
    prompt_of,
)
from prefloop.snapshots.rows import Reject, defect, shown
from prefloop.store.values import validate_value

HH_SOURCE, HH_LICENCE = "anthropics/hh-rlhf", "MIT"
CROWD = "crowd"
"""Name of the annotator of a row that names none: a source's unknown people."""
MACHINES = ("simulated", "ai")
QUESTION_KIND = {
    "comparisons": "comparison",
    "rankings": "ranking",
    "ratings": "rating",
    "approvals": "approval",
    "edits": "edit",
    "flags": "flags",
    "demonstrations": "demonstration",
}
IMPORT_KINDS = (*QUESTION_KIND, "prompts")


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a row says: about which texts, and what."""

    messages: Messages
    candidates: list[str] = field(default_factory=list)
    value: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)


def parse_answer(row: Any, kind: str, *, source: str, licence: str | None) -> dict[str, Any] | Reject:
    """A row as an item for store.feedback.import_answers, or for add_prompts when the kind is prompts.

    `source` and `licence` serve where the row has none. Never raises for what a row holds.
    """
    problem = defect(row)
    if problem is not None:
        return problem
    said = PARSERS[kind](row)
    if isinstance(said, Reject):
        return said
    columns = dict(said.columns)
    item: dict[str, Any] = {"messages": said.messages}
    for name, default in (("source", source), ("licence", licence)):
        given = columns.pop(name, None)
        item[name] = given if isinstance(given, str) and given.strip() else default
    if kind == "prompts":
        return item | {"columns": columns}
    problem = check_said(QUESTION_KIND[kind], said)
    if problem is not None:
        return problem
    annotator = _annotator(columns)
    if isinstance(annotator, Reject):
        return annotator
    for name, good in (("at", _is_time), ("seconds", _is_seconds)):
        if name in columns and good(columns[name]):
            item[name] = columns.pop(name)
    return item | {
        "kind": QUESTION_KIND[kind],
        "candidates": said.candidates,
        "value": said.value,
        "annotator": annotator,
        "columns": columns,
    }


def is_transcript(row: Any) -> bool:
    """Whether a row is a pair of Anthropic's raw transcripts."""
    chosen = row.get("chosen") if isinstance(row, dict) and "prompt" not in row else None
    return isinstance(chosen, str) and parse_transcript(chosen) is not None


def check_said(kind: str, said: Said) -> Reject | None:
    """What is wrong with an answer, or None."""
    if not all(text.strip() for text in said.candidates):
        return Reject("empty", "a completion is empty")
    if len({text.strip() for text in said.candidates}) < len(said.candidates):
        return Reject("identical", "two completions say the same")
    ids = [str(place) for place in range(len(said.candidates))]
    value = said.value
    if kind == "ranking":
        value = {"order": [[ids[place] for place in group] for group in value["order"]]}
    try:
        validate_value(kind, value, ids)
    except InputError as error:
        return Reject("malformed", str(error))
    return None


def _annotator(columns: dict[str, Any]) -> str | Reject:
    """Who answered. Takes `annotator` out of the columns; `annotators` and `simulated` stay as they are."""
    several = columns.get("annotators")
    behind = [a for a in several if isinstance(a, str)] if isinstance(several, list) else []
    name = columns.pop("annotator", None)
    if name is None and len(behind) == 1:
        name = behind[0]
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if name is not None and not isinstance(name, str):
        return Reject("malformed", f"annotator must be a name, got {shown(name)}")
    name = (name or "").strip() or CROWD
    if len(name) > 100:
        return Reject("malformed", "the annotator's name is longer than 100 characters")
    machine = next((m for m in MACHINES if any(a.startswith(f"{m}:") for a in (name, *behind))), None)
    if machine is None and columns.get("simulated") in (True, 1, "true", "True"):
        machine = "simulated"
    if machine is None or name.startswith(tuple(f"{m}:" for m in MACHINES)):
        return f"{name}{CROWD}" if name.endswith(":") else name
    return f"{machine}:{name}"


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value) is not None
    except ValueError:
        return False


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _comparison(row: dict[str, Any]) -> Said | Reject:
    pair = parse_comparison(row)
    if isinstance(pair, Reject):
        return pair
    soft = {
        "label": pair.label if pair.label not in (0.0, 0.5, 1.0) else None,
        "weight": pair.weight if pair.weight != 1.0 else None,
        "margin": pair.margin,
    }
    choice = "a" if pair.label > 0.5 else "b" if pair.label < 0.5 else "tie"
    strength = pair.columns.get("strength")
    whole = isinstance(strength, int | float) and strength in (1, 2, 3)
    return Said(
        messages=pair.prompt,
        candidates=[pair.chosen, pair.rejected],
        value={"choice": choice, **({"strength": int(strength)} if whole and strength is not None else {})},
        columns=pair.columns | {name: number for name, number in soft.items() if number is not None},
    )


def _demonstration(row: dict[str, Any]) -> Said | Reject:
    shown_how = parse_demonstration(row)
    if isinstance(shown_how, Reject):
        return shown_how
    weight = {"weight": shown_how.weight} if shown_how.weight != 1.0 else {}
    return Said(messages=shown_how.prompt, value={"text": shown_how.completion}, columns=shown_how.columns | weight)


def _prompt(row: dict[str, Any]) -> Said | Reject:
    messages = parse_prompt(row)
    if isinstance(messages, Reject):
        return messages
    used = {"prompt", "messages", "conversations", "completion", "chosen", "rejected"}
    return Said(messages=messages, columns={name: value for name, value in row.items() if name not in used})


def _ranking(row: dict[str, Any]) -> Said | Reject:
    about = _about(row, "completions", ("ranks", "best"))
    if isinstance(about, Reject):
        return about
    texts = about.candidates
    ranks = _json(row.get("ranks"))
    best = _whole(row.get("best"))
    if best is not None:
        if ranks is not None or not isinstance(best, int) or not 0 <= best < len(texts):
            return Reject("malformed", f"best must be 0 to {len(texts) - 1}, and no ranks beside it, got {shown(best)}")
        ranks = [1 if place == best else 2 for place in range(len(texts))]
    if ranks is None:
        ranks = list(range(len(texts)))
    if not isinstance(ranks, list) or len(ranks) != len(texts) or not all(_is_rank(rank) for rank in ranks):
        return Reject("malformed", f"ranks must be {len(texts)} numbers, 1 is best, got {shown(ranks)}")
    order = [[place for place, rank in enumerate(ranks) if rank == best] for best in sorted(set(ranks))]
    return _saying(about, {"order": order})


def _rating(row: dict[str, Any]) -> Said | Reject:
    about = _about(row, "completion", ("scores", "score"))
    if isinstance(about, Reject):
        return about
    scores = _json(row.get("scores"))
    if scores is None and row.get("score") is None:
        return missing(row, "prompt, completion, and scores or score")
    scores = {"overall": row["score"]} if scores is None else scores
    if not isinstance(scores, dict):
        return Reject("malformed", f'scores must be like {{"helpful": 4}}, got {shown(scores)}')
    return _saying(about, {"scores": {name: _whole(score) for name, score in scores.items()}})


def _approval(row: dict[str, Any]) -> Said | Reject:
    about = _about(row, "completion", ("label",))
    if isinstance(about, Reject):
        return about
    if row.get("label") is None:
        return missing(row, "prompt, completion and label")
    words = {"true": True, "1": True, "false": False, "0": False}
    approved = words.get(str(_whole(row["label"])).lower())
    if approved is None:
        return Reject("malformed", f"label must be true or false, got {shown(row['label'])}")
    return _saying(about, {"approved": approved})


def _edit(row: dict[str, Any]) -> Said | Reject:
    about = _about(row, "completion", ("edited", "spans", "rejected"))
    if isinstance(about, Reject):
        return about
    if row.get("rejected") is not None:
        worse = _about(row, "rejected", ())
        if isinstance(worse, Reject):
            return worse
        about = replace(about, candidates=about.candidates + worse.candidates)
    spans = _json(row.get("spans"))
    said = {"text": row.get("edited"), "spans": spans}
    value = {name: part for name, part in said.items() if part is not None}
    if not value:
        return missing(row, "prompt, completion, and edited or spans")
    return _saying(about, value)


def _flags(row: dict[str, Any]) -> Said | Reject:
    about = _about(row, "completion", ("flags",))
    if isinstance(about, Reject):
        return about
    if row.get("flags") is None:
        return missing(row, "prompt, completion and flags")
    return _saying(about, {"flags": _json(row["flags"])})


def _about(row: dict[str, Any], column: str, taken: tuple[str, ...]) -> Said | Reject:
    """The prompt and the completion or completions that a row is about; its other columns but those `taken`."""
    if row.get("prompt") is None or row.get(column) is None:
        return missing(row, f"prompt and {column}")
    prompt = prompt_of(row)
    if prompt is None or isinstance(prompt, Reject):
        return prompt or missing(row, "prompt")
    written = _json(row[column]) if column == "completions" else [row[column]]
    if not isinstance(written, list) or (column == "completions" and not 2 <= len(written) <= 26):
        return Reject("malformed", "completions must be a list of 2 to 26 texts")
    texts = []
    for one in written:
        turns = conversation(prompt, one, row["prompt"])
        if isinstance(turns, Reject):
            return turns
        if turns[:-1] != prompt or turns[-1]["role"] != "assistant":
            return Reject("malformed", "a completion is one answer to the prompt")
        texts.append(turns[-1]["content"])
    columns = {name: value for name, value in row.items() if name not in ("prompt", column, *taken)}
    return Said(messages=prompt, candidates=texts, columns=columns)


def _saying(about: Said, value: dict[str, Any]) -> Said:
    return Said(messages=about.messages, candidates=about.candidates, value=value, columns=about.columns)


def _json(value: Any) -> Any:
    """A cell of a CSV file that holds a list or an object; anything else unchanged."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _is_rank(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: Any) -> Any:
    """4.0 and "4" as 4, which is how CSV and parquet may have kept a whole number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19 else value


PARSERS: dict[str, Callable[[dict[str, Any]], Said | Reject]] = {
    "comparisons": _comparison,
    "rankings": _ranking,
    "ratings": _rating,
    "approvals": _approval,
    "edits": _edit,
    "flags": _flags,
    "demonstrations": _demonstration,
    "prompts": _prompt,
}
