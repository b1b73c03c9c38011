"""Jobs that are at work, were cut off, or are done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import prefloop
from prefloop.artifacts.folder import write_artifact
from prefloop.artifacts.workspace import Workspace
from prefloop.errors import InputError, RunError
from prefloop.training import run_lock


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return prefloop.init(tmp_path)


@pytest.fixture
def job(workspace: Workspace) -> Path:
    """A job that was killed while it wrote the third line of its metrics."""
    folder = workspace.artifacts / ".runs" / "mine-12345678"
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text('{"method": "sft"}')
    (folder / "metrics.jsonl").write_text('{"step": 10, "loss": 2.0}\n{"step": 20, "loss": 1.5}\n{"ste')
    return folder


@pytest.fixture
def at_work(job: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the job."""
    script = "import sys; from pathlib import Path; from prefloop.training import run_lock\n"
    script += "run_lock.take(Path(sys.argv[1])); print('taken', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(job)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "taken\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()
    process.stdin.close()


def test_a_job_that_was_cut_off_is_unfinished(workspace: Workspace, job: Path) -> None:
    (found,) = prefloop.runs(workspace)
    assert (found["run"], found["method"], found["state"], found["step"]) == ("mine-12345678", "sft", "unfinished", 20)


def test_a_finished_job_has_its_artifact(workspace: Workspace) -> None:
    def fill(folder: Path) -> None:
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 7}) + "\n")

    made = write_artifact(
        workspace.artifacts,
        "policy",
        "done",
        fill,
        settings={},
        parents=[],
        seeds={},
        metrics={},
        extra={"method": "dpo"},
    )
    (found,) = prefloop.runs(workspace)
    assert (found["method"], found["state"], found["step"]) == ("dpo", "finished", 7)
    assert found["artifact"] == str(made.path)


def test_a_job_at_work_is_running_until_its_process_ends(workspace: Workspace, at_work: subprocess.Popen[str]) -> None:
    (found,) = prefloop.runs(workspace)
    assert (found["state"], found["pid"]) == ("running", at_work.pid)
    at_work.kill()
    at_work.wait()
    assert prefloop.runs(workspace)[0]["state"] == "unfinished"


def test_two_processes_do_not_work_on_one_job(job: Path, at_work: subprocess.Popen[str]) -> None:
    with pytest.raises(RunError, match=f"process {at_work.pid} is at work"):
        run_lock.take(job)


def test_a_running_job_is_asked_to_stop_once(workspace: Workspace, job: Path, at_work: subprocess.Popen[str]) -> None:
    assert prefloop.runs(workspace, stop="mine")[0]["state"] == "stopping"
    assert run_lock.was_asked_to_stop(job)
    assert not run_lock.was_asked_to_stop(job)


def test_stopping_what_does_not_run_names_what_does(workspace: Workspace, job: Path) -> None:
    with pytest.raises(InputError, match="no running run is named 'mine'; there is: none"):
        prefloop.runs(workspace, stop="mine")


def test_prune_removes_what_was_cut_off_and_leaves_what_runs(
    workspace: Workspace, job: Path, at_work: subprocess.Popen[str]
) -> None:
    assert prefloop.runs(workspace, prune=True)[0]["state"] == "running"
    assert job.is_dir()
    at_work.kill()
    at_work.wait()
    assert prefloop.runs(workspace, prune=True)[0]["state"] == "removed"
    assert not job.exists()
    assert prefloop.runs(workspace) == []


def test_the_lock_is_this_process_s_own_until_it_gives_it_back(job: Path) -> None:
    assert run_lock.holder(job) is None
    run_lock.take(job)
    run_lock.take(job)
    assert run_lock.holder(job) == os.getpid()
    run_lock.give_back(job)
    assert run_lock.holder(job) is None
