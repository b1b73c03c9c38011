"""Is everything in order? Each finding says what was looked at, what was found, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from prefloop.artifacts.folder import list_artifacts, read_artifact
from prefloop.artifacts.workspace import Workspace
from prefloop.errors import PrefloopError
from prefloop.store.counting import counts
from prefloop.store.database import WAL_IS_SAFE_FROM
from prefloop.store.sqlite import sqlite3
from prefloop.version import __version__
from prefloop.workflows.places import Place, store_of, workspace_or_none

LOW_DISK_GB = 2.0
PARTS = {
    "sklearn": ("floors", "the floors that a reward model is compared with"),
    "datasets": ("hub", "data sets by their hub id"),
    "psycopg": ("postgresql", "PostgreSQL"),
}
"""Module -> the extra that brings it, and what it is for."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "note", "wrong"]
    found: str
    advice: str | None = None


def doctor(workspace: Place = None) -> dict[str, Any]:
    """Look at the machine, the installation and the workspace; nothing is changed.

    Returns `{"healthy": bool, "checks": [{"name", "state", "found", "advice"}]}`; state is ok, note or wrong.
    Without a workspace only the machine and the installation are looked at.
    """
    place = workspace_or_none(workspace)
    checks = [*machine_checks(), *installation_checks(), *(workspace_checks(place) if place else [no_workspace()])]
    return {"healthy": all(check.state != "wrong" for check in checks), "checks": [vars(check) for check in checks]}


def machine_checks() -> Iterator[Check]:
    """Processor, accelerator, SQLite, Java."""
    import torch

    from prefloop.models.device import cpu_has_bf16

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    if threads > cores:
        yield Check("threads", "note", f"{threads} for {cores} cores", f"set OMP_NUM_THREADS={cores}; more is slower")
    else:
        yield Check("threads", "ok", f"{threads} for {cores} cores")
    if torch.cuda.is_available():
        yield Check("accelerator", "ok", torch.cuda.get_device_name(0))
    else:
        yield Check("accelerator", "ok", "none; everything runs on the processor")
    if cpu_has_bf16():
        yield Check("bfloat16", "ok", "the processor multiplies bfloat16 matrices itself")
    else:
        yield Check(
            "bfloat16",
            "note",
            "the processor has no bfloat16 instructions",
            "--dtype auto uses float32; training is slower",
        )
    if sqlite3.sqlite_version_info >= WAL_IS_SAFE_FROM:
        yield Check("SQLite", "ok", f"{sqlite3.sqlite_version}, write-ahead log")
    else:
        safe = ".".join(map(str, WAL_IS_SAFE_FROM))
        yield Check(
            "SQLite",
            "note",
            f"{sqlite3.sqlite_version}: before {safe} its write-ahead log can corrupt a database, so it is not used",
            "nothing to do; for many annotators at once use PostgreSQL (PREFLOOP_DATABASE_URL)",
        )
    if shutil.which("javac"):
        yield Check("Java", "ok", "a JDK compiles and runs the demo's Java answers")
    else:
        yield Check(
            "Java", "note", "no javac", "install a JDK to run the demo's Java answers; else their structure is checked"
        )


def installation_checks() -> Iterator[Check]:
    """prefloop, Python, the large packages, the optional ones, the built-in policy."""
    yield Check("prefloop", "ok", f"{__version__} on Python {sys.version.split()[0]}")
    for package in ("torch", "transformers"):
        yield Check(package, "ok", importlib.metadata.version(package))
    for module, (extra, purpose) in PARTS.items():
        if importlib.util.find_spec(module) is None:
            yield Check(module, "note", f"not installed; needed for {purpose}", f"pip install 'prefloop[{extra}]'")
        else:
            yield Check(module, "ok", f"installed, for {purpose}")
    from prefloop.models.load import BUILTIN

    if any(BUILTIN.glob("*.safetensors")):
        yield Check("built-in policy", "ok", str(BUILTIN))
    else:
        yield Check("built-in policy", "wrong", f"no weights in {BUILTIN}", "install prefloop again")


def workspace_checks(workspace: Workspace) -> Iterator[Check]:
    """Disk, database, and the bytes of every artifact."""
    yield Check("workspace", "ok", str(workspace.root))
    free = shutil.disk_usage(workspace.root).free / 1e9
    if free < LOW_DISK_GB:
        yield Check("disk", "wrong", f"{free:.1f} GB free", f"free some; a run needs about {LOW_DISK_GB:g} GB")
    else:
        yield Check("disk", "ok", f"{free:.0f} GB free")
    try:
        with store_of(workspace) as store:
            rows = counts(store)
        questions, answers = sum(rows["questions"].values()), sum(rows["answers"].values())
        machines = sum(n for kind, n in rows["answers_by"].items() if kind != "person")
        yield Check("database", "ok", f"{questions} questions, {answers} answers, {machines} of them by machines")
    except PrefloopError as error:
        yield Check("database", "wrong", str(error), "mend what the message names, or restore a copy of the database")
    yield from artifact_checks(workspace)


def artifact_checks(workspace: Workspace) -> Iterator[Check]:
    """One finding for all whole artifacts, and one for each that is not."""
    try:
        found = list_artifacts(workspace.artifacts)
    except PrefloopError as error:
        yield Check("artifacts", "wrong", str(error), "restore the folder from a copy, or remove it")
        return
    damaged = 0
    for artifact in found:
        try:
            read_artifact(artifact.path)
        except PrefloopError as error:
            damaged += 1
            yield Check(
                f"artifact {artifact.path.name}", "wrong", str(error), "restore it from a copy, or make it again"
            )
    yield Check("artifacts", "ok", f"{len(found) - damaged} of {len(found)} match their hashes")


def no_workspace() -> Check:
    """What is said where there is no workspace to look at."""
    return Check("workspace", "note", "none at or above the current folder", "make one with: prefloop init")
