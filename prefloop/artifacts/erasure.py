"""Erasing what an artifact holds: its payload goes, its manifest stays as a tombstone under the old hash.

The manifest is no part of the hash, so it may say that its files were erased, and when; lineage goes on through it.
Whatever was made from it is flagged in its own manifest: it learnt from what is no longer there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from prefloop.artifacts.files import write_json
from prefloop.artifacts.folder import MANIFEST, Artifact, list_artifacts


def bury(artifact: Artifact, *, at: str, subject: str, reason: str) -> None:
    """Remove the payload of an artifact and say so in its manifest; `at` is when (UTC, ISO 8601), `subject` an id."""
    for path in artifact.path.iterdir():
        if path.name == MANIFEST:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    kept = {"kind", "name", "hash", "created", "code", "seeds", "parents", "files", "erased_parents"}
    manifest = {key: value for key, value in artifact.manifest.items() if key in kept}
    write_json(artifact.path / MANIFEST, manifest | {"erased": {"at": at, "subject": subject, "reason": reason}})


def descendants(root: Path, hashes: Iterable[str]) -> list[Artifact]:
    """Every artifact below `root` that was made from one of these, at any remove, oldest first."""
    there = list_artifacts(root, erased=True)
    behind = set(hashes)
    found: dict[str, Artifact] = {}
    grown = True
    while grown:
        new = [one for one in there if one.hash not in found and behind.intersection(one.parents)]
        found.update((one.hash, one) for one in new)
        behind.update(one.hash for one in new)
        grown = bool(new)
    return [one for one in there if one.hash in found]


def flag(artifact: Artifact, hashes: Iterable[str], *, at: str) -> None:
    """Note in an artifact's manifest that these ancestors of it were erased."""
    known = dict(artifact.manifest.get("erased_parents", {}))
    known.update((digest, at) for digest in hashes if digest not in known)
    write_json(artifact.path / MANIFEST, artifact.manifest | {"erased_parents": known})
