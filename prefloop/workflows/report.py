"""One page about an artifact: what it is made of, how its training went, what was measured on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefloop.artifacts.folder import Artifact, find_artifact, lineage, list_artifacts, read_manifest
from prefloop.artifacts.workspace import Workspace
from prefloop.errors import InputError
from prefloop.version import __version__
from prefloop.workflows.places import Place, workspace_or_none

DATA = "report.json"
"""In a report artifact: everything that its page was made from."""
GUARD_FILE = "guard.json"
"""In a policy that was trained under watch: what the guard saw."""


def report(artifact: str | Path | None = None, *, workspace: Place = None, out: str | Path | None = None) -> Path:
    """Write the page about `artifact` (a name, a hash or a folder; otherwise the newest report or policy) to `out`.

    `out` defaults to `report.html` in the workspace, or in the current folder without one. Figures that nobody stored
    are listed as not measured. Raises InputError when there is no such artifact.
    """
    from prefloop.audits.report import write_report

    place = workspace_or_none(workspace)
    found = _wanted(place, artifact)
    target = Path(out) if out is not None else (place.root if place else Path.cwd()) / "report.html"
    return write_report(report_data(place, found), target)


def report_data(place: Workspace | None, artifact: Artifact) -> dict[str, Any]:
    """What the page says, in the words of `prefloop.audits.report.write_report`; every figure comes from a manifest."""
    stored = artifact.path / DATA
    if stored.is_file():
        return dict(json.loads(stored.read_text(encoding="utf-8")))
    root = place.artifacts if place else None
    chain = [read_manifest(Path(link["path"])) for link in lineage(root, artifact) if not link.get("missing")]
    snapshots = [link for link in chain if link.kind == "snapshot"]
    data: dict[str, Any] = {
        "title": artifact.kind.replace("_", " ") + ("" if artifact.name == artifact.kind else f" {artifact.name}"),
        "created": artifact.manifest.get("created"),
        "seconds": artifact.manifest.get("seconds"),
        "version": __version__,
        "seed": artifact.manifest.get("seeds", {}).get("seed"),
        "simulated": any(snapshot.manifest.get("simulated") for snapshot in snapshots),
        "training": _curves(chain),
        "data": [snapshot_source(number, snapshot) for number, snapshot in enumerate(reversed(snapshots), 1)],
        "lineage": lineage(root, artifact),
        "metrics": {name: value for name, value in artifact.manifest.get("metrics", {}).items() if _is_figure(value)},
        "settings": artifact.manifest.get("settings", {}),
        "seeds": artifact.manifest.get("seeds", {}),
        "versions": {"prefloop": artifact.manifest.get("code")},
    }
    watched = artifact.path / GUARD_FILE
    if watched.is_file():
        data["guard"] = json.loads(watched.read_text(encoding="utf-8"))
    return data | _evaluations(root, artifact)


def _wanted(place: Workspace | None, artifact: str | Path | None) -> Artifact:
    if artifact is not None:
        if place is None and not Path(artifact).is_dir():
            raise InputError(f"no folder {str(artifact)!r}, and no workspace here to look for that name in")
        return find_artifact(place.artifacts if place else None, str(artifact))
    if place is None:
        raise InputError("a report about what? Name an artifact's folder, or work in a workspace")
    for kind in ("report", "policy", "reward_model", "snapshot"):
        if there := list_artifacts(place.artifacts, kind):
            return there[-1]
    raise InputError(f"{place.root} holds nothing to report on yet; start with: prefloop demo, or prefloop import")


def _curves(chain: list[Artifact]) -> dict[str, list[dict[str, Any]]]:
    """The metrics over time of each method in the chain; of two runs of one method, the nearer one."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for link in chain:
        file = link.path / "metrics.jsonl"
        if "method" in link.manifest and file.is_file():
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            curves.setdefault(link.manifest["method"], rows)
    return curves


def snapshot_source(number: int, snapshot: Artifact) -> dict[str, Any]:
    """Where one snapshot's rows came from."""
    manifest = snapshot.manifest
    metrics, settings = manifest.get("metrics", {}), manifest.get("settings", {})
    who = {"people": "person", "imported": "imported", "simulated": "simulated", "ai": "ai"}
    return {
        "round": settings.get("round") or number,
        "kind": settings.get("as"),
        "rows": metrics.get("rows"),
        "annotators": {who[kind]: n for kind, n in metrics.get("answers", {}).items() if n},
        "source": ", ".join(manifest.get("sources", {})),
        "licence": ", ".join(manifest.get("licences", {})),
        "hash": snapshot.hash,
        "ledger": manifest.get("ledger", {}),
    }


def _evaluations(root: Path | None, artifact: Artifact) -> dict[str, Any]:
    """What was measured on this artifact, from the evaluations that name it as their parent; the newest counts."""
    found: dict[str, Any] = {}
    for evaluation in list_artifacts(root, "evaluation") if root is not None else []:
        if artifact.hash in evaluation.parents:
            metrics = evaluation.manifest.get("metrics", {})
            if "accuracy" in metrics:
                found["reward_model"] = metrics
            found |= {key: metrics[key] for key in ("win_rate", "gold") if key in metrics}
    return found


def _is_figure(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, int | float) and not isinstance(value, bool))
