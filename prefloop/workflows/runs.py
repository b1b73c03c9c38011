"""The training jobs of a workspace: those at work, those that were cut off, those that are done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefloop.artifacts.folder import list_artifacts
from prefloop.artifacts.workspace import Workspace
from prefloop.errors import InputError
from prefloop.settings import parse_overrides
from prefloop.training import run_lock
from prefloop.training.steering import steer as ask
from prefloop.workflows.places import Place, workspace_at

UNFINISHED = ".runs"
"""Folder below the artifacts in which jobs keep their checkpoints until they are done."""


def runs(
    workspace: Place = None,
    *,
    stop: str | None = None,
    steer: str | None = None,
    changes: Sequence[str] | Mapping[str, Any] = (),
    prune: bool = False,
) -> list[dict[str, Any]]:
    """Every job: `run` (its name), `method`, `state`, `step`, `artifact` (None until it is done) and `folder`.

    `state` is running, unfinished or finished. `stop` names a running job, which saves a checkpoint after its current
    step, ends, and can be resumed; it has the state stopping. `prune` removes the folders of unfinished jobs, which
    can then no longer be resumed; they have the state removed. `steer` names a job that is running or unfinished, which
    makes `changes` (of lr, beta, kl_target; "key=value", or a mapping) before its next step; it has them as `changes`.
    Raises InputError when `stop` or `steer` names no such job, or `changes` what cannot be changed.
    """
    place = workspace_at(workspace)
    waiting = unfinished(place)
    if stop is not None:
        job = _named(stop, [job for job in waiting if job["state"] == "running"], "running run")
        run_lock.ask_to_stop(Path(job["folder"]))
        job["state"] = "stopping"
    if steer is not None:
        from prefloop.algorithms import METHODS  # here, because it loads torch, which a list of runs does not need

        job = _named(steer, waiting, "unfinished run")
        values = changes if isinstance(changes, Mapping) else parse_overrides(changes)
        job["changes"] = ask(Path(job["folder"]), values, online=METHODS[job["method"]].loop == "online")
    elif changes:
        raise InputError("changes of what? Name a run: prefloop runs --steer RUN --set lr=1e-6")
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


def _named(name: str, jobs: list[dict[str, Any]], what: str) -> dict[str, Any]:
    named = [job for job in jobs if name in (job["run"], job["run"].rpartition("-")[0])]
    if len(named) != 1:
        there = ", ".join(job["run"] for job in jobs) or "none"
        raise InputError(f"{'more than one' if named else 'no'} {what} is named {name!r}; there is: {there}")
    return named[0]


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
