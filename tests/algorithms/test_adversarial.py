"""Adversarial imitation: what each part learns from, and what a completion earns, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prefloop.errors import InputError
from prefloop.generation.sampler import Sampler
from prefloop.models.load import load_reward_model
from prefloop.training import online
from prefloop.workflows.training import train
from tests.small import build, settings_of, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def sampled(inputs: Path, folder: Path, **changes: Any) -> tuple[Any, Any]:
    """(algorithm, measured rollout)."""
    algorithm, run = build("adversarial", inputs, folder, **changes)
    roles = algorithm.roles
    rollout, _ = online.sample_rollout(roles, Sampler(roles.policy, roles.template), roles.prompts[:5], run, 0)
    return algorithm, roles.measured(rollout, 10**6)


def scores_of(algorithm: Any, rows: list[list[int]]) -> Tensor:
    """The discriminator's, from plain forward passes."""
    model = algorithm.judge.model
    found = [
        model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1] @ model.score.weight[0] for ids in rows
    ]
    return torch.stack(found)


def rows_of(rollout: Any) -> list[list[int]]:
    return [ids[:n] for ids, n in zip(rollout.ids.tolist(), rollout.lengths.tolist(), strict=True)]


@pytest.mark.parametrize("kind", ["gail", "airl", "logit", "probability"])
def test_what_a_completion_earns(kind: str, inputs: Path, tmp_path: Path) -> None:
    """With beta 0 every decision's advantage is its completion's reward, whitened over all decisions."""
    algorithm, rollout = sampled(inputs, tmp_path, kind=kind, beta=0.0, missing_eos_score=None, max_new_tokens=40)
    ended = rollout.terminated
    with torch.no_grad():
        f = scores_of(algorithm, rows_of(rollout))
    whole = rollout.added["logprobs"].sum(1)
    by_hand = {
        "gail": -(1 - f.sigmoid()).log(),
        "airl": f - whole,
        "logit": f,
        "probability": f.sigmoid(),
    }[kind]
    # Texts are scored as they read, EOS included; one that was cut off therefore counts otherwise here.
    if kind != "airl":
        assert rollout.scores[ended].tolist() == pytest.approx(by_hand[ended].tolist(), abs=1e-4)
    prepared = algorithm.prepare(rollout)
    rewards = rollout.scores - whole if kind == "airl" else rollout.scores
    each = rewards[:, None].expand(rollout.valid.shape)[rollout.valid]
    expected = (each - each.mean()) / (each.var(correction=0) + 1e-8).sqrt()
    torch.testing.assert_close(prepared.added["advantages"][rollout.valid], expected, atol=1e-3, rtol=1e-3)


def test_a_completion_without_eos_keeps_its_fixed_score(inputs: Path, tmp_path: Path) -> None:
    algorithm, rollout = sampled(inputs, tmp_path, kind="airl", beta=0.0, missing_eos_score=-7.0, max_new_tokens=2)
    assert not rollout.terminated.any()
    assert rollout.scores.tolist() == [-7.0] * 5
    assert algorithm.prepare(rollout).added["advantages"].abs().max() < 1e-3  # all alike


def test_the_discriminator_learns_from_both_and_the_policy_from_neither(inputs: Path, tmp_path: Path) -> None:
    """Its gradient is that of the mean cross-entropy over rollouts and demonstrations, by hand; the policy's does not
    change with it."""
    algorithm, rollout = sampled(inputs, tmp_path, cloning=0.0, missing_eos_score=None)
    prepared = algorithm.prepare(rollout)
    decisions = int(rollout.valid.sum())
    judge, policy = algorithm.judge.model, algorithm.roles.policy
    (algorithm.loss(prepared).values.sum() / decisions).backward()
    learned = judge.score.weight.grad.clone()
    moved = [p.grad.clone() for p in policy.parameters()]
    judge.zero_grad()
    policy.zero_grad()

    demonstrations = [
        algorithm.answers[tuple(ids[:start])][0].ids
        for ids, start in zip(rollout.ids.tolist(), rollout.starts.tolist(), strict=True)
    ]
    machine, human = scores_of(algorithm, rows_of(rollout)), scores_of(algorithm, demonstrations)
    entropy = -(human.sigmoid().log() + (1 - machine.sigmoid()).log()) / 2
    tokens = rollout.valid.sum(1)
    ((entropy * tokens).sum() / decisions).backward()
    torch.testing.assert_close(learned, judge.score.weight.grad, atol=1e-5, rtol=1e-3)

    prepared.added["advantages"].zero_()
    algorithm.loss(prepared).values.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in policy.parameters())
    assert any(g.any() for g in moved)


def test_cloning_is_the_demonstrations_likelihood(inputs: Path, tmp_path: Path) -> None:
    algorithm, rollout = sampled(inputs, tmp_path, cloning=1.0)
    found = algorithm.loss(algorithm.prepare(rollout)).metrics["nll"]
    expected = []
    for ids, start in zip(rollout.ids.tolist(), rollout.starts.tolist(), strict=True):
        text = algorithm.answers[tuple(ids[:start])][0]
        with torch.no_grad():
            logp = algorithm.roles.policy(input_ids=torch.tensor([text.ids])).logits[0].log_softmax(-1)
        tokens = range(start, text.length)
        expected.append(-sum(float(logp[t - 1, text.ids[t]]) for t in tokens) / len(tokens))
        assert (text.ids[-1] == algorithm.roles.template.eos_id) is not text.truncated
    assert found.tolist() == pytest.approx(expected, abs=1e-4)


def test_the_discriminator_is_kept_as_a_reward_model(inputs: Path, tmp_path: Path) -> None:
    settings = settings_of("adversarial", inputs, steps=2)
    result = train("adversarial", out=tmp_path / "out", overrides=settings, log=lambda words: None)
    assert {"loss/discriminator", "discriminator/accuracy", "nll"} <= set(result["metrics"])
    load_reward_model(tmp_path / "out" / "discriminator", torch.float32, torch.device("cpu"))
    with pytest.raises(InputError, match="has its own reward, the discriminator"):
        train(
            "adversarial",
            out=tmp_path / "no",
            overrides={**settings, "reward_model": str(inputs / "rm")},
            log=lambda words: None,
        )
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["kind"] == "policy"
