"""A run rewarded by parts: they are logged by name, their prices learned, and a killed run takes all of it up again."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.datasets.feedback import marked_passages
from prefloop.errors import InputError, RunError
from prefloop.rewards.composition import Part
from prefloop.rewards.text import length_between
from prefloop.settings import as_dict
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


def test_passages_that_people_marked_earn_and_bear(inputs: Path, tmp_path: Path) -> None:
    """The app's marks are of what is wrong and have a quote; `good: true` turns one round; without marks it is said."""
    edits = [
        {"prompt": "A?", "completion": "You fool, take tea.", "spans": [{"start": 4, "end": 8, "quote": "fool"}]},
        {"prompt": "B?", "completion": "Thank you, fool.", "spans": [{"start": 0, "end": 9, "good": True}]},
        {"prompt": "C?", "completion": "A fool.", "edited": "A friend.", "spans": [{"start": 2, "end": 6}]},
    ]
    (tmp_path / "edits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in edits))
    assert marked_passages(tmp_path / "edits.jsonl") == (["Thank you"], ["fool"])
    credit = {"by": "marks", "beta": 1.0, "bad": ["idiot"], "spans": str(tmp_path / "edits.jsonl")}
    algorithm, _ = build("ppo", inputs, tmp_path / "run", credit=credit)
    valid, scores = torch.ones(3, 3, dtype=torch.bool), torch.tensor([1.0, -1.0, -1.0])
    pieces = [["thank", " you", ", fool"], ["thank", " you", ", fool"], ["idiot", " you", "!"]]
    shares = algorithm.credit(torch.zeros(3, 4).long(), torch.ones(3).long(), valid, scores, pieces)
    assert shares.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    (tmp_path / "none.jsonl").write_text(json.dumps({"prompt": "A?", "completion": "a", "edited": "b"}) + "\n")
    with pytest.raises(InputError, match="has no marked passage"):
        build("ppo", inputs, tmp_path / "again", credit={**credit, "spans": str(tmp_path / "none.jsonl")})


def polite(completions: list[str], **kwargs: Any) -> list[float]:
    return [3.0] * len(completions)


def test_any_callable_is_a_reward_and_the_artifact_names_it(inputs: Path, tmp_path: Path) -> None:
    """A function, one with a weight, and an object that can be called: each with its hash where it has a source."""
    reward = {"polite": polite, "half": {"function": polite, "weight": 0.5}, "made": length_between(0, 5)}
    laid = settings_of("ppo", inputs, reward_model=None, reward=reward, steps=1, log_every=1, missing_eos_score=None)
    made = train("ppo", out=tmp_path / "run", overrides=laid, log=lambda words: None)
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert row["objective/scores"] == pytest.approx(4.5 + row["rewards/made/mean"])
    kept = json.loads((Path(made["artifact"]) / "manifest.json").read_text())["settings"]["reward"]
    assert re.fullmatch(r"tests\.training\.test_reward:polite [0-9a-f]{8}", kept["polite"])
    assert kept["half"] == {"function": kept["polite"], "weight": 0.5}
    assert kept["made"].startswith("prefloop.rewards.text:length_between.<locals>.score ")
    assert as_dict(Part(function=len))["function"] == "builtins:len"


def test_a_reward_model_and_a_reward_are_one_too_many(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give either reward_model or reward"):
        build("ppo", inputs, tmp_path / "run", **settings(inputs, reward_model=str(inputs / "rm")))
