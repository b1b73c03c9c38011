"""From any artifact back to the answers that shaped it and the people who gave them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from prefloop.artifacts.folder import find_artifact
from prefloop.artifacts.folder import lineage as artifact_chain
from prefloop.errors import InputError
from prefloop.snapshots.build import annotator_kind, snapshot_rows
from prefloop.workflows.places import Place, workspace_or_none


def lineage(artifact: str | Path, *, workspace: Place = None) -> dict[str, Any]:
    """What `artifact` (a name, a hash or a folder) was made from.

    Returns `{"artifact": hash, "chain": [{"kind", "name", "hash", "path", "parents"}], "answers": [ids],
    "annotators": [{"id", "kind", "rows"}], "simulated": bool}`, the chain nearest first; `kind` is people,
    imported, simulated or ai, and `rows` counts the rows that an annotator had a part in. A parent that is not on
    disk is in the chain with `"missing": true`. Works without a workspace when `artifact` is a folder. Raises
    InputError when there is no such artifact.
    """
    place = workspace_or_none(workspace)
    root = place.artifacts if place else None
    if root is None and not Path(artifact).is_dir():
        raise InputError(
            f"no folder {str(artifact)!r}, and no workspace here to look for that name in; give --workspace"
        )
    found = find_artifact(root, str(artifact))
    chain = artifact_chain(root, found)
    answers, given = answers_behind(chain)
    annotators = [{"id": who, "kind": annotator_kind(who), "rows": n} for who, n in sorted(given.items())]
    return {
        "artifact": found.hash,
        "chain": chain,
        "answers": sorted(answers),
        "annotators": annotators,
        "simulated": any(annotator["kind"] in ("simulated", "ai") for annotator in annotators),
    }


def answers_behind(chain: list[dict[str, Any]]) -> tuple[set[str], Counter[str]]:
    """The answers in the snapshots of a chain, and how many rows each annotator had a part in."""
    answers: set[str] = set()
    given: Counter[str] = Counter()
    for link in chain:
        if link.get("kind") == "snapshot":
            for row in snapshot_rows(Path(link["path"])):
                answers.update(row["answers"])
                given.update(row["annotators"])
    return answers, given
