"""Exports that other tools read, and that come back as the same pairs."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from prefloop.errors import InputError, RunError
from prefloop.snapshots import export as module
from prefloop.snapshots.build import build_snapshot
from prefloop.snapshots.export import export
from prefloop.snapshots.formats import load_comparisons, load_demonstrations, read_rows
from prefloop.store.database import Store
from prefloop.store.feedback import import_answers

Pairs = set[tuple[str, str, str]]


def ask(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.fixture
def snapshot(store: Store, tmp_path: Path) -> Path:
    """Twelve pairs with a winner, one of them by a simulated person, and one tie."""
    items: list[dict[str, Any]] = [
        {
            "kind": "comparison",
            "messages": ask(f"p{i}"),
            "candidates": [f'good, "{i}"\nüñ', f"bad {i}"],
            "value": {"choice": "tie" if i == 12 else "a"},
            "annotator": "simulated:s" if i == 0 else "ann",
            "source": "survey",
            "licence": "CC0",
            "columns": {"subset": "s", "score": i if i % 2 else i / 2, "margin": 1.5, "mixed": "x" if i else {"a": 1}},
        }
        for i in range(13)
    ]
    import_answers(store, items)
    return build_snapshot(store, tmp_path / "artifacts", test_share=0.3).artifact.path


def pairs(path: Path) -> Pairs:
    return {(c.prompt[0]["content"], c.chosen, c.rejected) for c in load_comparisons(path)[0]}


WON: Pairs = {(f"p{i}", f'good, "{i}"\nüñ', f"bad {i}") for i in range(12)}
TIED = ("p12", 'good, "12"\nüñ', "bad 12")


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.jsonl.xz", "out.parquet", "out"])
def test_preferences_come_back_as_the_same_pairs(snapshot: Path, tmp_path: Path, name: str) -> None:
    result = export(snapshot, "trl-preference", tmp_path / name)
    assert (result.rows, result.ledger.as_dict()["dropped"]) == (12, {"tie": 1})
    assert pairs(tmp_path / name) == WON
    first, *_ = load_comparisons(tmp_path / name)[0]
    assert (first.margin, first.columns["source"], first.columns["licence"]) == (1.5, "survey", "CC0")
    marked = {c.prompt[0]["content"]: c.columns["simulated"] for c in load_comparisons(tmp_path / name)[0]}
    assert [prompt for prompt, simulated in marked.items() if simulated] == ["p0"]


def test_preferences_are_trl_conversations(snapshot: Path, tmp_path: Path) -> None:
    export(snapshot, "trl-preference", tmp_path / "out.jsonl")
    rows = {json.dumps(r["prompt"]): r for r in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())}
    row = rows[json.dumps(ask("p3"))]
    assert row["chosen"] == answer('good, "3"\nüñ')
    assert row["rejected"] == answer("bad 3")
    assert row["split"] in ("train", "test")


@pytest.mark.parametrize(("format", "name"), [("jsonl", "out.jsonl"), ("parquet", "out.parquet"), ("parquet", "out")])
def test_everything_comes_back(snapshot: Path, tmp_path: Path, format: str, name: str) -> None:
    result = export(snapshot, format, tmp_path / name)
    assert (result.rows, result.ledger.dropped) == (13, 0)
    assert pairs(tmp_path / name) == WON | {TIED}
    there = {c.prompt[0]["content"]: c for c in load_comparisons(snapshot)[0]}
    for pair in load_comparisons(tmp_path / name)[0]:
        same = there[pair.prompt[0]["content"]]
        assert (pair.label, pair.weight, pair.margin) == (same.label, same.weight, same.margin)
        assert pair.columns["answers"] == same.columns["answers"]
        assert pair.columns["score"] == same.columns["score"]


def test_a_folder_has_a_file_for_each_split(snapshot: Path, tmp_path: Path) -> None:
    for format, suffix in (("trl-preference", "jsonl"), ("parquet", "parquet")):
        out = tmp_path / format
        result = export(snapshot, format, out)
        assert [file.name for file in result.files] == [f"test.{suffix}", f"train.{suffix}"]
        for split in ("train", "test"):
            want = {c.prompt[0]["content"] for c in load_comparisons(snapshot, split=split)[0]}  # type: ignore[arg-type]
            rows = [row for _, row in read_rows(out / f"{split}.{suffix}")]
            found = {row["prompt"][0]["content"] for row in rows if isinstance(row, dict)}
            assert found == (want - {"p12"} if format == "trl-preference" else want)


def test_parquet_columns_have_plain_types(snapshot: Path, tmp_path: Path) -> None:
    export(snapshot, "parquet", tmp_path / "out.parquet")
    types = {field.name: str(field.type) for field in pyarrow.parquet.read_schema(tmp_path / "out.parquet")}
    assert (types["label"], types["simulated"], types["subset"]) == ("double", "bool", "string")
    assert types["score"] == "double"  # whole and broken numbers mixed
    assert types["mixed"] == "string"  # text and an object mixed: JSON text
    assert types["answers"].startswith("list<")


def test_unpaired(snapshot: Path, tmp_path: Path) -> None:
    result = export(snapshot, "trl-unpaired", tmp_path / "out.jsonl.gz")
    rows = [json.loads(line) for line in gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes()).splitlines()]
    assert result.rows == len(rows) == 24
    about = {(row["completion"][0]["content"], row["label"]) for row in rows if row["prompt"] == ask("p3")}
    assert about == {('good, "3"\nüñ', True), ("bad 3", False)}


def test_prompt_completion_of_comparisons_and_demonstrations(store: Store, snapshot: Path, tmp_path: Path) -> None:
    export(snapshot, "trl-prompt-completion", tmp_path / "chosen.jsonl")
    assert {d.completion for d in load_demonstrations(tmp_path / "chosen.jsonl")[0]} == {chosen for _, chosen, _ in WON}
    shown = {"kind": "demonstration", "messages": ask("p"), "value": {"text": "shown"}, "annotator": "ann"}
    import_answers(store, [shown])
    export(store, "trl-prompt-completion", tmp_path / "shown.jsonl", kind="demonstrations")
    [row] = [json.loads(line) for line in (tmp_path / "shown.jsonl").read_text().splitlines()]
    assert (row["prompt"], row["completion"]) == (ask("p"), answer("shown"))
    folder = build_snapshot(store, tmp_path / "artifacts", "demonstrations").artifact.path
    with pytest.raises(InputError, match="trl-preference needs comparisons"):
        export(folder, "trl-preference", tmp_path / "no.jsonl")
    assert not (tmp_path / "no.jsonl").exists()


def test_straight_from_the_store(store: Store, snapshot: Path, tmp_path: Path) -> None:
    export(store, "trl-preference", tmp_path / "out.jsonl")
    assert pairs(tmp_path / "out.jsonl") == WON


def test_wrong_arguments(snapshot: Path, tmp_path: Path) -> None:
    (tmp_path / "there.jsonl").write_text("mine")
    for format, out, message in [
        ("csv", "out.csv", "export writes trl-preference"),
        ("trl-preference", "out.txt", "write to a name in"),
        ("parquet", "out.jsonl", "--as parquet writes a name in .parquet"),
        ("jsonl", "there.jsonl", "exists already"),
        ("jsonl", "artifacts", "exists already"),
    ]:
        with pytest.raises(InputError, match=message):
            export(snapshot, format, tmp_path / out)
    assert (tmp_path / "there.jsonl").read_text() == "mine"
    with pytest.raises(InputError, match="no such snapshot"):
        export(tmp_path / "nowhere", "jsonl", tmp_path / "out.jsonl")


def test_a_changed_snapshot_and_a_full_disk_leave_nothing(
    snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*unused: Any) -> Callable[[], None]:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_open", full)
        for name in ("out.jsonl", "out"):
            with pytest.raises(RunError, match="the disk is full"):
                export(snapshot, "jsonl", tmp_path / name)
    (snapshot / "test.jsonl").write_text("")
    with pytest.raises(RunError, match="does not match the SHA-256"):
        export(snapshot, "jsonl", tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []
