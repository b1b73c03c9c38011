"""Runs side by side: which settings differ, rewards and KL of tiny policies, and one command for a sweep."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from prefloop.artifacts.files import write_text
from prefloop.artifacts.folder import write_artifact
from prefloop.errors import InputError
from prefloop.workflows import comparing
from prefloop.workflows.comparing import compare, sweep
from tests.tiny import write_tiny_model

PROMPTS = [f"What is {n} + 2?" for n in range(12)]


def made(folder: Path, model: Path | None, settings: dict[str, Any], **metrics: float) -> Path:
    """An artifact as `train` leaves it."""

    def fill(place: Path) -> None:
        if model is not None:
            shutil.copytree(model, place, dirs_exist_ok=True)
        write_text(place / "metrics.jsonl", json.dumps({"step": 7, **metrics}) + "\n")

    artifact = write_artifact(
        folder.parent,
        "policy" if model is not None else "reward_model",
        folder.name,
        fill,
        settings=settings,
        parents=[],
        seeds={"seed": 0},
        metrics={"step": 7, **metrics},
        extra={"method": settings["method"], "ledger": {}, "seconds": 3.0},
        at=folder,
    )
    return artifact.path


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base, a run that did not move, and one that did: three tiny models."""
    folder = tmp_path_factory.mktemp("runs")
    base = write_tiny_model(folder / "base")
    other = write_tiny_model(folder / "other", seed=1)
    weights = load_file(other / "model.safetensors")
    # An untrained model says everything with the same probability; a larger head has opinions.
    save_file(
        {k: v * (20 if "embed" in k else 1) for k, v in weights.items()}, other / "model.safetensors", {"format": "pt"}
    )
    shared = {"policy": str(base), "lr": 1e-5, "lora": {"rank": 4}, "parents": ["x"], "data": "pairs.jsonl"}
    still = made(folder / "still", base, {"method": "dpo", "beta": 0.5, **shared}, eval_loss=0.69)
    moved = made(folder / "moved", other, {"method": "dpo", "beta": 0.1, **shared, "parents": ["y"]}, eval_loss=0.5)
    return {"base": base, "still": still, "moved": moved}


def test_a_table_of_what_differs_needs_no_reward(policies: dict[str, Path], tmp_path: Path) -> None:
    result = compare([policies["still"], policies["moved"]], out=tmp_path / "page.html")
    assert result["differ"] == ["beta"]
    assert [run["settings"] for run in result["runs"]] == [
        {"method": "dpo", "beta": 0.5},
        {"method": "dpo", "beta": 0.1},
    ]
    assert [(run["run"], run["steps"], run["metrics"]) for run in result["runs"]] == [
        ("still", 7, {"eval_loss": 0.69}),
        ("moved", 7, {"eval_loss": 0.5}),
    ]
    page = Path(result["page"]).read_text(encoding="utf-8")
    assert "<svg" not in page
    assert "No reward was given" in page
    assert "0.69" in page


def test_reward_against_kl(policies: dict[str, Path], tmp_path: Path) -> None:
    """A reward of our own, from a YAML; the policy that did not move has no KL, the other has some."""
    (tmp_path / "lengths.py").write_text("def words(completions, **others): return [len(c) for c in completions]\n")
    (tmp_path / "reward.yaml").write_text("reward: {length: {function: 'lengths:words'}}\n")
    result = compare(
        [policies["still"], policies["moved"]],
        reward=tmp_path / "reward.yaml",
        prompts=PROMPTS,
        max_new_tokens=6,
        device="cpu",
        dtype="float32",
        out=tmp_path / "page.html",
        log=lambda words: None,
    )
    still, moved = result["runs"]
    assert result["reference"] == str(policies["base"])
    assert still["kl"]["value"] == pytest.approx(0.0, abs=1e-4)
    assert moved["kl"]["value"] > 0.05
    assert moved["kl"]["low"] <= moved["kl"]["value"] <= moved["kl"]["high"]
    assert [run["reward"]["n"] for run in result["runs"]] == [12, 12]
    assert 1 <= still["length"]["value"] <= 6
    page = Path(result["page"]).read_text(encoding="utf-8")
    assert page.count("<circle") == 2
    assert "beta 0.1" in page
    assert "http" not in page.replace("http-equiv", "")


def test_what_cannot_be_compared(policies: dict[str, Path], tmp_path: Path) -> None:
    scorer = made(tmp_path / "scorer", None, {"method": "reward_model"})
    with pytest.raises(InputError, match="scorer is no policy"):
        compare([policies["still"], scorer], reward="rm", out=tmp_path / "page.html")
    with pytest.raises(InputError, match="which runs"):
        compare([])
    with pytest.raises(InputError):
        compare([tmp_path / "nothing"])


def test_a_sweep_trains_once_for_each_value_and_compares(
    policies: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Any, dict[str, Any]]] = []

    def train(method: str, run: Any, *, out: Any, overrides: Any, **others: Any) -> dict[str, Any]:
        asked.append((method, out, overrides))
        made(out, policies["base"], {"method": method, "policy": str(policies["base"]), **overrides})
        return {"artifact": str(out)}

    monkeypatch.setattr(comparing, "train", train)
    result = sweep("dpo", {"beta": ["0.1", "0.5"]}, out=tmp_path / "betas", overrides=["lr=1e-4"])
    assert [(method, out.name) for method, out, _ in asked] == [("dpo", "beta-0.1"), ("dpo", "beta-0.5")]
    assert [(o["beta"], o["lr"], o["name"]) for _, _, o in asked] == [
        (0.1, "1e-4", "dpo-beta-0.1"),
        (0.5, "1e-4", "dpo-beta-0.5"),
    ]
    assert result["differ"] == ["beta"]
    assert result["page"] == str(tmp_path / "betas" / "comparison.html")
    with pytest.raises(InputError, match="over one setting"):
        sweep("dpo", {"beta": [1], "lr": [1]})
