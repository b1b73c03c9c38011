"""A run rewarded by parts: they are logged by name, their prices learned, and a killed run takes all of it up again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from prefloop.errors import InputError, RunError
from prefloop.training import online
from prefloop.workflows.training import train
from tests.small import build, settings_of, weights_of, write_inputs

SETTINGS: dict[str, Any] = {
    "reward_model": None,
    "reward": {
        "helpful": {"learned": "RM"},
        "short": {"function": "prefloop.rewards.text:characters", "limit": 2.0, "multiplier_lr": 0.01},
        "hint": {"function": "beside:hint", "weight": 0.5},
    },
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_inputs(tmp_path_factory.mktemp("inputs"))
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["number"] = number
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "beside.py").write_text(
        "def hint(prompts, completions, number, **kwargs):\n"
        "    assert all(str(n) in p[0]['content'] for n, p in zip(number, prompts))\n"
        "    return [float(n) for n in number]\n"
    )
    return folder


def settings(inputs: Path, **changes: Any) -> dict[str, Any]:
    reward = {**SETTINGS["reward"], "helpful": {"learned": str(inputs / "rm")}}
    return settings_of("ppo", inputs, **{**SETTINGS, "reward": reward, "log_every": 1, **changes})


def test_parts_are_logged_and_prices_are_learned(inputs: Path, tmp_path: Path) -> None:
    """ln l rises by 0.01 l (mean cost - 2) a rollout; two rollouts of 6 see each of 12 prompts once."""
    algorithm, run = build("ppo", inputs, tmp_path / "run", **settings(inputs))
    online.train_online(algorithm, run)
    price = 1.0
    for row in run.metrics:
        price *= math.exp(0.01 * price * (row["rewards/short/mean"] - 2.0))
        assert row["rewards/short/multiplier"] == pytest.approx(price)
    first, second = (row["rewards/hint/mean"] for row in run.metrics[:2])
    assert first + second == pytest.approx(sum(range(12)) / 6)
    assert run.metrics[0]["rewards/short/std"] > 0
    assert "rewards/helpful/std" in run.metrics[0]


def test_a_stopped_run_takes_its_prices_up_again(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet: dict[str, Any] = {"overrides": settings(inputs), "log": lambda words: None}
    monkeypatch.chdir(inputs)  # without a run file, modules are looked for where the user is
    whole = train("ppo", out=tmp_path / "whole", **quiet)
    asked = iter([False, True])
    monkeypatch.setattr("prefloop.training.run_lock.was_asked_to_stop", lambda folder: next(asked, False))
    with pytest.raises(RunError, match="as asked"):
        train("ppo", out=tmp_path / "paused", **quiet)
    again = train("ppo", out=tmp_path / "paused", resume=True, **quiet)
    assert again["hash"] == whole["hash"]
    assert weights_of(tmp_path / "paused") == weights_of(tmp_path / "whole")


def test_without_a_reward_model_the_critic_starts_as_the_policy(inputs: Path, tmp_path: Path) -> None:
    reward = {"long": {"function": "prefloop.rewards.text:characters"}}
    algorithm, run = build("ppo", inputs, tmp_path / "run", **settings(inputs, reward=reward, steps=1))
    online.train_online(algorithm, run)
    assert run.metrics[0]["rewards/long/mean"] > 0


def test_a_reward_model_and_a_reward_are_one_too_many(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give either reward_model or reward"):
        build("ppo", inputs, tmp_path / "run", **settings(inputs, reward_model=str(inputs / "rm")))
