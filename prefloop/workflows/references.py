"""What people call a model: `builtin`, a folder, a hub id, or the name or hash of an artifact of the workspace."""

from __future__ import annotations

from pathlib import Path

from prefloop.artifacts.folder import MANIFEST, Artifact, find_artifact, named_artifact, read_artifact
from prefloop.artifacts.workspace import Workspace
from prefloop.errors import InputError
from prefloop.models.device import pick_device, pick_dtype
from prefloop.models.load import resolve
from prefloop.rewards.composition import Reward, compose
from prefloop.rewards.learned import LearnedReward, earning
from prefloop.settings import read_yaml


def artifact_at(ref: str, kind: str, place: Workspace | None) -> Artifact | None:
    """The artifact that `ref` names, every file checked; None for the built-in policy, a plain folder or a hub id.

    Raises InputError for a name that the workspace does not know, and for an artifact of another kind.
    """
    if ref == "builtin":
        return None
    if (Path(ref) / MANIFEST).is_file():
        found = read_artifact(Path(ref))
        if found.kind != kind:
            raise InputError(f"{ref} is a {found.kind}, and a {kind} is needed here")
        return found
    if Path(ref).exists() or place is None:
        return None
    try:
        return find_artifact(place.artifacts, ref, kind)
    except InputError:
        if "/" in ref:
            return None  # it may be a hub id
        raise


def model_at(ref: str, kind: str, place: Workspace | None) -> str:
    """The folder or hub id to load for `ref`. Raises InputError when it cannot be a model."""
    artifact = artifact_at(ref, kind, place)
    return resolve(ref) if artifact is None else str(artifact.path)


def kind_of(ref: str, place: Workspace | None) -> str | None:
    """The kind of the artifact that `ref` names, or None when it names none."""
    try:
        return named_artifact(place.artifacts if place is not None else None, ref).kind
    except InputError:
        return None


def of_parts(ref: str | Path) -> bool:
    """Whether a reward is named by the YAML that puts it together, and not by a reward model."""
    return Path(ref).suffix in (".yaml", ".yml")


def reward_at(ref: str | Path, device: str, dtype: str, place: Workspace | None) -> Reward:
    """A reward model, or what a YAML puts together: a run file's `reward`, or the parts alone."""
    where = pick_device(device)

    def learned(model: str) -> LearnedReward:
        return LearnedReward(model_at(model, "reward_model", place), pick_dtype(dtype, where), where)

    if of_parts(ref):
        parts = read_yaml(ref)
        return compose(parts.get("reward", parts), learned, base=Path(ref).resolve().parent, where=str(ref))
    return earning(learned(str(ref)))
