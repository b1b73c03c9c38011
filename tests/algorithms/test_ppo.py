"""The details of PPO for language models that decide whether it works, each by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prefloop.errors import RunError
from prefloop.generation.sampler import Sample, Sampler
from prefloop.models.heads import ScoreHead
from prefloop.models.load import load_reward_model, load_tokenizer
from prefloop.training import online
from prefloop.training.importance import sampler_gap
from prefloop.training.optimizer import Optimizer
from prefloop.training.rollout import Rollout, make_rollout
from prefloop.workflows.training import train
from tests.small import build, settings_of, write_inputs

Made = Callable[..., tuple[Any, Any]]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def made(inputs: Path, tmp_path: Path) -> Made:
    return lambda **changes: build("ppo", inputs, tmp_path / "run", **{"kl_target": None, **changes})


def moved(algorithm: Any) -> Any:
    """A policy that has left its reference: otherwise every KL is 0."""
    torch.manual_seed(8)
    with torch.no_grad():
        for parameter in algorithm.roles.policy.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return algorithm


def rollout_of(algorithm: Any, scores: tuple[float, float] = (2.0, 5.0)) -> Rollout:
    """Two completions: one of three tokens that ended with EOS, and one of five that was cut off."""
    eos = algorithm.roles.template.eos_id
    samples = [
        Sample([70, 80, eos], [-1.0] * 3, terminated=True),
        Sample([90, 91, 92, 93, 94], [-1.0] * 5, terminated=False),
    ]
    prompts = [algorithm.roles.template.prompt(prompt) for prompt in algorithm.roles.prompts[:2]]
    return make_rollout(prompts, samples, scores, algorithm.roles.template.pad_id, 0, torch.device("cpu"))


def prepared(algorithm: Any, rollout: Rollout, beta: float | None = None) -> tuple[Rollout, dict[str, Tensor]]:
    """The rollout as its losses see it, and what is logged of it; KL at the price that the run begins with."""
    price = algorithm.roles.settings.beta if beta is None else beta
    measured = algorithm.roles.measured(replace(rollout, beta=price), 4096)
    return algorithm.prepare(measured), online.objectives(measured)


@torch.no_grad()
def plain_logprobs(model: Any, rollout: Rollout, temperature: float) -> Tensor:
    """log pi of each decision at `temperature`, one sequence at a time."""
    result = torch.zeros(rollout.valid.shape)
    for row, (start, count) in enumerate(zip(rollout.starts.tolist(), rollout.valid.sum(1).tolist(), strict=True)):
        ids = rollout.ids[row, : start + count]
        logp = (model(input_ids=ids[None]).logits[0] / temperature).log_softmax(-1)
        result[row, :count] = logp[start - 1 : -1].gather(1, ids[start:, None])[:, 0]
    return result


def test_without_discount_a_return_is_the_score_less_the_kl_still_to_come(made: Made) -> None:
    """The score on the last real token, -beta KL on every token, both models at the sampling temperature."""
    algorithm = moved(made(beta=0.3, gae_lambda=1.0, gamma=1.0, temperature=0.7, missing_eos_score=None)[0])
    rollout, logged = prepared(algorithm, rollout_of(algorithm))
    policy = plain_logprobs(algorithm.roles.policy, rollout, 0.7)
    reference = plain_logprobs(algorithm.roles.reference, rollout, 0.7)
    torch.testing.assert_close(rollout.added["logprobs"], policy, atol=1e-5, rtol=0)
    kl = (policy - reference).tolist()
    expected = [[2.0 - 0.3 * sum(kl[0][t:3]) for t in range(3)], [5.0 - 0.3 * sum(kl[1][t:5]) for t in range(5)]]
    assert rollout.added["returns"][0].tolist() == pytest.approx([*expected[0], 0.0, 0.0], abs=1e-4)
    assert rollout.added["returns"][1].tolist() == pytest.approx(expected[1], abs=1e-4)
    assert logged["objective/kl"].tolist() == pytest.approx([sum(kl[0]), sum(kl[1])], abs=1e-4)
    assert max(abs(value) for value in kl[0]) > 0.01
    assert logged["objective/rlhf_reward"].tolist() == pytest.approx([expected[0][0], expected[1][0]], abs=1e-4)


def test_a_completion_without_eos_gets_the_fixed_score(made: Made) -> None:
    algorithm, _ = made(missing_eos_score=-1.0, beta=0.0, gae_lambda=1.0)
    rollout, logged = prepared(algorithm, rollout_of(algorithm))
    assert logged["objective/scores"].tolist() == [2.0, -1.0]
    assert rollout.added["returns"][:, 0].tolist() == pytest.approx([2.0, -1.0], abs=1e-5)
    assert logged["val/num_eos_tokens"].tolist() == [1.0, 0.0]
    assert logged["length"].tolist() == [3.0, 5.0]


def test_null_leaves_it_to_the_reward(made: Made) -> None:
    algorithm, _ = made(missing_eos_score=None)
    assert prepared(algorithm, rollout_of(algorithm))[1]["objective/scores"].tolist() == [2.0, 5.0]


def test_advantages_are_whitened_over_the_decisions_alone(made: Made) -> None:
    algorithm = moved(made()[0])
    rollout, _ = prepared(algorithm, rollout_of(algorithm))
    decisions = rollout.added["advantages"][rollout.valid]
    assert len(decisions) == 8
    assert decisions.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert decisions.var(correction=0).item() == pytest.approx(1.0, abs=1e-4)
    assert rollout.added["advantages"][~rollout.valid].tolist() == [0.0, 0.0]


def test_whitened_rewards_keep_their_mean(made: Made) -> None:
    """Rewards 0 0 2 and 0 0 0 0 5: mean 7/8, variance 29/8 - 49/64. The sum of a row's is its first return."""
    algorithm, _ = made(whiten_rewards=True, beta=0.0, gae_lambda=1.0, missing_eos_score=None)
    rollout, _ = prepared(algorithm, rollout_of(algorithm))
    mean, deviation = 7 / 8, math.sqrt(29 / 8 - 49 / 64)
    first = [(total - count * mean) / deviation + count * mean for total, count in ((2, 3), (5, 5))]
    assert rollout.added["returns"][:, 0].tolist() == pytest.approx(first, abs=1e-4)


def test_at_the_start_the_ratio_is_1_and_the_kl_0(made: Made) -> None:
    """Epoch 1, minibatch 1: nothing is clipped, because nothing has moved; and what was sampled is what is trained."""
    algorithm, run = made()
    rollout, _ = online.sample_rollout(
        algorithm.roles, Sampler(algorithm.roles.policy, algorithm.roles.template), algorithm.roles.prompts[:6], run, 0
    )
    rollout, logged = prepared(algorithm, rollout)
    assert logged["objective/kl"].abs().max().item() < 1e-5
    assert sampler_gap(rollout)["sampler/logprob_gap"].max().item() < 1e-5
    metrics = algorithm.loss(rollout).metrics
    assert metrics["val/ratio"].tolist() == pytest.approx([1.0] * int(rollout.valid.sum()), abs=1e-6)
    assert metrics["policy/clipfrac_avg"].sum().item() == 0
    assert metrics["val/clipfrac_avg"].sum().item() == 0
    assert metrics["policy/approxkl_avg"].max().item() < 1e-10
    # With ratio 1 the policy loss is -A and the value loss half the squared error of the old values.
    policy = -rollout.added["advantages"][rollout.valid]
    value = 0.5 * (rollout.added["values"] - rollout.added["returns"])[rollout.valid].square()
    torch.testing.assert_close(algorithm.loss(rollout).values, policy + 0.1 * value, atol=1e-5, rtol=0)


def test_eos_is_a_decision_that_is_trained(made: Made) -> None:
    """Only EOS has an advantage: its gradient makes the policy stop more often."""
    algorithm, _ = made(value_coef=0.0)
    rollout, _ = prepared(algorithm, rollout_of(algorithm))
    advantages = torch.zeros_like(rollout.added["advantages"])
    advantages[0, 2] = 1.0
    rollout.added["advantages"] = advantages
    before = plain_logprobs(algorithm.roles.policy, rollout, 1.0)[0, 2].item()
    algorithm.loss(rollout).values.sum().backward()
    with torch.no_grad():
        for parameter in algorithm.roles.policy.parameters():
            parameter.sub_(0.1 * parameter.grad)
    assert rollout.ids[0, rollout.starts[0] + 2].item() == algorithm.roles.template.eos_id
    assert plain_logprobs(algorithm.roles.policy, rollout, 1.0)[0, 2].item() > before + 0.01


@pytest.mark.parametrize(("epochs", "minibatches"), [(1, 1), (3, 2), (2, 6)])
def test_minibatches_are_real_optimizer_steps(
    made: Made, monkeypatch: pytest.MonkeyPatch, epochs: int, minibatches: int
) -> None:
    algorithm, run = made(steps=2, rollout_epochs=epochs, minibatches=minibatches)
    seen: list[tuple[int, float]] = []
    honest, step = type(algorithm).loss, Optimizer.step
    rows: list[int] = []
    monkeypatch.setattr(type(algorithm), "loss", lambda self, part: (rows.append(len(part)), honest(self, part))[1])
    monkeypatch.setattr(Optimizer, "step", lambda self, what: (seen.append((self.steps, 0.0)), step(self, what))[1])
    online.train_online(algorithm, run)
    assert [number for number, _ in seen] == list(range(2 * epochs * minibatches))
    assert sum(rows) == 2 * epochs * 6
    assert max(rows) == 6 // minibatches


def test_the_gradient_is_really_clipped(made: Made) -> None:
    """A norm of 1e-12 leaves Adam, whose eps is 1e-5, with steps a ten-millionth of the learning rate."""
    algorithm, run = made(steps=1, max_grad_norm=1e-12, lr=1.0, schedule="constant")
    before = [p.detach().clone() for p in algorithm.roles.policy.parameters()]
    online.train_online(algorithm, run)
    change = max((p - b).abs().max().item() for p, b in zip(algorithm.roles.policy.parameters(), before, strict=True))
    assert 0 < change < 1e-4
    assert run.metrics[-1]["grad_norm"] > 1e-3


def test_the_price_of_kl_follows_its_target(made: Made) -> None:
    """At KL 0 the error is clipped at -0.2: over 6 episodes and a horizon of 100 beta falls by 1.2 %."""
    algorithm, run = made(steps=1, beta=0.5, kl_target=1.0, kl_horizon=100.0)
    online.train_online(algorithm, run)
    assert run.metrics[-1]["objective/beta"] == pytest.approx(0.5 * (1 - 0.2 * 6 / 100))


def test_the_critic_is_saved_and_loads(inputs: Path, tmp_path: Path) -> None:
    train("ppo", out=tmp_path / "out", overrides=settings_of("ppo", inputs), log=lambda words: None)
    cpu = torch.device("cpu")
    critic = load_reward_model(tmp_path / "out" / "critic", torch.float32, cpu)
    start = load_reward_model(inputs / "rm", torch.float32, cpu)
    assert not torch.equal(critic.score.weight, start.score.weight)
    assert load_tokenizer(tmp_path / "out" / "critic").eos_token == "<eos>"
    assert ScoreHead(critic).bias == ScoreHead(start).bias


def test_a_cut_prompt_of_a_rollout_keeps_bos_and_its_end(made: Made) -> None:
    algorithm, run = made(max_length=32, max_new_tokens=8)
    prompt = [{"role": "user", "content": "x" * 100 + " the end?"}]
    rollout, _ = online.sample_rollout(
        algorithm.roles, Sampler(algorithm.roles.policy, algorithm.roles.template), [prompt], run, 0
    )
    whole = algorithm.roles.template.prompt(prompt)
    start = int(rollout.starts[0])
    assert start == 24
    assert rollout.ids[0, :start].tolist() == [whole[0], *whole[-23:]]


def test_a_reward_that_is_not_finite_stops_the_run(made: Made) -> None:
    algorithm, run = made(steps=2)
    algorithm.roles.reward = lambda prompts, texts: [1.0] * (len(texts) - 1) + [float("nan")]
    with pytest.raises(RunError, match="the reward gave nan at rollout 1 for '"):
        online.train_online(algorithm, run)


def test_what_is_scored_is_the_text_of_what_was_sampled(made: Made) -> None:
    algorithm, run = made()
    seen: list[tuple[Any, list[str]]] = []
    algorithm.roles.reward = lambda prompts, texts: (seen.append((prompts, list(texts))), [0.0] * len(texts))[1]
    rollout, texts = online.sample_rollout(
        algorithm.roles, Sampler(algorithm.roles.policy, algorithm.roles.template), algorithm.roles.prompts[:3], run, 0
    )
    assert seen == [(algorithm.roles.prompts[:3], texts)]
    for row, text in enumerate(texts):
        start, count = int(rollout.starts[row]), int(rollout.valid[row].sum())
        ids = rollout.ids[row, start : start + count].tolist()
        assert algorithm.roles.template.decode(ids) == text
        assert rollout.ids[row, :start].tolist() == algorithm.roles.template.prompt(algorithm.roles.prompts[row])
