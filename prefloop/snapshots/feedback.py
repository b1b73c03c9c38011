"""Rows of any kind of feedback, mixed as they come: what a row is about shows in its columns.

| kind | known by |
|---|---|
| ranking | `completions` |
| comparison | `chosen` and `rejected` |
| edit | `edited` or `spans` |
| rating | `scores` or `score` |
| flags | `flags` |
| approval | `completion` and a `label` |
| demonstration | anything else with a `completion` or `messages` |

A column `kind` with one of these names decides instead. The columns are those of `prefloop import` (answer_rows.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from prefloop.records import Feedback, Ledger, QuestionKind, canonical_json
from prefloop.snapshots.answer_rows import PARSERS, QUESTION_KIND, check_said
from prefloop.snapshots.formats import Split, load_rows, parse_comparison
from prefloop.snapshots.rows import Progress, Reject, defect, shown

PLURAL = {kind: plural for plural, kind in QUESTION_KIND.items()}
_SHOWN_BY: tuple[tuple[QuestionKind, tuple[str, ...]], ...] = (
    ("ranking", ("completions",)),
    ("edit", ("edited", "spans")),
    ("comparison", ("chosen",)),
    ("rating", ("scores", "score")),
    ("flags", ("flags",)),
)


def kind_of(row: dict[str, Any]) -> QuestionKind | Reject:
    """Which kind of feedback a row is."""
    said = row.get("kind")
    if isinstance(said, str):
        found: QuestionKind | None = next((kind for kind in get_args(QuestionKind) if kind == said), None)
        return found or Reject("malformed", f"kind must be one of {', '.join(PLURAL)}, got {shown(said)}")
    for kind, columns in _SHOWN_BY:
        if any(row.get(column) is not None for column in columns):
            return kind
    return "approval" if row.get("completion") is not None and row.get("label") is not None else "demonstration"


def parse_feedback(row: Any) -> Feedback | Reject:
    """A row of any kind. Reasons for a reject are those of `parse_comparison` and of `prefloop import`."""
    problem = defect(row)
    if problem is not None:
        return problem
    kind = kind_of(row)
    if isinstance(kind, Reject):
        return kind
    if kind == "comparison":
        pair = parse_comparison(row)
        if isinstance(pair, Reject):
            return pair
        known = {name: pair.columns.get(name) for name in ("ties", "strength")} | {"margin": pair.margin}
        value: dict[str, Any] = {"label": pair.label}
        for name, number in known.items():
            if isinstance(number, int | float) and not isinstance(number, bool):
                value[name] = float(number)
        if not 0 <= value.get("ties", 0.0) <= 2 * min(pair.label, 1 - pair.label) + 1e-9:
            return Reject("malformed", f"ties must be a share of the answers that label {pair.label} leaves room for")
        return Feedback(
            kind=kind,
            prompt=pair.prompt,
            completions=[pair.chosen, pair.rejected],
            value=value,
            weight=pair.weight,
            columns=pair.columns,
        )
    said = PARSERS[PLURAL[kind]](row)
    if isinstance(said, Reject):
        return said
    problem = check_said(kind, said)
    if problem is not None:
        return problem
    weight = said.columns.get("weight", 1.0)
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 <= weight < float("inf"):
        return Reject("malformed", f"weight must be a number from 0, got {shown(weight)}")
    return Feedback(
        kind=kind,
        prompt=said.messages,
        completions=said.candidates or [str(said.value["text"])],
        value=said.value,
        weight=float(weight),
        columns={name: value for name, value in said.columns.items() if name != "weight"},
    )


def load_feedback(
    path: str | Path,
    *,
    split: Split | None = None,
    test_share: float = 0.1,
    max_dropped: float = 0.05,
    progress: Progress | None = None,
) -> tuple[list[Feedback], Ledger]:
    """Everything that people said in a snapshot, a file or a hub dataset, of whatever kinds, and the ledger.

    A comparison is the consensus about a pair, so the same pair again is a repeat, as in `load_comparisons`, unless it
    is by another `criterion`. Any other row is one answer: it repeats another only when the same annotators say the
    same about the same.
    """
    return load_rows(path, parse_feedback, _same, split, test_share, max_dropped, progress)


def _same(said: Feedback, row: Any) -> tuple[Any, str, str | None, str]:
    if said.kind == "comparison":
        return said.prompt, said.completions[0], said.completions[1], canonical_json(said.columns.get("criterion"))
    who = [said.columns.get(name) for name in ("annotator", "annotators", "answers")]
    return said.prompt, canonical_json([said.kind, said.completions, said.value, who]), None, ""
