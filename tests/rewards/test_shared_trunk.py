"""Adapters of one base: each says what its own model says, and a run is rewarded by all of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.errors import InputError
from prefloop.records import Message
from prefloop.rewards.composition import compose
from prefloop.rewards.ensemble import combined
from prefloop.rewards.learned import LearnedReward
from prefloop.rewards.shared_trunk import SharedTrunk
from prefloop.training.online import train_online
from prefloop.workflows.training import train
from tests.small import build, settings_of, write_inputs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three members of one base: three seeds, and one of them was told the opposite."""
    torch.set_num_threads(1)
    folder = write_inputs(tmp_path_factory.mktemp("inputs"))
    said = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in said]
    (folder / "turned.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turned))
    for seed, data in enumerate(("pairs.jsonl", "turned.jsonl", "pairs.jsonl")):
        changes = {"data": str(folder / data), "lora": {"rank": 4}, "seed": seed, "lr": 1e-2, "epochs": 4}
        settings = settings_of("reward_model", folder, **changes)
        train("reward_model", out=folder / f"member-{seed}", overrides=settings, log=lambda words: None)
    return folder


def test_each_member_is_its_own_model(inputs: Path) -> None:
    folders = [inputs / f"member-{seed}" for seed in range(3)]
    together = SharedTrunk(folders, torch.float32, CPU)
    asked: list[list[Message]] = [[{"role": "user", "content": f"Which fruit, number {i}?"}] for i in range(4)]
    said = ["apple", "lime please", "kiwi", "nut"]
    found = together.members(asked, said)
    for place, folder in enumerate(folders):
        alone = torch.tensor(LearnedReward(folder, torch.float32, CPU)(asked, said))
        # honest: the merged weights of each model were rounded to bfloat16, base and adapter together
        torch.testing.assert_close(found[:, place], alone, atol=0.1, rtol=0.05)
    assert (found[:, 0] - found[:, 1]).abs().max() > 1  # far more than rounding
    assert torch.equal(together.members(asked, said), found)  # and the order in which they are taken on leaves nothing
    assert together(asked, said) == pytest.approx(found.mean(1).tolist())
    whole = sum(p.numel() for p in LearnedReward(folders[0], torch.float32, CPU).head.model.parameters())
    assert sum(p.numel() for p in together.model.parameters()) < 2 * whole


def test_a_run_is_rewarded_by_the_worst_of_them(inputs: Path, tmp_path: Path) -> None:
    refs = [str(inputs / f"member-{seed}") for seed in range(3)]
    reward: dict[str, Any] = {"taste": {"learned": refs, "members": "worst", "trunk": "shared"}}
    algorithm, run = build("ppo", inputs, tmp_path / "run", reward_model=None, reward=reward, steps=1)
    asked: list[list[Message]] = [[{"role": "user", "content": "Which fruit, number 1?"}]] * 2
    said = ["apple", "lime"]
    expected = combined(SharedTrunk(refs, torch.float32, CPU, max_length=64).members(asked, said), "worst")
    assert algorithm.roles.reward.score(asked, said).total == pytest.approx(expected.tolist(), abs=1e-5)
    train_online(algorithm, run)
    assert "rewards/taste/std" in run.metrics[0]


def test_what_cannot_share_is_said(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="was not trained with lora"):
        SharedTrunk([inputs / "rm"], torch.float32, CPU)
    other = tmp_path / "other"
    shutil.copytree(inputs / "member-0", other)
    config = other / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace(str(inputs / "policy"), str(tmp_path / "elsewhere")))
    with pytest.raises(InputError, match="not of one base"):
        SharedTrunk([inputs / "member-1", other], torch.float32, CPU)
    with pytest.raises(InputError, match="a shared trunk cannot be loaded here"):
        compose({"taste": {"learned": ["a"], "trunk": "shared"}}, learned=str)
