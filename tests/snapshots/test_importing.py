"""Import keeps the good rows, writes the others down with their reasons, and never loses count."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefloop.errors import InputError, RunError
from prefloop.snapshots import importing
from prefloop.snapshots.importing import ImportResult, import_file
from prefloop.store.annotators import list_annotators
from prefloop.store.counting import counts
from prefloop.store.database import Store, open_store
from prefloop.store.feedback import answers

Write = Callable[..., Path]


def run(store: Store, path: Path, kind: str = "comparisons", **more: Any) -> ImportResult:
    return import_file(store, path, kind, rejects_dir=path.parent / "rejects", **more)


def test_good_rows_go_in_and_the_others_to_a_file(store: Store, jsonl: Write) -> None:
    path = jsonl(
        [
            {"prompt": "p", "chosen": "good", "rejected": "bad", "topic": "t"},
            {"prompt": "p", "chosen": "same", "rejected": "same"},
            '{"prompt": ',
            {"prompt": "p", "chosen": "", "rejected": "x"},
            '{"prompt": "p", "chosen": "\\ud800", "rejected": "x"}',
            {"prompt": "p", "chosen": "good", "rejected": "bad"},
            {"prompt": "p", "chosen": "bad", "rejected": "good"},
            "[" * 100_000,
        ]
    )
    result = run(store, path, licence="CC0")
    assert result.as_dict() == {
        "imported": 1,
        "rejected": 7,
        "reasons": {
            "broken JSON": 2,
            "duplicate": 1,
            "empty": 1,
            "identical": 1,
            "lone surrogate": 1,
            "swapped": 1,
        },
        "rejects_file": str(path.parent / "rejects" / "rows.rejects.jsonl"),
    }
    assert result.rejects_file is not None
    written = [json.loads(line) for line in result.rejects_file.read_text(encoding="utf-8").splitlines()]
    assert [(w["line"], w["reason"]) for w in written] == [
        (2, "identical"),
        (3, "broken JSON"),
        (4, "empty"),
        (5, "lone surrogate"),
        (6, "duplicate"),
        (7, "swapped"),
        (8, "broken JSON"),
    ]
    assert json.loads(written[0]["row"]) == {"prompt": "p", "chosen": "same", "rejected": "same"}
    assert all(len(w["row"]) <= 2000 for w in written)
    [answer] = answers(store)
    assert answer.value == {"choice": "a"}
    assert [c["text"] for c in answer.candidates] == ["good", "bad"]
    assert (answer.source, answer.licence, answer.columns) == ("rows", "CC0", {"topic": "t"})
    assert answer.annotator.startswith("imported:")
    assert not answer.simulated


def test_a_column_of_another_name_is_the_criterion(store: Store, jsonl: Write) -> None:
    """A pair that people judge by two criteria, in opposite ways, is no contradiction."""
    pair = {"prompt": "Q?", "chosen": "yes", "rejected": "no", "subset": "helpful"}
    turned = {"prompt": "Q?", "chosen": "no", "rejected": "yes", "subset": "harmless"}
    path = jsonl([pair, turned, {**pair, "subset": None}, {"prompt": "Q?", "chosen": "a", "rejected": "b"}])
    result = run(store, path, criterion="subset")
    assert (result.imported, result.reasons) == (2, {"malformed": 2})
    assert result.rejects_file is not None
    rejects = [json.loads(line) for line in result.rejects_file.read_text().splitlines()]
    assert json.loads(rejects[1]["row"]) == {"prompt": "Q?", "chosen": "a", "rejected": "b"}
    assert [one["detail"] for one in rejects] == [
        "column 'subset', which is to name the criterion, is None",
        "column 'subset', which is to name the criterion, is none of prompt, chosen, rejected",
    ]
    assert sorted(answer.columns["criterion"] for answer in answers(store)) == ["harmless", "helpful"]


def test_importing_again_adds_nothing(store: Store, jsonl: Write) -> None:
    path = jsonl({"prompt": f"p{i}", "chosen": "good", "rejected": "bad"} for i in range(5))
    first, before = run(store, path), counts(store)
    assert run(store, path).as_dict() == first.as_dict()
    assert counts(store) == before
    assert (first.rejected, first.rejects_file) == (0, None)
    assert not (path.parent / "rejects").exists()


def test_none_good_is_an_error_and_the_rejects_are_there(store: Store, jsonl: Write) -> None:
    path = jsonl([{"prompt": "p", "chosen": "x", "rejected": "x"}, "{"])
    with pytest.raises(InputError, match=r"none of its 2 rows.*the rows are in .*rows\.rejects\.jsonl"):
        run(store, path)
    assert len((path.parent / "rejects" / "rows.rejects.jsonl").read_text().splitlines()) == 2
    with pytest.raises(InputError, match="missing column; needed: chosen and rejected"):
        run(store, jsonl([{"prompt": "p", "winner": "x"}]))
    with pytest.raises(InputError, match="holds no rows"):
        run(store, jsonl([]))
    with pytest.raises(InputError, match="no such file"):
        run(store, path.parent / "none.jsonl")
    with pytest.raises(InputError, match="comparisons, rankings"):
        run(store, path, "opinions")
    assert list(answers(store)) == []


def test_a_damaged_archive_adds_nothing(store: Store, tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": f"p{i} {i * 7919}", "chosen": f"a{i}", "rejected": "b"}) for i in range(2000)]
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode())[:-30])
    with pytest.raises(InputError, match="damaged or cut off"):
        run(store, path)
    assert counts(store)["prompts"] == 0


def test_people_stay_apart_and_machines_stay_machines(store: Store, jsonl: Write) -> None:
    pair = {"prompt": "p", "chosen": "x", "rejected": "y"}
    swapped = {"prompt": "p", "chosen": "y", "rejected": "x"}
    path = jsonl(
        [
            {**pair, "annotator": "ann", "at": "2024-05-06T07:08:09Z", "seconds": 4.5},
            {**swapped, "annotator": "bo"},  # disagreement, not a swapped row
            {**pair, "annotator": 7},
            {**pair, "annotator": "simulated:careful"},
            {**pair, "simulated": True},
            {**pair, "annotators": ["ai:judge", "ai:other"]},
            {**swapped, "annotator": "ann"},  # ann said the opposite before
        ]
    )
    result = run(store, path, source_name="survey")
    assert (result.imported, result.reasons) == (6, {"swapped": 1})
    found = list(answers(store))
    assert found[0].at.startswith("2024-05-06T07:08:09")
    assert found[0].seconds == 4.5
    kinds = {a.name: a.kind for a in list_annotators(store)}
    assert kinds == {
        "ann (survey)": "person",
        "bo (survey)": "person",
        "7 (survey)": "person",
        "simulated:careful": "simulated",
        "simulated:crowd": "simulated",
        "ai:crowd": "ai",
    }
    assert [a.simulated for a in found] == [False, False, False, True, True, True]


KINDS: list[tuple[str, dict[str, Any], list[str], dict[str, Any]]] = [
    ("comparisons", {"chosen": "x", "rejected": "y", "label": 0.25}, ["x", "y"], {"choice": "b"}),
    (
        "comparisons",
        {"chosen": "x", "rejected": "y", "label": 0.5, "strength": 2},
        ["x", "y"],
        {"choice": "tie", "strength": 2},
    ),
    ("ratings", {"completion": "x", "score": 4}, ["x"], {"scores": {"overall": 4}}),
    (
        "ratings",
        {"completion": "x", "scores": {"helpful": 5.0, "true": "1"}},
        ["x"],
        {"scores": {"helpful": 5, "true": 1}},
    ),
    ("approvals", {"completion": "x", "label": False}, ["x"], {"approved": False}),
    ("approvals", {"completion": [{"role": "assistant", "content": "x"}], "label": "1"}, ["x"], {"approved": True}),
    ("edits", {"completion": "x", "edited": "better"}, ["x"], {"text": "better"}),
    ("edits", {"completion": "x", "spans": '[{"start": 0, "end": 1}]'}, ["x"], {"spans": [{"start": 0, "end": 1}]}),
    ("flags", {"completion": "x", "flags": ["bias"]}, ["x"], {"flags": ["bias"]}),
    ("flags", {"completion": "x", "flags": "[]"}, ["x"], {"flags": []}),
    ("demonstrations", {"completion": "shown"}, [], {"text": "shown"}),
]


@pytest.mark.parametrize(("kind", "row", "texts", "value"), KINDS)
def test_every_kind_of_answer(
    store: Store, jsonl: Write, kind: str, row: dict[str, Any], texts: list[str], value: dict[str, Any]
) -> None:
    result = run(store, jsonl([{"prompt": "p", **row, "note_to_self": "kept"}]), kind)
    assert (result.imported, result.rejected) == (1, 0)
    [answer] = answers(store)
    assert [c["text"] for c in answer.candidates] == texts
    assert answer.value == value
    assert answer.columns["note_to_self"] == "kept"
    assert answer.messages == [{"role": "user", "content": "p"}]


def test_rankings_with_ties(store: Store, jsonl: Write) -> None:
    row = {"prompt": "p", "completions": ["x", "y", "z"], "ranks": [2, 1, 2]}
    run(store, jsonl([row, {"prompt": "q", "completions": ["x", "y"]}]), "rankings")
    tied, plain = answers(store)
    ids = {c["text"]: c["id"] for c in tied.candidates}
    assert tied.value["order"][0] == [ids["y"]]
    assert sorted(tied.value["order"][1]) == sorted([ids["x"], ids["z"]])
    assert plain.value["order"] == [[c["id"]] for c in plain.candidates]


def test_prompts(store: Store, jsonl: Write) -> None:
    path = jsonl([{"prompt": "p", "topic": 1}, {"messages": [{"role": "user", "content": "q"}]}, {"prompt": "p"}, {}])
    result = run(store, path, "prompts")
    assert (result.imported, result.reasons) == (2, {"duplicate": 1, "missing column": 1})
    assert counts(store)["prompts"] == 2


@pytest.mark.parametrize(
    ("kind", "row", "reason"),
    [
        ("ratings", {"completion": "x", "score": 9}, "malformed"),
        ("ratings", {"completion": "x"}, "missing column"),
        ("ratings", {"completion": " ", "score": 3}, "empty"),
        ("approvals", {"completion": "x", "label": "maybe"}, "malformed"),
        ("approvals", {"completion": "x"}, "missing column"),
        ("edits", {"completion": "x"}, "missing column"),
        ("edits", {"completion": "x", "edited": ""}, "malformed"),
        ("edits", {"completion": "x", "spans": [{"start": 2, "end": 1}]}, "malformed"),
        ("flags", {"completion": "x", "flags": "bias"}, "malformed"),
        ("flags", {"completion": "x", "flags": ["a", "a"]}, "malformed"),
        ("rankings", {"completions": ["x"]}, "malformed"),
        ("rankings", {"completions": ["x", "x "]}, "identical"),
        ("rankings", {"completions": ["x", "y"], "ranks": [1]}, "malformed"),
        ("rankings", {"completions": ["x", "y"], "ranks": ["a", None]}, "malformed"),
        ("rankings", {"completions": "x"}, "malformed"),
        ("demonstrations", {"completion": ""}, "empty"),
        ("comparisons", {"chosen": "x", "rejected": "y", "annotator": ["a"]}, "malformed"),
        ("comparisons", {"chosen": "x", "rejected": "y", "annotator": "a" * 101}, "malformed"),
    ],
)
def test_bad_rows_of_every_kind(store: Store, jsonl: Write, kind: str, row: dict[str, Any], reason: str) -> None:
    good = next(row for name, row, _, _ in KINDS if name == kind) if kind != "rankings" else {"completions": ["a", "b"]}
    result = run(store, jsonl([{"prompt": "p", **row}, {"prompt": "q", **good}]), kind)
    assert (result.imported, result.reasons) == (1, {reason: 1})


def test_what_only_the_store_refuses_is_a_reject_too(
    store: Store, jsonl: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importing.import_answers

    def strict(store: Store, items: list[dict[str, Any]]) -> list[str]:
        if any(item["messages"][0]["content"] == "p1" for item in items):
            raise InputError("the store does not want p1")
        return real(store, items)

    monkeypatch.setattr(importing, "import_answers", strict)
    result = run(store, jsonl({"prompt": f"p{i}", "chosen": "x", "rejected": "y"} for i in range(3)))
    assert (result.imported, result.reasons) == (2, {"malformed": 1})
    assert "does not want p1" in (result.rejects_file or Path()).read_text()


def test_a_full_disk_is_one_clear_message(store: Store, jsonl: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*unused: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(importing.tempfile, "NamedTemporaryFile", full)
    with pytest.raises(RunError, match="the disk is full"):
        run(store, jsonl([{"prompt": "p", "chosen": "x", "rejected": "x"}]))


cells = st.sampled_from(["x", "y", "", None, 3, ["x"], {"role": "user", "content": "x"}, "\x00", "\ud800", 2**70])
odd_rows = st.dictionaries(
    st.sampled_from(["prompt", "chosen", "rejected", "annotator", "label", "at", "source"]), cells
)
good_rows = st.fixed_dictionaries(
    {"prompt": st.sampled_from("pq"), "chosen": st.sampled_from("xyz"), "rejected": st.sampled_from("xyz")}
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(good_rows | odd_rows | st.sampled_from([3, None, "x", []]), min_size=1, max_size=10))
def test_imported_and_rejected_are_all_rows(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("import")
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    store = open_store(f"sqlite:///{folder / 'prefloop.db'}")
    try:
        result = run(store, path)
    except InputError:
        assert list(answers(store)) == []
        assert len((folder / "rejects" / "rows.rejects.jsonl").read_text().splitlines()) == len(rows)
        return
    finally:
        stored = list(answers(store))
        store.close()
    assert result.imported + result.rejected == len(rows)
    assert sum(result.reasons.values()) == result.rejected
    assert len(stored) == result.imported
