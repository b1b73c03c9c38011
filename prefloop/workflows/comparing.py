"""`prefloop compare`: training runs side by side, and what each paid in KL for its reward; `sweep` makes such runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefloop.artifacts.folder import MANIFEST, Artifact, find_artifact, read_artifact
from prefloop.artifacts.workspace import Workspace
from prefloop.audits.comparison import write_comparison
from prefloop.errors import InputError
from prefloop.evaluation.interval import mean_interval
from prefloop.generation.policy import Policy
from prefloop.generation.sampler import Sampling
from prefloop.records import as_messages, prompt_id
from prefloop.rewards.composition import scored
from prefloop.settings import merge, parse_overrides
from prefloop.training.run import read_metrics
from prefloop.workflows.evaluating import asked_prompts, divergence
from prefloop.workflows.places import Place, workspace_or_none
from prefloop.workflows.references import model_at, reward_at
from prefloop.workflows.training import train

Say = Callable[[str], None]
UNTOLD = {"name", "parents", "device", "data_sha256"}
"""Settings whose difference says nothing about a method."""
ALWAYS = ("method",)


def compare(
    runs: Sequence[str | Path],
    *,
    reward: str | Path | None = None,
    prompts: Sequence[Any] | str | Path | None = None,
    reference: str | None = None,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    out: str | Path = "comparison.html",
    workspace: Place = None,
    log: Say | None = None,
) -> dict[str, Any]:
    """Put trained models side by side: what they were, their last metrics, and how they differ. Writes a page to `out`.

    With `reward` (a reward model, or a YAML of the parts of a reward) each policy answers `prompts` (a list, a file, a
    snapshot's held-out ones, or fresh tasks; the first `limit` of them), and its mean reward stands against its KL from
    `reference` (without it, the policy that the first run started from), in nats per sequence, both with 95 % bootstrap
    intervals over prompts: the frontier. Runs that differ in one number only are joined by a line.

    Returns `runs` (one mapping each: run, method, settings, steps, seconds, metrics, and where measured reward, kl,
    length, terminated), `differ` (names of the settings that differ), `reward`, `reference`, `page`.
    Raises InputError for a run that is not there, and for other kinds than policies where a reward is given.
    """
    place = workspace_or_none(workspace)
    say = log or (lambda words: print(words, file=sys.stderr, flush=True))
    if len(runs) == 0:
        raise InputError("which runs? for example: prefloop compare my-dpo my-ipo --reward my-reward-model")
    found = [_artifact(run, place) for run in runs]
    differ = _differing([artifact.manifest["settings"] for artifact in found])
    rows = [_row(str(run), artifact, differ) for run, artifact in zip(runs, found, strict=True)]
    result: dict[str, Any] = {"runs": rows, "differ": differ, "reward": None, "reference": None}
    if reward is not None:
        if wrong := [row["run"] for row, a in zip(rows, found, strict=True) if a.kind != "policy"]:
            raise InputError(f"{wrong[0]} is no policy; a reward can only be measured on policies")
        base = reference or str(found[0].manifest["settings"].get("policy", "builtin"))
        result |= {"reward": str(reward), "reference": base}
        asked = [as_messages(p) for p in asked_prompts(prompts, seed, place)[:limit]]
        judge = reward_at(reward, device, dtype, place)
        origin = Policy(model_at(base, "policy", place), device=device, dtype=dtype, log=say)
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
        groups = [prompt_id(p) for p in asked]
        for row, artifact in zip(rows, found, strict=True):
            say(f"sampling {len(asked)} answers of {row['run']}")
            policy = Policy(str(artifact.path), device=device, dtype=dtype, log=say)
            answers = [group[0] for group in policy.answer(asked, 1, sampling, seed=seed)]
            scores = scored(judge, asked, [answer.text for answer in answers]).total
            row["reward"] = mean_interval(scores, groups, seed=seed).as_dict()
            row["kl"] = divergence(policy, origin, asked, answers, seed)
            row["length"] = mean_interval([len(a.sample.ids) for a in answers], groups, seed=seed).as_dict()
            row["terminated"] = mean_interval([float(a.terminated) for a in answers], groups, seed=seed).as_dict()
    page = write_comparison(result, Path(out))
    return result | {"page": str(page)}


def sweep(
    method: str,
    values: Mapping[str, Sequence[Any]],
    run: str | Path | None = None,
    *,
    data: str | Path | None = None,
    policy: str | Path | None = None,
    out: str | Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    resume: bool = False,
    device: str | None = None,
    dtype: str | None = None,
    workspace: Place = None,
    log: Say | None = None,
    **comparing: Any,
) -> dict[str, Any]:
    """Train once for each value of one setting, `{"beta": [0.05, 0.1, 0.5]}`, then `compare` the results.

    The arguments up to `workspace` are those of `train`; with `out` each run is a folder in it (`beta-0.1`), beside the
    page `comparison.html`. `comparing` goes to `compare`: reward, prompts, limit, ...
    Raises InputError when not exactly one setting is named.
    """
    if len(values) != 1:
        raise InputError(f"a sweep is over one setting, such as beta=0.05,0.1,0.5; got {', '.join(values) or 'none'}")
    ((key, several),) = values.items()
    laid = overrides if isinstance(overrides, Mapping) else parse_overrides(overrides)
    made: list[str] = []
    for value in several:
        name = f"{key}-{value}"
        result = train(
            method,
            run,
            data=data,
            policy=policy,
            out=None if out is None else _in_folder(Path(out), name),
            overrides=merge(merge({"name": f"{method}-{name}"}, laid), parse_overrides([f"{key}={value}"])),
            resume=resume,
            device=device,
            dtype=dtype,
            workspace=workspace,
            log=log,
        )
        made.append(result["artifact"])
    places = {name: given for name, given in (("device", device), ("dtype", dtype)) if given is not None}
    page = Path("comparison.html") if out is None else Path(out) / "comparison.html"
    return compare(made, **{"out": page, "workspace": workspace, "log": log, **places, **comparing})


def _in_folder(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def _artifact(ref: str | Path, place: Workspace | None) -> Artifact:
    artifact = (
        read_artifact(Path(ref))
        if (Path(ref) / MANIFEST).is_file()
        else find_artifact(place.artifacts if place else None, str(ref))
    )
    if "method" not in artifact.manifest:
        raise InputError(f"{ref} is a {artifact.kind} that no training run made; prefloop runs lists those that are")
    return artifact


def _flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """{"lora": {"rank": 4}} as {"lora.rank": 4}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return flat


def _differing(all_settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the settings that are not the same in all runs, in the order in which they stand."""
    flat = [_flat(settings) for settings in all_settings]
    names = dict.fromkeys(name for one in flat for name in one)
    return [n for n in names if n not in UNTOLD and any(one.get(n) != flat[0].get(n) for one in flat)]


def _row(run: str, artifact: Artifact, differ: Sequence[str]) -> dict[str, Any]:
    manifest, settings = artifact.manifest, _flat(artifact.manifest["settings"])
    steps = max((int(row["step"]) for row in read_metrics(artifact.path / "metrics.jsonl")), default=0)
    return {
        "run": artifact.name if Path(run).is_dir() else run,
        "method": manifest["method"],
        "settings": {name: settings.get(name) for name in dict.fromkeys((*ALWAYS, *differ))},
        "steps": steps,
        "seconds": manifest.get("seconds"),
        "metrics": {
            name: value for name, value in manifest.get("metrics", {}).items() if name not in ("step", "epoch")
        },
        "hash": artifact.hash,
        "path": str(artifact.path),
    }
