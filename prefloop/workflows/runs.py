"""The training jobs of a workspace: those at work, those that were cut off, those that are done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from prefloop.artifacts.folder import list_artifacts
from prefloop.artifacts.workspace import Workspace
from prefloop.errors import InputError
from prefloop.training import run_lock
from prefloop.workflows.places import Place, workspace_at

UNFINISHED = ".runs"
"""Folder below the artifacts in which jobs keep their checkpoints until they are done."""


def runs(workspace: Place = None, *, stop: str | None = None, prune: bool = False) -> list[dict[str, Any]]:
    """Every job: `run` (its name), `method`, `state`, `step`, `artifact` (None until it is done) and `folder`.

    `state` is running, unfinished or finished. `stop` names a running job, which saves a checkpoint after its current
    step, ends, and can be resumed; it has the state stopping. `prune` removes the folders of unfinished jobs, which
    can then no longer be resumed; they have the state removed. Raises InputError when `stop` names no running job.
    """
    place = workspace_at(workspace)
    waiting = unfinished(place)
    if stop is not None:
        _stop(stop, waiting)
    if prune:
        for job in waiting:
            if job["state"] == "unfinished":
                shutil.rmtree(job["folder"])
                job["state"] = "removed"
    return [*finished(place), *waiting]


def unfinished(workspace: Workspace) -> list[dict[str, Any]]:
    """Jobs that have a folder of checkpoints: at work now, or cut off."""
    found = []
    for folder in sorted((workspace.artifacts / UNFINISHED).glob("*/settings.json")):
        settings = json.loads(folder.read_text(encoding="utf-8"))
        pid = run_lock.holder(folder.parent)
        found.append(
            {
                "run": folder.parent.name,
                "method": settings.get("method"),
                "state": "running" if pid else "unfinished",
                "step": _last_step(folder.parent / "metrics.jsonl"),
                "artifact": None,
                "folder": str(folder.parent),
                "pid": pid,
            }
        )
    return found


def finished(workspace: Workspace) -> list[dict[str, Any]]:
    """Jobs whose artifact is there, oldest first."""
    return [
        {
            "run": artifact.path.name,
            "method": artifact.manifest["method"],
            "state": "finished",
            "step": _last_step(artifact.path / "metrics.jsonl"),
            "artifact": str(artifact.path),
            "folder": None,
            "pid": None,
        }
        for artifact in list_artifacts(workspace.artifacts)
        if "method" in artifact.manifest
    ]


def _stop(name: str, jobs: list[dict[str, Any]]) -> None:
    running = [job for job in jobs if job["state"] == "running"]
    named = [job for job in running if name in (job["run"], job["run"].rpartition("-")[0])]
    if len(named) != 1:
        there = ", ".join(job["run"] for job in running) or "none"
        which = "more than one run" if named else "no running run"
        raise InputError(f"{which} is named {name!r}; running: {there}")
    run_lock.ask_to_stop(Path(named[0]["folder"]))
    named[0]["state"] = "stopping"


def _last_step(metrics: Path) -> int | None:
    """The step of the last whole line of a metrics file."""
    if not metrics.exists():
        return None
    steps = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            steps.append(int(json.loads(line)["step"]))
        except (ValueError, KeyError):
            break  # a line that a kill cut off
    return max(steps, default=None)
