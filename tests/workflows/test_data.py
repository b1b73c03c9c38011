"""From a file of pairs to a frozen, traceable data set, as the verbs and the notebook functions do it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import prefloop
from prefloop.artifacts.workspace import Workspace
from prefloop.errors import InputError, PrefloopError
from prefloop.workflows.places import workspace_at, workspace_or_none

PAIRS = [
    {
        "prompt": f"question {n}",
        "chosen": f"good answer {n}",
        "rejected": f"bad answer {n}",
        "subset": "even" if n % 2 == 0 else "odd",
    }
    for n in range(30)
]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Thirty good pairs and one that is no pair at all: 31 rows, 1 of them identical."""
    file = tmp_path / "pairs.jsonl"
    rows = [*PAIRS, {"prompt": "question 99", "chosen": "same", "rejected": "same"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return prefloop.init(tmp_path / "work")


def test_a_workspace_has_a_settings_file_a_database_and_a_place_for_artifacts(workspace: Workspace) -> None:
    assert {path.name for path in workspace.root.iterdir()} >= {"prefloop.yaml", "prefloop.db", "artifacts"}


def test_init_leaves_a_workspace_that_is_there_as_it_is(workspace: Workspace, pairs: Path) -> None:
    prefloop.import_data(pairs, "comparisons", workspace=workspace)
    (workspace.root / "prefloop.yaml").write_text("test_share: 0.5\n")
    assert prefloop.init(workspace.root).settings.test_share == 0.5
    assert prefloop.snapshot(workspace=workspace).rows == 30


def test_import_keeps_the_good_rows_and_names_the_others(workspace: Workspace, pairs: Path) -> None:
    result = prefloop.import_data(pairs, "comparisons", workspace=workspace, source_name="a survey", licence="CC0-1.0")
    assert (result.imported, result.rejected, result.reasons) == (30, 1, {"identical": 1})
    assert result.rejects_file is not None
    (line,) = result.rejects_file.read_text().splitlines()
    assert json.loads(line)["line"] == 31


def test_an_unknown_kind_names_the_nearest(workspace: Workspace, pairs: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'comparisons'"):
        prefloop.import_data(pairs, "comparision", workspace=workspace)


def test_a_snapshot_splits_by_prompt_with_the_share_of_the_workspace(workspace: Workspace, pairs: Path) -> None:
    (workspace.root / "prefloop.yaml").write_text("test_share: 0.5\n")
    prefloop.import_data(pairs, "comparisons", workspace=workspace)
    result = prefloop.snapshot(workspace=workspace.root, name="half")
    rows = {split: (result.artifact.path / f"{split}.jsonl").read_text().splitlines() for split in ("train", "test")}
    assert len(rows["train"]) + len(rows["test"]) == 30
    assert 5 < len(rows["test"]) < 25  # 0.5 of 30 prompts, each on its own side by its hash


def test_lineage_goes_back_to_answers_and_annotators(workspace: Workspace, pairs: Path) -> None:
    prefloop.import_data(pairs, "comparisons", workspace=workspace)
    frozen = prefloop.snapshot(workspace=workspace, name="mine")
    found = prefloop.lineage("mine", workspace=workspace)
    assert found["artifact"] == frozen.hash
    assert [link["kind"] for link in found["chain"]] == ["snapshot"]
    assert len(found["answers"]) == 30
    (annotator,) = found["annotators"]
    assert (annotator["kind"], annotator["rows"]) == ("imported", 30)
    assert found["simulated"] is False
    assert prefloop.lineage(frozen.artifact.path) == found


def test_lineage_of_nothing_lists_what_there_is(workspace: Workspace, pairs: Path) -> None:
    prefloop.import_data(pairs, "comparisons", workspace=workspace)
    prefloop.snapshot(workspace=workspace, name="mine")
    with pytest.raises(InputError, match="there is: mine"):
        prefloop.lineage("mien", workspace=workspace)


def test_export_writes_the_newest_snapshot_and_it_can_be_imported_again(
    workspace: Workspace, pairs: Path, tmp_path: Path
) -> None:
    prefloop.import_data(pairs, "comparisons", workspace=workspace)
    prefloop.snapshot(workspace=workspace)
    out = tmp_path / "out.jsonl"
    prefloop.export("trl-preference", out, workspace=workspace)
    other = prefloop.init(tmp_path / "other")
    again = prefloop.import_data(out, "comparisons", workspace=other)
    assert (again.imported, again.rejected) == (30, 0)


def test_export_of_nothing_says_how_to_get_something(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prefloop snapshot"):
        prefloop.export("jsonl", tmp_path / "x.jsonl", workspace=workspace)
    with pytest.raises(InputError, match="did you mean 'parquet'"):
        prefloop.export("parket", tmp_path / "x", workspace=workspace)


def test_the_workspace_is_found_from_below_and_missed_with_advice(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = workspace.root / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert workspace_at(None).root == workspace.root
    monkeypatch.chdir(tmp_path)
    assert workspace_or_none(None) is None
    with pytest.raises(InputError, match="prefloop init"):
        workspace_at(None)


def test_a_broken_settings_file_is_not_taken_for_no_workspace(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace.root / "prefloop.yaml").write_text("tset_share: 0.5\n")
    monkeypatch.chdir(workspace.root)
    with pytest.raises(InputError, match="did you mean 'test_share'"):
        workspace_or_none(None)


def test_only_simulated_annotators_label(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="simulated:PROFILE"):
        prefloop.label("typical", workspace=workspace)
    with pytest.raises(InputError, match="unknown 'typicl'.*did you mean 'typical'"):
        prefloop.label("simulated:typicl", workspace=workspace)


def test_the_doctor_finds_a_damaged_artifact_and_a_healthy_database(workspace: Workspace, pairs: Path) -> None:
    prefloop.import_data(pairs, "comparisons", workspace=workspace)
    frozen = prefloop.snapshot(workspace=workspace, name="mine")
    before = {check["name"]: check for check in prefloop.doctor(workspace)["checks"]}
    assert before["database"]["found"] == "30 questions, 30 answers, 0 of them by machines"
    assert before["artifacts"]["found"] == "1 of 1 match their hashes"
    with (frozen.artifact.path / "train.jsonl").open("a") as file:
        file.write("{}\n")
    after = prefloop.doctor(workspace)
    assert after["healthy"] is False
    (wrong,) = [check for check in after["checks"] if check["name"].startswith("artifact mine")]
    assert wrong["state"] == "wrong"
    assert "SHA-256" in wrong["found"]
    assert wrong["advice"]


def test_the_doctor_says_what_is_wrong_with_a_database(workspace: Workspace) -> None:
    (workspace.root / "prefloop.db").write_bytes(b"this is no database, whatever its name says" * 100)
    (wrong,) = [check for check in prefloop.doctor(workspace)["checks"] if check["name"] == "database"]
    assert wrong["state"] == "wrong"
    assert "no SQLite database" in wrong["found"]


def test_the_doctor_works_without_a_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checks = {check["name"]: check for check in prefloop.doctor()["checks"]}
    assert checks["workspace"]["advice"] == "make one with: prefloop init"
    assert checks["prefloop"]["state"] == "ok"


def test_a_report_of_a_snapshot_says_where_the_rows_came_from(workspace: Workspace, pairs: Path) -> None:
    prefloop.import_data(pairs, "comparisons", workspace=workspace, source_name="a <survey>", licence="CC0-1.0")
    frozen = prefloop.snapshot(workspace=workspace, name="mine")
    page = prefloop.report("mine", workspace=workspace).read_text()
    assert frozen.hash[:8] in page
    assert "CC0-1.0" in page
    assert "a &lt;survey&gt;" in page
    assert "a <survey>" not in page


def test_a_report_of_nothing_says_where_to_start(workspace: Workspace) -> None:
    with pytest.raises(PrefloopError, match="prefloop demo"):
        prefloop.report(workspace=workspace)
