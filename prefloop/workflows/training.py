"""`prefloop train`: resolve settings, data and parents, run a method, and write what it made as an artifact."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from prefloop.algorithms import METHODS
from prefloop.artifacts.files import sha256_of, write_json
from prefloop.artifacts.folder import MANIFEST, Artifact, find_artifact, list_artifacts, read_manifest, write_artifact
from prefloop.artifacts.workspace import Workspace
from prefloop.errors import InputError
from prefloop.labelers.task_text import task_text
from prefloop.models.load import BUILTIN, resolve
from prefloop.records import Ledger, content_hash
from prefloop.settings import as_dict, build_together, check_choice, merge, parse_overrides, read_yaml
from prefloop.snapshots.build import KINDS
from prefloop.store.feedback import answers
from prefloop.training.memory import mebibytes, model_bytes
from prefloop.training.method import Inputs, Method
from prefloop.training.offline import train_offline
from prefloop.training.online import train_online
from prefloop.training.online_memory import online_memory
from prefloop.training.online_settings import OnlineSettings
from prefloop.training.run import Run, RunSettings, read_metrics
from prefloop.training.steering import check
from prefloop.training.trackers import Trackers
from prefloop.workflows.data import snapshot
from prefloop.workflows.guarding import run_guard
from prefloop.workflows.places import Place, store_of, workspace_at, workspace_or_none
from prefloop.workflows.references import artifact_at, kind_of

JUDGED = ("comparisons", "rankings", "ratings", "approvals", "edits", "flags")
"""Snapshots that a reward model can learn from by themselves."""
SNAPSHOT_KINDS: dict[str, tuple[str, ...]] = {
    "feedback": ("feedback", *JUDGED),
    "comparisons": ("comparisons",),
    "approvals": ("approvals", "flags", "comparisons", "feedback"),
    "rankings": ("rankings", "edits", "comparisons", "feedback"),
    "demonstrations": ("demonstrations", "comparisons"),
    "prompts": ("comparisons", "demonstrations", "feedback", *JUDGED[1:]),
    "rewards": ("ratings", "approvals"),
    "text": (),
}
"""Kinds of snapshot that serve each need of a method, the best first."""


def train(
    method: str,
    run: str | Path | None = None,
    *,
    data: str | Path | Sequence[str | Path] | None = None,
    policy: str | Path | None = None,
    out: str | Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    resume: bool = False,
    device: str | None = None,
    dtype: str | None = None,
    workspace: Place = None,
    log: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train with `method` and return `artifact`, `steps`, `seconds`, `metrics` and `ledger`.

    `run` is a YAML of settings; the arguments and `overrides` ("key=value", or a mapping) are laid on it. Without
    `data` the newest snapshot that fits is taken, or one is made of the workspace's answers; several `data` are one
    mixture, which reward_model takes. With `out` the result goes
    there and no workspace is needed.
    Raises InputError for wrong settings, data or models; RunError when the work fails.
    """
    started = time.monotonic()
    log = log or (lambda words: print(words, file=sys.stderr, flush=True))
    check_choice("train", method, tuple(METHODS))
    way = METHODS[method]
    mapping, base = _mapping(method, run)
    given = {"policy": policy, "device": device, "dtype": dtype}
    mapping = merge(mapping, {key: str(value) for key, value in given.items() if value is not None})
    if data is not None:
        mapping["data"] = str(data) if isinstance(data, str | Path) else [str(one) for one in data]
    laid = overrides if isinstance(overrides, Mapping) else parse_overrides(overrides)
    parts = settings_of(method, merge(mapping, laid), str(run or f"train {method}"))
    settings: RunSettings = parts[0]
    online = _online(parts)

    place = workspace_at(workspace) if out is None else workspace_or_none(workspace)
    parents: list[str] = []

    def found(ref: str, kind: str) -> str:
        """The directory that `ref` names, as a parent of what is made."""
        if kind == "snapshot" and Path(ref).is_file():
            return ref
        artifact = artifact_at(ref, kind, place)
        if artifact is None and kind == "snapshot":
            raise InputError(f"no data {ref!r}: neither a file nor a snapshot of this workspace")
        if artifact is None:
            return resolve(ref)
        parents.append(artifact.hash)
        return str(artifact.path)

    sources = _data(place, settings.data, method, parents, log)
    again = way.makes == "reward_model" and kind_of(settings.policy, place) == "reward_model"
    start = str(BUILTIN) if way.data == "text" else found(settings.policy, "reward_model" if again else "policy")
    # A snapshot is a parent and named by its hash; a plain file may change between a kill and a resume.
    files = [sha256_of(source) for source in sources if source.is_file()]
    read = {"data_sha256": files[0] if len(files) == 1 else files} if files else {}
    if online is not None and online.ptx_data is not None and Path(online.ptx_data).is_file():
        read["ptx_data_sha256"] = sha256_of(Path(online.ptx_data))
    written = {key: value for part in parts for key, value in as_dict(part).items()}
    resolved = {"method": method, **written, **read, "parents": sorted(parents)}
    folder = _run_folder(place, out, settings.name or method, resolved)
    job = Run(folder, method, settings, resolved, log, Trackers(folder, resolved, settings.trackers, log))
    if resume and (finished := _finished(out, resolved)) is not None:
        log(f"this run is finished: {finished.path}")
        shutil.rmtree(job.folder, ignore_errors=True)  # a kill between the result and the end of the run leaves it
        return _result(finished, started)
    if out is not None:
        _check_free(Path(out))

    with contextlib.closing(job):
        job.begin(resume)
        ledger = Ledger()
        texts = {"task_text": lambda s: task_text(10**9, s)}
        store = place.artifacts if place is not None else None
        first, more = next(iter(sources), None), tuple(sources[1:])
        inputs = Inputs(start, first, found, base, texts, ledger, online, store, more)
        algorithm = way.build(parts[-1], job, inputs)
        ledger.check(settings.max_dropped, ", ".join(map(str, sources)) or method)
        log(f"{method}: {ledger.used} rows ({ledger.words()})")
        takes = _memory(algorithm.model) if online is None else online_memory(algorithm.roles, settings)
        log(f"memory: {takes}")
        watch = None
        if online is not None and online.guard is not None:
            watch = run_guard(online.guard, algorithm.roles, job, inputs)
        summary = train_offline(algorithm, job) if online is None else train_online(algorithm, job, watch)

        def fill(folder: Path) -> None:
            (algorithm if online is None else algorithm.roles).save(folder)
            (folder / "metrics.jsonl").write_bytes((job.folder / "metrics.jsonl").read_bytes())
            write_json(folder / "ledger.json", ledger.as_dict())
            if watch is not None:
                write_json(folder / "guard.json", watch.report())

        artifact = write_artifact(
            store if store is not None else Path(str(out)).parent,
            way.makes,
            settings.name or method,
            fill,
            settings=resolved,
            parents=sorted(set(parents)),
            seeds={"seed": settings.seed},
            metrics={**_last(job.metrics), **summary},
            extra={
                "method": method,
                "ledger": ledger.as_dict(),
                "changes": job.steering.written(),
                "seconds": round(time.monotonic() - started, 1),
            },
            at=Path(out) if out is not None else None,
        )
        job.finish(artifact.path)
        log(f"{way.makes}: {artifact.path}")
        return _result(artifact, started)


def settings_of(method: str, mapping: Mapping[str, Any], where: str) -> list[Any]:
    """The dataclasses of a method's settings: first RunSettings, last its own. Raises InputError that says `where`."""
    way = METHODS[method]
    parts = build_together(way.settings, {**way.defaults, **mapping}, where)
    check(parts[0].changes, online=_online(parts) is not None)
    return parts


def _online(parts: Sequence[Any]) -> OnlineSettings | None:
    return next((part for part in parts if isinstance(part, OnlineSettings)), None)


def _memory(model: nn.Module) -> str:
    return mebibytes("the models take", model_bytes({"model": model}, {})) + ", and a micro-batch what it takes"


def train_methods() -> list[dict[str, str]]:
    """Every method: its `name`, what it needs (`data`), what it `makes` and optimises (`summary`), and its `cost`."""
    return [
        {"name": name, "data": way.data, "makes": way.makes, "summary": way.summary, "cost": way.cost}
        for name, way in METHODS.items()
    ]


def _mapping(method: str, run: str | Path | None) -> tuple[dict[str, Any], Path]:
    """The settings of a run file, its paths made absolute, and its folder."""
    if run is None:
        return {}, Path.cwd()
    mapping, base = read_yaml(run), Path(run).resolve().parent
    named = mapping.pop("method", method)
    if named != method:
        raise InputError(f"{run} is a run of {named!r}, not of {method!r}; use: prefloop train {named} {run}")

    def own(ref: Any) -> Any:
        return str((base / ref).resolve()) if isinstance(ref, str) and (base / ref).exists() else ref

    for key in ("policy", "data", "reward_model", "reference", "ptx_data"):
        if key in mapping:
            mapping[key] = [own(ref) for ref in mapping[key]] if isinstance(mapping[key], list) else own(mapping[key])
    return mapping, base


def _data(
    place: Workspace | None,
    given: str | list[str] | None,
    method: str,
    parents: list[str],
    log: Callable[[str], None],
) -> list[Path]:
    """Where the rows are; a snapshot becomes a parent."""
    need = METHODS[method].data
    if need == "text":
        return []
    refs = given if isinstance(given, list) else [given]
    if len(refs) > 1 and need != "feedback":
        raise InputError(f"{method} reads one data set, got {len(refs)}: {', '.join(map(str, refs))}")
    return [_data_set(place, ref, METHODS[method], parents, log) for ref in refs]


def _data_set(
    place: Workspace | None, ref: str | None, way: Method, parents: list[str], log: Callable[[str], None]
) -> Path:
    if ref is not None and Path(ref).is_file():
        return Path(ref)
    if ref is not None:
        if place is None and not (Path(ref) / MANIFEST).is_file():
            raise InputError(f"no data file {ref!r}, and no workspace in which it could be the name of a snapshot")
        artifact = find_artifact(place.artifacts if place else None, ref, "snapshot")
    else:
        if place is None:
            raise InputError(
                f"say what to train on: --data FILE (it needs {way.data}), or work in a workspace with snapshots"
            )
        there = [a for a in list_artifacts(place.artifacts, "snapshot") if _rows_kind(a) in SNAPSHOT_KINDS[way.data]]
        if not there:
            there = [_first_snapshot(place, way, log)]
        best = next(k for k in SNAPSHOT_KINDS[way.data] if any(_rows_kind(a) == k for a in there))
        wanted = there if way.data == "feedback" else [a for a in there if _rows_kind(a) == best]
        artifact = find_artifact(None, str(wanted[-1].path))
        log(f"data: the newest snapshot of {_rows_kind(artifact)}, {artifact.path.name}")
    parents.append(artifact.hash)
    return artifact.path


def _first_snapshot(place: Workspace, way: Method, log: Callable[[str], None]) -> Artifact:
    """Freeze the workspace's answers, because nobody has yet. Raises InputError where there are none that fit."""
    with store_of(place) as store:
        given = {kind for kind in (*JUDGED, "demonstrations") if _first(answers(store, kind=KINDS[kind]))}
    kinds = [kind for kind in SNAPSHOT_KINDS[way.data] if kind in given]
    if kinds:
        kind = "feedback" if way.data == "feedback" and len(given) > 1 else kinds[0]
        made = snapshot(kind, workspace=place).artifact
        log(f"no snapshot yet: froze the workspace's {kind} as {made.path.name}")
        return made
    kind = {"feedback": "comparisons", "rewards": "ratings"}.get(way.data, way.data)
    raise InputError(
        f"{place.root} holds no {way.data}; bring some with: prefloop import FILE --as {kind}, or give --data FILE"
    )


def _first(rows: Iterator[Any]) -> bool:
    return next(rows, None) is not None


def _rows_kind(snapshot: Artifact) -> str | None:
    """What a snapshot was made as."""
    kind: str | None = snapshot.manifest["settings"].get("as")
    return kind


def _run_folder(place: Workspace | None, out: str | Path | None, name: str, resolved: dict[str, Any]) -> Path:
    if out is not None:
        target = Path(out).resolve()
        return target.with_name(f".{target.name}.run")
    assert place is not None
    return place.artifacts / ".runs" / f"{name}-{content_hash(resolved)[:8]}"


def _finished(out: str | Path | None, resolved: dict[str, Any]) -> Artifact | None:
    if out is None or not (Path(out) / MANIFEST).is_file():
        return None
    artifact = read_manifest(Path(out))
    return artifact if artifact.manifest.get("settings") == resolved else None


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not empty; give another --out or remove it")


def _last(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """The last value of every metric."""
    result: dict[str, Any] = {}
    for row in metrics:
        result |= row
    return result


def _result(artifact: Artifact, started: float) -> dict[str, Any]:
    metrics = {k: v for k, v in artifact.manifest["metrics"].items() if k != "step"}
    steps = max((int(row["step"]) for row in read_metrics(artifact.path / "metrics.jsonl")), default=0)
    return {
        "artifact": str(artifact.path),
        "hash": artifact.hash,
        "steps": steps,
        "seconds": round(time.monotonic() - started, 1),
        "metrics": metrics,
        "ledger": artifact.manifest["ledger"],
    }
