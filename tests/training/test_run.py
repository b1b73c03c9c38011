"""A run's folder: metrics that survive a kill, checkpoints in time, and random streams of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.errors import InputError, RunError
from prefloop.training import run_lock
from prefloop.training.run import Run, RunSettings, generator, read_metrics


def begun(folder: Path, resume: bool = False, **resolved: Any) -> Run:
    run = Run(folder, "sft", RunSettings(checkpoint_seconds=0), resolved, log=lambda words: None)
    run.begin(resume)
    return run


def test_metrics_are_lines_and_a_torn_last_one_is_left_out(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.record(1, {"loss": 2.0})
    run.record(2, {"loss": 0.1 + 0.2})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 0.1 + 0.2}]
    assert read_metrics(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_metric_that_is_not_finite_stops_the_run(tmp_path: Path, value: float) -> None:
    with pytest.raises(RunError, match="kl became (nan|inf|-inf) at step 7"):
        begun(tmp_path).record(7, {"loss": 1.0, "kl": value})


def test_restoring_takes_back_the_metrics_after_the_checkpoint(tmp_path: Path) -> None:
    run = begun(tmp_path)
    for step in (1, 2, 3):
        run.record(step, {"loss": float(step)})
        if step == 2:
            torch.manual_seed(9)
            run.checkpoint(step, lambda: {"w": torch.ones(2)}, {"beta": 0.3})
    expected = torch.rand(3)
    again = begun(tmp_path, resume=True)
    found = again.restore()
    assert found is not None
    step, tensors, state = found
    assert (step, tensors["w"].tolist(), state) == (2, [1.0, 1.0], {"beta": 0.3})
    assert [row["step"] for row in again.metrics] == [1, 2]
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    assert torch.equal(torch.rand(3), expected)


def test_nothing_to_restore(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.record(1, {"loss": 1.0})
    assert run.restore() is None
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_checkpoints_come_when_their_time_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("prefloop.training.run.time.monotonic", lambda: now[0])
    run = Run(tmp_path, "sft", RunSettings(checkpoint_seconds=60), {}, log=lambda words: None)
    run._last_checkpoint = now[0]
    run.begin(False)
    for step, time in enumerate([100.0, 159.0, 161.0, 200.0, 221.5]):
        now[0] = time
        run.checkpoint(step, dict, {})
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000002", "step-00000004"]


def test_asked_to_stop_it_saves_first(tmp_path: Path) -> None:
    run = Run(tmp_path, "sft", RunSettings(checkpoint_seconds=1e6), {}, log=lambda words: None)
    run.begin(False)
    run.checkpoint(1, dict, {})
    assert not (tmp_path / "checkpoints").exists()
    run_lock.ask_to_stop(tmp_path)
    with pytest.raises(RunError, match="stopped after step 2, as asked; go on with --resume"):
        run.checkpoint(2, dict, {})
    assert (tmp_path / "checkpoints" / "step-00000002").is_dir()
    run.checkpoint(3, dict, {})


def test_the_first_setting_that_changed_is_named(tmp_path: Path) -> None:
    begun(tmp_path, lr=1.0, seed=0).checkpoint(1, dict, {})
    with pytest.raises(InputError, match=r"cannot resume with other settings: seed was 0, now 1"):
        begun(tmp_path, resume=True, lr=1.0, seed=1)


def test_what_never_had_a_checkpoint_is_begun_anew(tmp_path: Path) -> None:
    begun(tmp_path, lr=1.0)
    begun(tmp_path, lr=2.0)
    assert json.loads((tmp_path / "settings.json").read_text()) == {"lr": 2.0}


def test_what_a_kill_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    """A kill in the middle of a checkpoint leaves a hidden folder as large as the model."""
    begun(tmp_path).checkpoint(1, dict, {})
    part = tmp_path / "checkpoints" / ".step-00000002.0123abcd.part"
    part.mkdir()
    (part / "tensors.safetensors").write_bytes(b"half")
    begun(tmp_path, resume=True)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_finished_the_folder_goes(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    run.finish()
    assert not (tmp_path / "run").exists()


def test_a_stream_is_its_own() -> None:
    first = torch.rand(3, generator=generator(1, "rollout", 4))
    torch.rand(5)
    assert torch.equal(torch.rand(3, generator=generator(1, "rollout", 4)), first)
    for other in [(2, "rollout", 4), (1, "rollout", 5), (1, "minibatches", 4)]:
        assert not torch.equal(torch.rand(3, generator=generator(*other)), first)
