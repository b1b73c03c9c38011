"""From people to a frozen data set: a workspace, what comes in, who answers, what is frozen, what goes out.

The imports stand inside the functions because each needs another part of the program, and `prefloop init` should not
wait for the parts that only `prefloop snapshot` needs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.artifacts.folder import Artifact, find_artifact, list_artifacts
from prefloop.artifacts.workspace import Workspace
from prefloop.errors import InputError
from prefloop.settings import check_choice
from prefloop.workflows.places import Place, store_of, workspace_at, workspace_or_none

if TYPE_CHECKING:
    from prefloop.snapshots.build import SnapshotResult
    from prefloop.snapshots.export import ExportResult
    from prefloop.snapshots.importing import ImportResult


def init(directory: str | Path = ".") -> Workspace:
    """Make a workspace in `directory`: prefloop.yaml, the database, artifacts/. One that is there is left as it is.

    Raises InputError when `directory` is a file.
    """
    workspace = Workspace.create(directory)
    with store_of(workspace):  # makes the tables
        return workspace


def import_data(
    source: str | Path,
    kind: str,
    *,
    workspace: Place = None,
    source_name: str | None = None,
    licence: str | None = None,
    criterion: str | None = None,
    progress: Callable[[int, float | None], None] | None = None,
) -> ImportResult:
    """Bring the rows of a file, or of a data set on the hub, into the store.

    `kind` is comparisons, demonstrations, prompts, ... (IMPORT_KINDS). `source_name` and `licence` are kept with every
    row; `criterion` is the column that says what a row is about, where it is not called so. Rows that cannot be used
    are written to the result's `rejects_file` with their reasons; the good ones are kept. Importing the same file again
    adds nothing. `progress` is called with (rows read, share of the file or None).

    Raises InputError for a missing file, an unknown kind, a file in no known format or without one good row.
    """
    from prefloop.snapshots.answer_rows import IMPORT_KINDS
    from prefloop.snapshots.importing import import_file

    check_choice("--as", kind, tuple(IMPORT_KINDS))
    place = workspace_at(workspace)
    with store_of(place) as store:
        return import_file(
            store,
            str(source),
            kind,
            rejects_dir=place.root / "rejects",
            source_name=source_name,
            licence=licence,
            criterion=criterion,
            progress=progress,
        )


def label(
    by: str = "simulated:panel",
    *,
    limit: int | None = None,
    seed: int = 0,
    workspace: Place = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Let simulated people answer the waiting comparisons and demonstrations, marked as simulated.

    `by` is `simulated:PROFILE`, or `simulated:panel` for one person of each profile; `limit` is the largest number of
    answers; `progress` is called with their number so far. Returns `by`, `simulated`, `annotators`, `answers`,
    `comparison`, `demonstration`, `skipped` and `ties`. Raises InputError for an unknown profile.
    """
    from prefloop.labelers.simulated import PROFILES
    from prefloop.labelers.simulated import label as answer_as

    maker, colon, profile = by.partition(":")
    if maker != "simulated" or not colon:
        raise InputError(f"--by takes simulated:PROFILE, got {by!r}; for example simulated:panel")
    check_choice("simulated profile", profile, ("panel", *PROFILES))
    with store_of(workspace_at(workspace)) as store:
        done = answer_as(store, profile, seed=seed, limit=limit, progress=progress)
    return {"by": by, "simulated": True, **done}


def snapshot(
    kind: str = "comparisons",
    *,
    name: str | None = None,
    test_share: float | None = None,
    round: int | None = None,
    min_answers: int = 1,
    max_dropped: float = 0.05,
    seed: int = 0,
    consensus: str = "weighted",
    workspace: Place = None,
) -> SnapshotResult:
    """Freeze the consensus of the answers into a data set that training reads.

    `test_share` is the share of prompts held back (default: the workspace's); `round` keeps one round's answers only; a
    pair needs `min_answers` votes. `consensus` is "weighted" (votes at the weight that findings leave their
    annotators), "majority" (all votes alike) or "davidson" (a model of annotators and ties); see docs/quality.md.
    Raises RunError when a larger share than `max_dropped` of the questions would be dropped.
    """
    from prefloop.snapshots.build import KINDS, build_snapshot

    check_choice("--as", kind, tuple(KINDS))
    place = workspace_at(workspace)
    with store_of(place) as store:
        return build_snapshot(
            store,
            place.artifacts,
            kind,
            name or kind,
            test_share=place.settings.test_share if test_share is None else test_share,
            round=round,
            min_answers=min_answers,
            max_dropped=max_dropped,
            seed=seed,
            consensus=consensus,
        )


def export(
    format: str,
    out: str | Path,
    *,
    workspace: Place = None,
    data: str | Path | None = None,
    purpose: str = "training",
    redacted: bool = False,
) -> ExportResult:
    """Write a snapshot (`data`: its name, hash or folder; otherwise the newest) in a format that other tools read.

    A row stays out (reason "no consent") when somebody who answered in this workspace has not agreed to `purpose`;
    people whose answers were imported stand on the source and licence that came with them. `redacted` replaces personal
    data that has a checkable form; what was found is counted in `personal_data` in any case. The export is entered
    into the audit log, so that erasure finds the file.

    Raises InputError for an unknown format, where there is no snapshot, and where no row may be written.
    """
    from prefloop.snapshots.build import provenance
    from prefloop.snapshots.export import FORMATS
    from prefloop.snapshots.export import export as write
    from prefloop.store.backup import record_file
    from prefloop.store.privacy import without_consent

    check_choice("--as", format, FORMATS)
    snapshot = _snapshot(workspace, data)
    place = workspace_or_none(workspace)
    if place is None:
        return write(snapshot.path, format, Path(out), redacted=redacted)
    with store_of(place) as store:
        barred = without_consent(store, provenance(snapshot.path)["annotators"], purpose)

        def refuse(row: dict[str, Any]) -> str | None:
            return None if barred.isdisjoint(row["annotators"]) else "no consent"

        result = write(snapshot.path, format, Path(out), refuse=refuse, redacted=redacted)
        record_file(store, "export", result.out, snapshot=snapshot.hash, purpose=purpose)
    return result


def _snapshot(workspace: Place, data: str | Path | None) -> Artifact:
    if data is not None and Path(data).is_dir():
        return find_artifact(None, str(data), "snapshot")
    place = workspace_at(workspace)
    if data is not None:
        return find_artifact(place.artifacts, str(data), "snapshot")
    there = list_artifacts(place.artifacts, "snapshot")
    if not there:
        raise InputError(f"there is no snapshot in {place.root} to export; make one with: prefloop snapshot")
    return there[-1]
