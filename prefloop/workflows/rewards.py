"""What is made of models after training: an average, one person's reward model, labels that one is sure of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefloop.artifacts.files import write_json, write_text
from prefloop.artifacts.folder import MANIFEST, read_artifact, write_artifact
from prefloop.datasets.feedback import samples_of
from prefloop.errors import InputError
from prefloop.evaluation.calibration import fit_temperature
from prefloop.functional.adaptation import adapted_head
from prefloop.labelers.confident import confident_pairs
from prefloop.models.device import pick_device, pick_dtype
from prefloop.models.feedback import ADAPTATION_KEY, ANSWERS_KEY, HEADS_KEY, TEMPERATURE_KEY
from prefloop.models.load import BIAS_KEY, save_model
from prefloop.records import content_hash
from prefloop.rewards.learned import LearnedReward, earning
from prefloop.snapshots.formats import load_comparisons
from prefloop.workflows.places import Place, workspace_or_none
from prefloop.workflows.references import model_at

WEIGHTS = "model.safetensors"
BESIDE = ("tokenizer", "vocab", "merges", "special", "chat_template", "generation_config")
"""How the names of the files begin that a model is copied with."""


def average(
    models: Sequence[str],
    *,
    kind: Literal["policy", "reward_model"] = "reward_model",
    name: str = "average",
    out: str | Path | None = None,
    comparisons: str | Path | None = None,
    device: str = "auto",
    workspace: Place = None,
) -> dict[str, Any]:
    """One model whose weights are the mean of several's.

    Of reward models: WARM (Ramé et al. 2024), https://arxiv.org/abs/2401.12187; of policies: the merging step of WARP
    (Ramé et al. 2024), https://arxiv.org/abs/2406.16768, in its linear form. The models must have started from the same
    weights and gone different ways (seed, learning rate, data, method); otherwise their mean means nothing. Reward
    models' temperatures are not the average's: it is fitted to held-out `comparisons` (a file, or the test side of a
    snapshot's folder), and is 1 without them.
    Returns {"artifact", "hash"}, of reward models "temperature" too. Raises InputError for fewer than two models or
    unlike ones.
    """
    place = workspace_or_none(workspace)
    if len(models) < 2:
        raise InputError(f"an average needs at least two models, got {len(models)}")
    if out is None and place is None:
        raise InputError("say where the average goes: out=DIR, or work in a workspace")
    folders = [Path(model_at(ref, kind, place)) for ref in models]
    for ref, folder in zip(models, folders, strict=True):
        if not (folder / WEIGHTS).is_file():
            raise InputError(f"{ref} has no {WEIGHTS}; an average is made of models in one file each")
    mean = _mean([load_file(folder / WEIGHTS) for folder in folders], models)

    def fill(folder: Path) -> None:
        for file in folders[0].iterdir():
            if file.is_file() and file.name.startswith(BESIDE):
                shutil.copy(file, folder / file.name)
        save_file(mean, folder / WEIGHTS, metadata={"format": "pt"})
        if kind == "policy":
            shutil.copy(folders[0] / "config.json", folder / "config.json")
        else:
            _reward_config(folders, folder, comparisons, device)

    artifact = write_artifact(
        place.artifacts if place is not None else Path(str(out)).parent,
        kind,
        name,
        fill,
        settings={"average": [str(ref) for ref in models]},
        parents=sorted({read_artifact(f).hash for f in folders if (f / MANIFEST).is_file()}),
        seeds={},
        metrics={},
        at=Path(out) if out is not None else None,
    )
    made = {"artifact": str(artifact.path), "hash": artifact.hash}
    if kind == "policy":
        return made
    return made | {"temperature": json.loads((artifact.path / "config.json").read_text("utf-8"))[TEMPERATURE_KEY]}


def _reward_config(folders: Sequence[Path], folder: Path, comparisons: str | Path | None, device: str) -> None:
    config = [json.loads((one / "config.json").read_text(encoding="utf-8")) for one in folders]
    kept = {key: value for key, value in config[0].items() if key not in (HEADS_KEY, ANSWERS_KEY)}
    kept[BIAS_KEY] = sum(float(one.get(BIAS_KEY) or 0.0) for one in config) / len(config)
    write_json(folder / "config.json", {**kept, TEMPERATURE_KEY: 1.0})
    if comparisons is not None:
        write_json(folder / "config.json", {**kept, TEMPERATURE_KEY: _temperature(folder, comparisons, device)})


def adapt(
    model: str,
    comparisons: str | Path,
    *,
    name: str = "adapted",
    out: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    workspace: Place = None,
) -> dict[str, Any]:
    """One person's reward model, from one that `train maml` made and a few of their comparisons (a file).

    The head takes the steps that it was trained to take; the trunk stays. That is a forward pass over the comparisons.
    Returns {"artifact", "hash", "comparisons"}. Raises InputError for a model that was not made by maml.
    """
    place = workspace_or_none(workspace)
    if out is None and place is None:
        raise InputError("say where the adapted model goes: out=DIR, or work in a workspace")
    folder = Path(model_at(model, "reward_model", place))
    where = pick_device(device)
    reward = LearnedReward(folder, pick_dtype(dtype, where), where)
    how = getattr(reward.head.model.config, ADAPTATION_KEY, None)
    if how is None:
        raise InputError(f"{model} was not made to be adapted; that is what prefloop train maml makes")
    pairs, ledger = load_comparisons(comparisons)
    prompts = [pair.prompt for pair in pairs]
    chosen, rejected = (
        torch.from_numpy(reward.states(prompts, texts)).float()
        for texts in ([p.chosen for p in pairs], [p.rejected for p in pairs])
    )
    label, weight = (torch.tensor([getattr(p, column) for p in pairs]) for column in ("label", "weight"))
    head, rates = reward.head.weight.detach().cpu(), torch.tensor(how["rates"])
    head = adapted_head(head, chosen - rejected, label, weight, rates, int(how["steps"]))

    def fill(target: Path) -> None:
        with torch.no_grad():
            reward.head.final.weight.copy_(head[None])
        save_model(reward.head.model, reward.template.tokenizer, target)

    artifact = write_artifact(
        place.artifacts if place is not None else Path(str(out)).parent,
        "reward_model",
        name,
        fill,
        settings={"adapt": str(model), "comparisons_sha256": content_hash([asdict(pair) for pair in pairs])},
        parents=[read_artifact(folder).hash] if (folder / MANIFEST).is_file() else [],
        seeds={},
        metrics={},
        extra={"ledger": ledger.as_dict()},
        at=Path(out) if out is not None else None,
    )
    return {"artifact": str(artifact.path), "hash": artifact.hash, "comparisons": len(pairs)}


def label_what_is_sure(
    model: str,
    samples: str | Path,
    out: str | Path,
    *,
    confidence: float = 0.8,
    device: str = "auto",
    dtype: str = "auto",
    workspace: Place = None,
) -> dict[str, Any]:
    """Comparisons of unlabelled completions of which a reward model is sure: one step of SSRM.

    `samples` has several completions of each prompt (as `prefloop sample --out` writes them); every two that come one
    after the other make a pair. A pair is kept when the model's calibrated probability of one side is at least
    `confidence`; it becomes a row of `out`, marked as an AI's (`ai:` and the model's name), never as a person's. Train
    again on people's comparisons and these (`--data pairs.jsonl --data sure.jsonl`), and again.
    He et al. 2024, https://arxiv.org/abs/2409.06903; with confidence 1 nothing is kept.
    Returns {"pairs", "kept", "out"}.
    """
    if not 0.5 <= confidence <= 1:
        raise InputError(f"confidence must be from 0.5 to 1, got {confidence}")
    where = pick_device(device)
    place = model_at(model, "reward_model", workspace_or_none(workspace))
    reward = earning(LearnedReward(place, pick_dtype(dtype, where), where))
    rows, pairs = confident_pairs(reward, samples_of(Path(samples)), confidence, f"ai:{Path(model).name}")
    write_text(Path(out), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return {"pairs": pairs, "kept": len(rows), "out": str(out)}


def _mean(weights: Sequence[dict[str, Tensor]], names: Sequence[str]) -> dict[str, Tensor]:
    first = weights[0]
    for name, other in zip(names[1:], weights[1:], strict=True):
        unlike = {*first} ^ {*other} or {key for key in first if first[key].shape != other[key].shape}
        if unlike:
            raise InputError(f"{names[0]} and {name} are no models of one shape: they differ in {sorted(unlike)[0]}")
    return {
        key: torch.stack([one[key].float() for one in weights]).mean(dim=0).to(first[key].dtype).contiguous()
        for key in first
    }


def _temperature(folder: Path, comparisons: str | Path, device: str) -> float:
    where = pick_device(device)
    reward = LearnedReward(folder, pick_dtype("auto", where), where)
    pairs, _ = load_comparisons(comparisons, split="test" if Path(comparisons).is_dir() else None)
    prompts = [pair.prompt for pair in pairs]
    chosen, rejected = reward(prompts, [p.chosen for p in pairs]), reward(prompts, [p.rejected for p in pairs])
    return fit_temperature([a - b for a, b in zip(chosen, rejected, strict=True)], [p.label for p in pairs])
