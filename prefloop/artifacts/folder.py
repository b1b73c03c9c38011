"""An artifact: one stage's result in a folder of its own, named by the hash of its content.

`artifacts/<kind>/<name>-<hash8>/manifest.json` names the kind, the resolved settings, the code version, the seeds,
the parents' hashes and the SHA-256 of every payload file. The artifact's hash is the SHA-256 over the
sorted (path, sha256) of those files, the manifest excluded: the same content has the same hash.
"""

from __future__ import annotations

import datetime
import json
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.artifacts.files import folder_hash, payload_hashes, sha256_of, write_folder, write_json
from prefloop.errors import InputError, RunError
from prefloop.version import code_version

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """A stage's result on disk. `manifest` is the parsed `manifest.json`."""

    path: Path
    kind: str
    name: str
    hash: str
    manifest: dict[str, Any]

    @property
    def parents(self) -> list[str]:
        return [str(parent) for parent in self.manifest.get("parents", [])]

    @property
    def erased(self) -> bool:
        """Whether its files were erased because of what somebody said in them; the manifest alone is left."""
        return "erased" in self.manifest


def write_artifact(
    root: Path,
    kind: str,
    name: str,
    fill: Callable[[Path], None],
    *,
    settings: dict[str, Any],
    parents: Sequence[str],
    seeds: dict[str, int],
    metrics: dict[str, Any],
    extra: dict[str, Any] | None = None,
    at: Path | None = None,
) -> Artifact:
    """Write an artifact: `fill` puts the payload into the folder it is given; the rest is done here.

    The folder appears whole or not at all. `at` puts it at that exact path (which must be free or empty)
    and not under `root/<kind>/`. Raises RunError when the disk is full, InputError when `at` is taken.
    """
    if at is not None and at.exists() and (not at.is_dir() or any(at.iterdir())):
        raise InputError(f"{at} exists and is not empty; give another --out or remove it")
    parent = at.parent if at is not None else root / kind
    draft = parent / f".draft-{uuid.uuid4().hex[:8]}"

    def whole(folder: Path) -> None:
        fill(folder)
        hashes = payload_hashes(folder, MANIFEST)
        manifest = {
            "kind": kind,
            "name": name,
            "hash": folder_hash(hashes),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "code": code_version(),
            "settings": settings,
            "seeds": seeds,
            "parents": list(parents),
            "metrics": metrics,
            "files": hashes,
            **(extra or {}),
        }
        write_json(folder / MANIFEST, manifest)

    write_folder(draft, whole)
    manifest = json.loads((draft / MANIFEST).read_text(encoding="utf-8"))
    final = at if at is not None else parent / f"{name}-{manifest['hash'][:8]}"
    if at is not None and at.exists():
        at.rmdir()
    if final.exists():
        # The same content under the same name: the older manifest stays the record of who made it first.
        shutil.rmtree(draft)
        return read_artifact(final)
    draft.rename(final)
    return Artifact(final, kind, name, manifest["hash"], manifest)


def read_manifest(path: Path) -> Artifact:
    """The artifact at `path` without checking its files. Raises InputError when there is none."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        return Artifact(path, manifest["kind"], manifest["name"], manifest["hash"], manifest)
    except FileNotFoundError:
        raise InputError(f"{path} is not an artifact: it has no {MANIFEST}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path / MANIFEST} is damaged ({error}); restore it from a copy or train again") from None


def read_artifact(path: Path) -> Artifact:
    """The artifact at `path`, every file checked. Raises RunError when a file is missing or was changed."""
    artifact = read_manifest(path)
    if artifact.erased:
        when = artifact.manifest["erased"].get("at", "some time ago")
        raise RunError(f"what {path} held was erased on {when}; make it again from what is left, or use another one")
    expected: dict[str, str] = artifact.manifest.get("files", {})
    for name, digest in expected.items():
        file = path / name
        if not file.is_file():
            raise RunError(f"{path} lacks {name}, which its manifest lists; restore it or train again")
        if sha256_of(file) != digest:
            raise RunError(f"{file} does not match the SHA-256 in its manifest: it was changed or damaged; refused")
    if folder_hash(expected) != artifact.hash:
        raise RunError(f"{path / MANIFEST} names a hash that its own file list does not give; refused")
    return artifact


def list_artifacts(root: Path, kind: str | None = None, *, erased: bool = False) -> list[Artifact]:
    """Every artifact below `root`, oldest first; `erased`: also those of which the manifest alone is left."""
    there = [read_manifest(path.parent) for path in root.glob(f"{kind or '*'}/*/{MANIFEST}") if _visible(path, root)]
    found = [one for one in there if erased or not one.erased]
    return sorted(found, key=lambda a: (str(a.manifest.get("created", "")), (a.path / MANIFEST).stat().st_mtime_ns))


def find_artifact(root: Path | None, ref: str, kind: str | None = None) -> Artifact:
    """What `named_artifact` finds, every file checked."""
    return read_artifact(named_artifact(root, ref, kind).path)


def named_artifact(root: Path | None, ref: str, kind: str | None = None) -> Artifact:
    """By path, by hash (or a prefix of 6 or more), or by name (the newest); its files are not read.

    An evaluation has the name of what it measured, and is meant only where nothing else has that name.
    Raises InputError that lists what there is.
    """
    if (Path(ref) / MANIFEST).is_file():
        return read_manifest(Path(ref))
    there = list_artifacts(root, kind, erased=True) if root is not None else []
    there.sort(key=lambda one: not one.erased)  # one that was erased is meant only where nothing else fits
    by_hash = [a for a in there if len(ref) >= 6 and a.hash.startswith(ref)]
    by_name = sorted((a for a in there if ref in (a.name, a.path.name)), key=lambda a: a.kind != "evaluation")
    for found in (by_name, by_hash):
        if found:
            return found[-1]
    names = ", ".join(sorted({a.name for a in there})) or "none"
    raise InputError(f"no {kind or 'artifact'} named {ref!r} (neither a path, a hash nor a name); there is: {names}")


def lineage(root: Path | None, artifact: Artifact) -> list[dict[str, Any]]:
    """The chain from `artifact` back through its parents: kind, name, hash, path, parents, nearest first.

    Parents are looked for below `root` and, because a run with `--out` writes anywhere, beside the artifact. One that
    is not found is listed with `"missing": true`, so that a broken chain shows.
    """
    beside = [read_manifest(path.parent) for path in sorted(artifact.path.resolve().parent.glob(f"*/{MANIFEST}"))]
    there = list_artifacts(root, erased=True) if root is not None else []
    known = {a.hash: a for a in [*beside, *there]}
    known[artifact.hash] = artifact
    chain: list[dict[str, Any]] = []
    waiting, done = [artifact.hash], set()
    while waiting:
        digest = waiting.pop(0)
        if digest in done:
            continue
        done.add(digest)
        here = known.get(digest)
        if here is None:
            chain.append({"hash": digest, "missing": True, "parents": []})
            continue
        chain.append(
            {
                "kind": here.kind,
                "name": here.name,
                "hash": here.hash,
                "path": str(here.path),
                "created": here.manifest.get("created"),
                "parents": here.parents,
            }
        )
        waiting.extend(here.parents)
    return chain


def _visible(path: Path, root: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(root).parts)
