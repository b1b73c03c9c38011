"""A run that is changed while it runs ends as one that was told so at the start, however often it is killed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import prefloop
from prefloop.errors import InputError, RunError
from prefloop.training import run as runs
from prefloop.training.steering import Change, Steering, steer
from prefloop.workflows.training import train
from tests.small import settings_of, weights_of, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def trained(method: str, inputs: Path, out: Path, *, resume: bool = False, **changes: Any) -> dict[str, Any]:
    return train(
        method, out=out, overrides=settings_of(method, inputs, **changes), resume=resume, log=lambda words: None
    )


@pytest.mark.parametrize(
    ("method", "asked"), [("ppo", {"lr": 3e-4, "beta": 0.5, "kl_target": 2.0}), ("sft", {"lr": 3e-4})]
)
def test_asked_for_or_planned_killed_or_not_the_result_is_the_same(
    method: str, asked: dict[str, float], inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for while step 2 ends, cut off after step 3, which is lost: the change is made again."""
    plain = trained(method, inputs, tmp_path / "plain", log_every=1)
    planned = trained(method, inputs, tmp_path / "planned", log_every=1, changes=[{"step": 2, **asked}])
    honest, done = runs.Run.checkpoint, [0]

    def stopping(self: Any, step: int, *given: Any) -> None:
        done[0] += 1
        if done[0] == 2:
            assert steer(self.folder, asked, online=method == "ppo") == asked
        honest(self, step, *given)
        if done[0] == 3:
            raise RunError("cut off")

    monkeypatch.setattr(runs.Run, "checkpoint", stopping)
    with pytest.raises(RunError, match="cut off"):
        trained(method, inputs, tmp_path / "asked", log_every=1, checkpoint_seconds=0)
    folder = tmp_path / ".asked.run"
    assert [json.loads(line) for line in (folder / "changes.jsonl").read_text().splitlines()] == [{"step": 2, **asked}]
    assert not (folder / "change.json").exists()
    shutil.rmtree(folder / "checkpoints" / "step-00000003")  # as if the kill had come before it was written
    monkeypatch.undo()
    found = trained(method, inputs, tmp_path / "asked", log_every=1, checkpoint_seconds=0, resume=True)
    assert weights_of(tmp_path / "asked") == weights_of(tmp_path / "planned")
    assert found["hash"] == planned["hash"] != plain["hash"]
    for name in ("asked", "planned"):
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        assert manifest["changes"] == [{"step": 2, **asked}]
    rows = [json.loads(line) for line in (tmp_path / "asked" / "metrics.jsonl").read_text().splitlines()]
    before = [json.loads(line) for line in (tmp_path / "plain" / "metrics.jsonl").read_text().splitlines()]
    assert rows[:2] == before[:2]
    assert rows[2]["lr"] == pytest.approx(before[2]["lr"] * 0.3)


def test_a_change_holds_from_its_step_on(tmp_path: Path) -> None:
    steering = Steering(tmp_path, [Change(step=4, lr=1e-4), Change(step=1, beta=0.2)])
    assert steering.at(0) == []
    assert [c.step for c in steering.at(4)] == [4]
    assert [c.step for c in steering.before(4)] == [1]
    assert [c.step for c in steering.before(9)] == [1, 4]


def test_a_request_is_written_down_before_it_is_taken_away(tmp_path: Path) -> None:
    steer(tmp_path, {"lr": 0.1}, online=False)
    assert [c.lr for c in Steering(tmp_path, []).at(1)] == [0.1]
    steer(tmp_path, {"lr": 0.2}, online=False)
    steering = Steering(tmp_path, [])
    assert [c.lr for c in steering.at(3)] == [c.lr for c in steering.at(3)] == [0.2]
    assert Steering(tmp_path, []).written() == [{"step": 1, "lr": 0.1}, {"step": 3, "lr": 0.2}]


@pytest.mark.parametrize(
    ("values", "online", "said"),
    [
        ({}, True, "steer takes lr, beta or kl_target"),
        ({"beta": 0.1}, False, "means nothing to a method that does not sample"),
        ({"gamma": 0.1}, True, "unknown setting 'gamma'"),
        ({"lr": -1}, True, "greater than 0, got -1"),
        ({"step": 3, "lr": 0.1}, True, "steer takes lr"),
    ],
)
def test_what_cannot_be_changed_is_refused(values: Any, online: bool, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        steer(tmp_path, values, online=online)
    assert list(tmp_path.iterdir()) == []


def test_a_planned_price_of_kl_needs_a_method_that_samples(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="beta = 0.1 means nothing"):
        trained("sft", inputs, tmp_path / "out", changes=[{"step": 1, "beta": 0.1}])


def test_an_unfinished_job_is_steered_by_its_name(tmp_path: Path) -> None:
    workspace = prefloop.init(tmp_path)
    folder = workspace.artifacts / ".runs" / "mine-12345678"
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text('{"method": "rloo"}')
    (found,) = prefloop.runs(workspace, steer="mine", changes=["beta=0.3"])
    assert found["changes"] == {"beta": 0.3}
    assert json.loads((folder / "change.json").read_text()) == {"beta": 0.3}
    with pytest.raises(InputError, match="no unfinished run is named 'other'; there is: mine-12345678"):
        prefloop.runs(workspace, steer="other", changes=["beta=0.3"])
    with pytest.raises(InputError, match="changes of what"):
        prefloop.runs(workspace, changes=["beta=0.3"])
