"""What somebody said leaves the store, the snapshots, the exports and whatever else lies in the workspace.

Files are cleaned first and the store last: as long as anything is left to be done, erasing again does it.
"""

from __future__ import annotations

import gzip
import html
import json
import lzma
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefloop.artifacts.erasure import bury, descendants, flag
from prefloop.artifacts.files import write_text
from prefloop.artifacts.folder import MANIFEST, Artifact, list_artifacts, read_manifest
from prefloop.artifacts.workspace import Workspace
from prefloop.errors import RunError
from prefloop.records import as_messages, prompt_id
from prefloop.snapshots.build import snapshot_rows
from prefloop.store.backup import note_removed, recorded_files
from prefloop.store.erasure import Erased, erase_subject, scrub
from prefloop.workflows.places import Place, store_of, workspace_at

SHORTEST = 12
"""Characters of a text that is looked for in files; a shorter one stands in many that it does not come from."""
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
BLIND = (".safetensors", ".db", ".lock", ".bin", ".gguf")
"""Suffixes of files that hold no text to be found: weights, and the database, which is erased by itself."""


def erase(subject: str, *, reason: str = "erased on request", workspace: Place = None) -> dict[str, Any]:
    """Erase an annotator, an answer, a prompt or a completion (its id), with everything that follows from it.

    Removes the text from the database file (and rewrites it), from snapshots and other artifacts that hold it (their
    manifests stay as tombstones), from files that `prefloop export` wrote and from rejected rows. Returns `subject`,
    `kind`, `erased` (rows), `answers`, `prompts`, `completions` (numbers), `snapshots` and `artifacts` that were
    emptied, `exports` that were removed, `models` that learnt from it (they are flagged and stay: train them again),
    `backups` that still hold it, `remaining` (files that hold it and could not be cleaned) and `beyond` (in words, what
    no program can reach). Erasing again what was erased finishes what was interrupted.

    Raises InputError for an unknown id, RunError when another process has the database.
    """
    place = workspace_at(workspace)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    sweep = _Sweep(place, reason, at)
    with store_of(place) as store:
        files = recorded_files(store, "export")
        done = erase_subject(store, subject, reason=reason, before=lambda found: sweep.clean(found, files))
        note_removed(store, sweep.removed)
        beyond = scrub(store)
        backups = [row.path for row in recorded_files(store, "backup") if Path(row.path).exists()]
    return {
        "subject": subject,
        "kind": done.kind,
        "erased": done.now,
        "answers": len(done.answers),
        "prompts": len(done.prompts),
        "completions": len(done.completions),
        "snapshots": sweep.snapshots,
        "artifacts": sweep.artifacts,
        "exports": sweep.exports,
        "models": sweep.models,
        "backups": backups,
        "remaining": sweep.remaining,
        "beyond": beyond,
    }


@dataclass
class _Sweep:
    """Goes through the files of a workspace."""

    place: Workspace
    reason: str
    at: str
    snapshots: list[str] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)
    exports: list[str] = field(default_factory=list)
    models: list[dict[str, str]] = field(default_factory=list)
    remaining: list[str] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)

    def clean(self, done: Erased, exported: Iterable[Any]) -> None:
        needles = _needles(done.texts)
        # Those that an earlier attempt emptied, before it was interrupted, count as well.
        snapshots = list_artifacts(self.place.artifacts, "snapshot", erased=True)
        emptied = {one.hash for one in snapshots if one.erased and one.manifest["erased"]["subject"] == done.subject}
        for one in snapshots:
            if not one.erased and _holds(one, done):
                bury(one, at=self.at, subject=done.subject, reason=self.reason)
                self.snapshots.append(str(one.path))
                emptied.add(one.hash)
        self._exports(exported, emptied, needles)
        self._artifacts(done.subject, needles)
        self._rejects(needles)
        self._others(needles)
        self._descendants(emptied)

    def _exports(self, exported: Iterable[Any], snapshots: set[str], needles: list[bytes]) -> None:
        for row in exported:
            path = Path(row.path)
            if not path.exists():
                continue
            if row.snapshot in snapshots or any(_found_in(file, needles) for file in _files(path)):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
                self.exports.append(row.path)
                self.removed.append(row.number)

    def _artifacts(self, subject: str, needles: list[bytes]) -> None:
        """Reports, evaluations, samples: what holds the text is emptied. A model stays, and its files are named."""
        for one in list_artifacts(self.place.artifacts):
            hits = [file for file in _files(one.path) if _found_in(file, needles)]
            if not hits:
                continue
            if any(next(one.path.rglob(pattern), None) for pattern in WEIGHTS):
                self.remaining += [str(file) for file in hits]
            else:
                bury(one, at=self.at, subject=subject, reason=self.reason)
                self.artifacts.append(str(one.path))

    def _rejects(self, needles: list[bytes]) -> None:
        for path in sorted((self.place.root / "rejects").glob("*.jsonl")):
            if _found_in(path, needles):
                lines = path.read_bytes().splitlines(keepends=True)
                kept = [line for line in lines if not any(needle in line for needle in needles)]
                write_text(path, b"".join(kept).decode("utf-8", "replace"))

    def _others(self, needles: list[bytes]) -> None:
        """Whatever else lies in the workspace belongs to its owner: it is named, not touched."""
        for path in _files(self.place.root):
            if self.place.artifacts not in path.parents and _found_in(path, needles):
                self.remaining.append(str(path))

    def _descendants(self, emptied: set[str]) -> None:
        for one in descendants(self.place.artifacts, emptied):
            flag(read_manifest(one.path), emptied.intersection(one.parents) or emptied, at=self.at)
            self.models.append({"kind": one.kind, "name": one.name, "hash": one.hash, "path": str(one.path)})


def _holds(snapshot: Artifact, done: Erased) -> bool:
    """Whether a row of this snapshot comes from what is erased."""
    answers, prompts = set(done.answers), set(done.prompts)
    try:
        return any(
            not answers.isdisjoint(row["answers"])
            or done.subject in row["annotators"]
            or (bool(prompts) and prompt_id(as_messages(row["prompt"])) in prompts)
            for row in snapshot_rows(snapshot.path)
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{snapshot.path} cannot be read, so nothing was erased: {error}; remove or restore it"
        ) from None


def _needles(texts: Iterable[str]) -> list[bytes]:
    """The texts as they stand in files: plain, in JSON with and without escapes, and in HTML."""
    found: set[bytes] = set()
    for text in texts:
        if len(text) >= SHORTEST:
            forms = (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], html.escape(text))
            found.update(form.encode("utf-8", "surrogatepass") for form in forms)
    return sorted(found)


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for one in sorted(path.rglob("*")):
        if one.is_file() and not one.is_symlink() and one.suffix not in BLIND and one.name != MANIFEST:
            yield one


def _found_in(path: Path, needles: list[bytes]) -> bool:
    if not needles or path.name.startswith("prefloop.db"):
        return False
    content = _content(path)
    return any(needle in content for needle in needles)


def _content(path: Path) -> bytes:
    """A file's bytes, unpacked where they are packed."""
    try:
        if path.suffix == ".gz":
            return gzip.decompress(path.read_bytes())
        if path.suffix == ".xz":
            return lzma.decompress(path.read_bytes())
        if path.suffix == ".parquet":
            import pyarrow.parquet

            rows = pyarrow.parquet.read_table(path).to_pylist()
            return json.dumps(rows, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
    except (OSError, EOFError, ValueError, lzma.LZMAError, ImportError):
        return path.read_bytes()
    return path.read_bytes()
