"""A run under watch returns the best look's weights, resumes to the same bits, and is not changed by the looks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import prefloop
from prefloop.errors import InputError, RunError
from prefloop.evaluation.overoptimization import RunGuard
from prefloop.training.online import train_online
from prefloop.training.watch import Finding, Seen
from prefloop.workflows.training import train
from tests.small import build, settings_of, weights_of, write_inputs

GUARD: dict[str, Any] = {
    "held_out": {"short": {"function": "prefloop.rewards.text:characters", "weight": -1.0}},
    "every": 2,
    "prompts": 6,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


class Planned:
    """A watch that finds the looks at `best` best, and ends the run at `stop`."""

    every = 1

    def __init__(self, prompts: Any, best: set[int], stop: int | None = None) -> None:
        self.prompts, self.bests, self.end = prompts, best, stop
        self.seen: list[Seen] = []

    def __call__(self, seen: Seen) -> Finding:
        self.seen.append(seen)
        return Finding(seen.step in self.bests, seen.step == self.end, {"guard/looks": len(self.seen)}, "looked")

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.seen = []

    def report(self) -> dict[str, Any]:
        return {}


def parameters(algorithm: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for model in algorithm.roles.trained for p in model.parameters()]


def test_the_run_returns_the_weights_that_were_found_best(inputs: Path, tmp_path: Path) -> None:
    """Best at look 2 of 4: the weights are those of a run that is stopped there."""
    algorithm, run = build("ppo", inputs, tmp_path / "a", steps=4, schedule="constant")
    watch = Planned(algorithm.roles.prompts[:5], {0, 2})
    assert train_online(algorithm, run, watch) == {"guard/best_step": 2, "guard/stopped": 0.0}
    short, other = build("ppo", inputs, tmp_path / "b", steps=2, schedule="constant")
    train_online(short, other)
    assert all(torch.equal(a, b) for a, b in zip(parameters(algorithm), parameters(short), strict=True))
    assert [seen.step for seen in watch.seen] == [0, 1, 2, 3, 4]
    assert [row["guard/looks"] for row in run.metrics if "guard/looks" in row] == [1, 2, 3, 4, 5]


def test_a_look_changes_nothing_and_is_told_to_end_the_run(inputs: Path, tmp_path: Path) -> None:
    watched, run = build("ppo", inputs, tmp_path / "a", steps=5, schedule="constant", log_every=1)
    watch = Planned(watched.roles.prompts[:5], {0, 1, 2, 3}, stop=3)
    assert train_online(watched, run, watch) == {"guard/best_step": 3, "guard/stopped": 1.0}
    alone, other = build("ppo", inputs, tmp_path / "b", steps=3, schedule="constant", log_every=1)
    train_online(alone, other)
    assert all(torch.equal(a, b) for a, b in zip(parameters(watched), parameters(alone), strict=True))
    assert [row for row in run.metrics if "objective/kl" in row] == other.metrics


def test_every_look_has_the_same_prompts_and_random_numbers(inputs: Path, tmp_path: Path) -> None:
    """With a learning rate too small to change a weight, every look sees the same."""
    algorithm, run = build("ppo", inputs, tmp_path / "a", steps=2, lr=1e-30)
    watch = Planned(algorithm.roles.prompts[:5], {0})
    train_online(algorithm, run, watch)
    first, *others = watch.seen
    assert len(first.texts) == 5
    for seen in others:
        assert list(seen.texts) == list(first.texts)
        assert np.array_equal(seen.proxy, first.proxy)
    assert np.abs(first.kl).max() < 1e-5
    assert (first.entropy > 0).all()


def test_a_watched_run_resumes_to_the_same_bits(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet: dict[str, Any] = {"overrides": settings_of("ppo", inputs, guard=GUARD), "log": lambda words: None}
    whole = train("ppo", out=tmp_path / "whole", **quiet)
    asked = iter([False, True, True])
    monkeypatch.setattr("prefloop.training.run_lock.was_asked_to_stop", lambda folder: next(asked, False))
    for resume in (False, True):
        with pytest.raises(RunError, match="as asked"):
            train("ppo", out=tmp_path / "paused", resume=resume, **quiet)
    again = train("ppo", out=tmp_path / "paused", resume=True, **quiet)
    assert again["hash"] == whole["hash"]
    assert weights_of(tmp_path / "paused") == weights_of(tmp_path / "whole")
    report = json.loads((tmp_path / "whole" / "guard.json").read_text())
    assert [row["step"] for row in report["looks"]] == [0, 2, 4, 5]
    assert report["best_step"] == whole["metrics"]["guard/best_step"]
    page = " ".join(prefloop.report(tmp_path / "whole", out=tmp_path / "page.html").read_text("utf-8").split())
    assert "(4 looks). It raised" in page
    assert f"The weights of step {report['best_step']} were kept" in page
    lows = [row["held_out_low"] for row in report["looks"]]
    assert max(lows) == lows[[row["step"] for row in report["looks"]].index(report["best_step"])]


def test_a_look_is_judged_by_the_held_out_rewards(inputs: Path, tmp_path: Path) -> None:
    algorithm, run = build("ppo", inputs, tmp_path / "a", steps=1)
    guard = RunGuard(algorithm.roles.prompts[:4], [lambda completions: [float(len(c)) for c in completions]])
    train_online(algorithm, run, guard)
    row = next(row for row in run.metrics if "guard/held_out" in row)
    assert row["guard/held_out"] > 0
    broken = RunGuard(algorithm.roles.prompts[:4], [lambda completions: [float("nan")] * 4])
    again, other = build("ppo", inputs, tmp_path / "b", steps=1)
    with pytest.raises(RunError, match="a held-out reward gave nan at step 0"):
        train_online(again, other, broken)


def test_held_out_has_to_be_another_reward(inputs: Path, tmp_path: Path) -> None:
    for held_out, message in (
        ([str(inputs / "rm")], "the reward model that the policy is trained on"),
        ([], "at least one"),
    ):
        guard = {**GUARD, "held_out": held_out}
        with pytest.raises(InputError, match=message):
            train(
                "ppo", out=tmp_path / "out", overrides=settings_of("ppo", inputs, guard=guard), log=lambda words: None
            )


def test_credit_enters_ppo_as_rewards_of_tokens(inputs: Path, tmp_path: Path) -> None:
    """Evenly and beta 1, no KL, no discount: the return to go is the score times the share of tokens still to come."""
    algorithm, run = build(
        "ppo", inputs, tmp_path / "a", credit={"by": "evenly", "beta": 1.0}, beta=0.0, kl_target=None, gae_lambda=1.0
    )
    seen: list[Any] = []
    honest = algorithm.prepare
    algorithm.prepare = lambda rollout: (seen.append(honest(rollout)), seen[-1])[1]
    train_online(algorithm, run)
    rollout = seen[0]
    row = int(rollout.valid.sum(1).argmax())
    n, score = int(rollout.valid[row].sum()), float(rollout.scores[row])
    assert n > 1
    expected = [score * (n - t) / n for t in range(n)]
    assert rollout.added["returns"][row, :n].tolist() == pytest.approx(expected, abs=1e-4)


def test_credit_by_attention_trains(inputs: Path, tmp_path: Path) -> None:
    by: dict[str, Any] = {"by": "attention", "beta": 0.8}
    made = train("ppo", out=tmp_path / "abc", overrides=settings_of("ppo", inputs, credit=by), log=lambda words: None)
    plain = train("ppo", out=tmp_path / "plain", overrides=settings_of("ppo", inputs), log=lambda words: None)
    end = {"by": "attention", "beta": 0.0}
    sparse = train(
        "ppo", out=tmp_path / "end", overrides=settings_of("ppo", inputs, credit=end), log=lambda words: None
    )
    assert weights_of(tmp_path / "abc") != weights_of(tmp_path / "plain")
    assert weights_of(tmp_path / "end") == weights_of(tmp_path / "plain")
    assert made["steps"] == plain["steps"] == sparse["steps"]
