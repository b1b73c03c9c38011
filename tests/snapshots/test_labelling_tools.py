"""Exports of Argilla and Label Studio, in the shapes that their documentations show, become rows with their people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefloop.snapshots.importing import ImportResult, import_file
from prefloop.snapshots.labelling_tools import unfold
from prefloop.snapshots.rows import Reject
from prefloop.store.database import Store, open_store
from prefloop.store.feedback import answers, stored_prompts

DATA = {"prompt": "Name a colour.", "answer1": "Blue.", "answer2": "Seven."}


def annotation(by: Any, *result: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"completed_by": by, "result": list(result), "lead_time": 4.5, "created_at": "2026-01-31T12:00:00Z"} | more


def part(kind: str, value: dict[str, Any], name: str = "q") -> dict[str, Any]:
    return {"from_name": name, "to_name": "x", "type": kind, "value": value}


def imported(tmp_path: Path, records: list[dict[str, Any]], kind: str) -> tuple[Store, ImportResult]:
    (tmp_path / "export.json").write_text(json.dumps(records))
    store = open_store(tmp_path / "p.db")
    result = import_file(
        store, tmp_path / "export.json", kind, rejects_dir=tmp_path / "rejects", source_name="ours", licence="MIT"
    )
    return store, result


def test_label_studios_pairs_keep_their_people(tmp_path: Path) -> None:
    left, right = (part("pairwise", {"selected": side}) for side in ("left", "right"))
    records = [
        {"id": 1, "data": DATA, "annotations": [annotation(7, left), annotation({"id": 8, "email": "b@x.org"}, right)]},
        {"id": 2, "data": DATA | {"prompt": "Another."}, "annotations": [annotation(7, right, was_cancelled=True)]},
        {"id": 3, "data": DATA | {"prompt": "A third."}, "annotations": []},
    ]
    store, result = imported(tmp_path, records, "comparisons")
    assert (result.imported, result.reasons) == (2, {"no answer": 1, "skipped": 1})
    # A preferred text is stored first, so the same pair in the other order is another question.
    chosen = {row.candidates[0]["text"]: row for row in answers(store)}
    assert set(chosen) == {"Blue.", "Seven."}
    assert len({row.annotator for row in chosen.values()}) == 2
    assert all(row.annotator.startswith("imported:") and not row.simulated for row in chosen.values())
    row = chosen["Blue."]
    assert (row.seconds, row.at, row.source, row.licence) == (4.5, "2026-01-31T12:00:00Z", "ours", "MIT")
    assert (row.columns["tool"], row.columns["record"]) == ("Label Studio", "1")
    store.close()


def test_label_studios_other_kinds(tmp_path: Path) -> None:
    one = {"prompt": "Name a colour.", "response": "Blue."}
    rating, text = part("rating", {"rating": 4}, "helpful"), part("textarea", {"text": ["Red,", "or blue."]})
    choice = part("choices", {"choices": ["Yes"]})
    ranker = part("ranker", {"ranker": {"_": ["b", "a"]}})
    items = {"prompt": "Rank.", "items": [{"id": "a", "body": "first"}, {"id": "b", "title": "second"}]}
    for kind, data, result, expected in (
        ("ratings", one, rating, {"completion": "Blue.", "scores": {"helpful": 4}}),
        ("demonstrations", one, text, {"completion": "Red,\nor blue."}),
        ("edits", one, text, {"completion": "Blue.", "edited": "Red,\nor blue."}),
        ("approvals", one, choice, {"completion": "Blue.", "label": True}),
        ("flags", one, part("choices", {"choices": ["biased", "unsafe"]}), {"flags": ["biased", "unsafe"]}),
        ("rankings", items, ranker, {"completions": ["second", "first"]}),
    ):
        (row,) = unfold({"id": 1, "data": data, "annotations": [annotation(7, result)]}, kind)
        assert isinstance(row, dict)
        assert expected.items() <= row.items()
        assert row["annotator"] == "7"


ARGILLA = {"id": "r1", "fields": {"prompt": "Name a colour.", "response-1": "Blue.", "response-2": "Seven."}}


@pytest.mark.parametrize(
    ("value", "chosen", "label"),
    [
        ("response-2", "Seven.", None),
        ("response_1", "Blue.", None),
        ("A", "Blue.", None),
        ("tie", "Blue.", 0.5),
        ([{"value": "response-1", "rank": 2}, {"value": "response-2", "rank": 1}], "Seven.", None),
        ([{"value": "response-1", "rank": 1}, {"value": "response-2", "rank": 1}], "Blue.", 0.5),
    ],
)
def test_argillas_preferences(value: Any, chosen: str, label: float | None) -> None:
    said = {"value": value, "user_id": "u1", "status": "submitted"}
    new = ARGILLA | {"responses": {"preference": [said]}}
    old = ARGILLA | {
        "responses": [{"user_id": "u1", "status": "submitted", "values": {"preference": {"value": value}}}]
    }
    for record in (new, old):
        (row,) = unfold(record, "comparisons")
        assert isinstance(row, dict)
        assert (row["chosen"], row.get("label"), row["annotator"]) == (chosen, label, "u1")


def test_argillas_answers_are_put_together_by_person(tmp_path: Path) -> None:
    fields = {"instruction": "Name a colour.", "response": "Blue."}
    responses = {
        "helpful": [{"value": 4, "user_id": "u1"}, {"value": 2, "user_id": "u2", "status": "discarded"}],
        "honest": [{"value": 5, "user_id": "u1"}],
    }
    store, result = imported(tmp_path, [{"fields": fields, "responses": responses, "metadata": {"n": 1}}], "ratings")
    assert (result.imported, result.reasons) == (1, {"skipped": 1})
    (row,) = answers(store)
    assert row.value == {"scores": {"helpful": 4, "honest": 5}}
    assert row.columns["metadata"] == {"n": 1}
    store.close()


def test_prompts_need_no_answers(tmp_path: Path) -> None:
    store, result = imported(tmp_path, [{"data": DATA, "annotations": []}, ARGILLA | {"responses": {}}], "prompts")
    assert result.imported + result.rejected == 2
    assert stored_prompts(store) == [[{"role": "user", "content": "Name a colour."}]]
    store.close()


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"data": {"headline": "x"}, "annotations": []}, "missing column"),
        ({"data": {"prompt": "x", "p": "y", "q": "z"}, "annotations": [annotation(1)]}, "missing column"),
        ({"data": DATA, "annotations": [annotation(1)]}, "malformed"),
        ({"data": DATA, "annotations": [annotation(1, part("pairwise", {"selected": "up"}))]}, "malformed"),
        ({"data": DATA, "annotations": ["?"]}, "malformed"),
        ({"data": DATA, "annotations": [annotation(1, part("choices", {"choices": ["a", "b"]}))]}, "malformed"),
        (ARGILLA | {"responses": {"q": "?"}}, "no answer"),
        (ARGILLA | {"responses": [{"values": None}]}, "no answer"),
        (ARGILLA | {"responses": {"q": [{"value": [{"value": [], "rank": "x"}], "user_id": 1}]}}, "malformed"),
    ],
)
def test_what_cannot_be_told_is_rejected(record: dict[str, Any], reason: str) -> None:
    (problem,) = unfold(record, "comparisons")
    assert isinstance(problem, Reject)
    assert problem.reason == reason
