"""Demonstrations in the same optimizer steps as the reward, and a rollout that is left early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.artifacts.folder import read_manifest
from prefloop.datasets.collate import cycled
from prefloop.errors import InputError
from prefloop.training import online
from prefloop.training.metrics import Means
from prefloop.training.optimizer import Optimizer, Schedule
from prefloop.workflows.training import train
from tests.small import build, settings_of, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_inputs(tmp_path_factory.mktemp("inputs"))
    rows = [{"prompt": f"Count to {n}.", "completion": " ".join(map(str, range(n)))} for n in range(2, 9)]
    (folder / "demonstrations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def mixed(inputs: Path, folder: Path, **changes: Any) -> tuple[Any, Any]:
    return build("ppo", inputs, folder, ptx_data=str(inputs / "demonstrations.jsonl"), kl_target=None, **changes)


def test_a_demonstrations_gradient_is_added_to_the_rewards(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step's gradient is that without them plus ptx_coef times that of the mean loss of a completion token."""
    algorithm, run = mixed(inputs, tmp_path / "run", ptx_coef=3.0, ptx_ratio=0.5, value_coef=0.0)
    roles = algorithm.roles
    rollout, _ = online.sample_rollout(roles, online.Sampler(roles.policy, roles.template), roles.prompts[:6], run, 0)
    rollout = algorithm.prepare(roles.measured(rollout, 4096))
    found: list[list[torch.Tensor]] = []
    parameters = list(roles.policy.parameters())

    def step(mixture: Any, budget: int) -> Means:
        optimizer, means = Optimizer(parameters, Schedule(0.0, 1, 0, "constant")), Means()
        monkeypatch.setattr(optimizer, "step", lambda what: (found.append([p.grad.clone() for p in parameters]), {})[1])
        monkeypatch.setattr(roles, "mixture", mixture)
        online._update(algorithm, optimizer, rollout, range(6), means, budget)
        optimizer.discard()
        return means

    mixture = roles.mixture
    logged = step(mixture, 10**6).read()
    step(mixture, 1)
    step(None, 10**6)
    chosen = [mixture.rows[i] for i in cycled(len(mixture.rows), 3, 0, run.settings.seed)]
    losses = []
    for row in chosen:
        ids = torch.tensor([row.text.ids])
        logp = roles.policy(input_ids=ids).logits[0].log_softmax(-1)
        start = row.text.prompt_length
        losses.append(-logp[start - 1 : -1].gather(1, ids[0, start:, None])[:, 0])
    mean = torch.cat(losses).mean()
    expected = torch.autograd.grad(3.0 * mean, parameters)
    assert logged["loss/ptx"] == pytest.approx(mean.item(), rel=1e-5)
    for whole, pieces, without, extra in zip(*found, expected, strict=True):
        torch.testing.assert_close(whole - without, extra, atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1e-3)
    assert max(e.abs().max().item() for e in expected) > 0.01


def test_what_is_mixed_in_is_learned(inputs: Path, tmp_path: Path) -> None:
    """Eight rollouts with a reward that says nothing: the demonstrations become likelier, and only with them."""
    ends = {}
    for coef in (1.0, 0.0):
        algorithm, run = mixed(inputs, tmp_path / str(coef), ptx_coef=coef, steps=8, lr=3e-3, beta=0.0)
        algorithm.roles.reward = lambda prompts, completions, **columns: [0.0] * len(completions)
        online.train_online(algorithm, run)
        ends[coef] = [row["loss/ptx"] for row in run.metrics]
    assert ends[1.0][-1] < ends[1.0][0] - 0.3
    assert ends[0.0][-1] > ends[1.0][-1] + 0.3


def test_the_file_is_part_of_the_run(inputs: Path, tmp_path: Path) -> None:
    """Its hash stands in the manifest, so that a resumed run with other rows is refused; nothing is no data."""
    settings = settings_of("ppo", inputs, steps=1, ptx_data=str(inputs / "demonstrations.jsonl"))
    train("ppo", out=tmp_path / "out", overrides=settings, log=lambda words: None)
    assert len(read_manifest(tmp_path / "out").manifest["settings"]["ptx_data_sha256"]) == 64
    with pytest.raises(InputError, match="no data 'nowhere.jsonl': neither a file nor a snapshot"):
        train("ppo", out=tmp_path / "no", overrides={**settings, "ptx_data": "nowhere.jsonl"}, log=lambda words: None)


def test_a_rollout_is_left_once_the_policy_has_gone_too_far(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a learning rate of 0.1 the first step goes beyond any KL: one step per rollout is left, and the schedule
    is where it would be with all of them."""
    taken: list[float] = []
    honest = Optimizer.step
    monkeypatch.setattr(
        Optimizer, "step", lambda self, what: (taken.append(self.schedule.at(self.steps)), honest(self, what))[1]
    )
    settings = {"lr": 0.1, "steps": 3, "rollout_epochs": 2, "minibatches": 2, "kl_target": None}
    algorithm, run = build("ppo", inputs, tmp_path / "run", target_kl=1e-6, **settings)
    online.train_online(algorithm, run)
    assert taken == pytest.approx([0.1 * (1 - done / 12) for done in (0, 4, 8)])
    taken.clear()
    algorithm, run = build("ppo", inputs, tmp_path / "free", target_kl=1e9, **settings)
    online.train_online(algorithm, run)
    assert len(taken) == 12
