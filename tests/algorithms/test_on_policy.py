"""Every online method but PPO: what their advantages and gradients are, by hand and against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prefloop.errors import InputError
from prefloop.functional.returns import whiten
from prefloop.generation.sampler import Sample
from prefloop.training.online import sequence_kl
from prefloop.training.optimizer import Optimizer, Schedule
from prefloop.training.rollout import Rollout, make_rollout
from tests.small import build, write_inputs

Made = Callable[..., Any]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def made(inputs: Path, tmp_path: Path) -> Made:
    """A method with a policy that has left its reference."""

    def make(method: str, **changes: Any) -> Any:
        algorithm, _ = build(method, inputs, tmp_path / "run", missing_eos_score=None, **changes)
        torch.manual_seed(8)
        with torch.no_grad():
            for parameter in algorithm.roles.policy.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return algorithm

    return make


def rollout_of(algorithm: Any, scores: tuple[float, ...], beta: float = 0.0) -> Rollout:
    """Two completions for each of two prompts, of 3, 5, 2 and 4 tokens; measured and prepared."""
    eos = algorithm.roles.template.eos_id
    ids = [[70, 80, eos], [90, 91, 92, 93, 94], [71, eos], [72, 73, 74, eos]]
    prompts = [algorithm.roles.template.prompt(p) for p in algorithm.roles.prompts[:2] for _ in range(2)]
    samples = [Sample(each, [-1.0] * len(each), terminated=each[-1] == eos) for each in ids]
    rollout = make_rollout(prompts, samples, scores, algorithm.roles.template.pad_id, 0, torch.device("cpu"))
    return algorithm.prepare(algorithm.roles.measured(replace(rollout, beta=beta), 4096))


def policy_gradient(algorithm: Any, rollout: Rollout) -> Tensor:
    """The gradient of a whole minibatch's loss with regard to the policy."""
    loss = algorithm.loss(rollout)
    total = (loss.values * loss.weights).sum() / algorithm.divisor(rollout)
    found = torch.autograd.grad(total, list(algorithm.roles.policy.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


def weighted_scores(algorithm: Any, rollout: Rollout, weights: Tensor) -> Tensor:
    """The gradient of -sum of weights times log pi."""
    total = -(algorithm.roles.logprobs(rollout) * weights).sum()
    found = torch.autograd.grad(total, list(algorithm.roles.policy.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


def test_a2c_is_the_first_step_of_ppo(made: Made) -> None:
    """The same rewards, advantages, returns and, as long as nothing has moved, the same gradient, the critic's too."""
    scores = (2.0, 5.0, -1.0, 0.5)
    ppo, a2c = made("ppo", value_coef=0.1, kl_target=None), made("a2c", value_coef=0.05)
    first, second = rollout_of(ppo, scores, 0.3), rollout_of(a2c, scores, 0.3)
    for name in ("advantages", "returns"):
        assert torch.equal(first.added[name], second.added[name])
    torch.testing.assert_close(policy_gradient(ppo, first), policy_gradient(a2c, second), atol=1e-5, rtol=1e-3)
    slopes = []
    for algorithm, rollout in ((ppo, first), (a2c, second)):
        loss = algorithm.loss(rollout)
        head = algorithm.roles.critic.score.weight
        slopes.append(torch.autograd.grad(loss.values.sum() / algorithm.divisor(rollout), head)[0])
    torch.testing.assert_close(slopes[0], slopes[1], atol=1e-5, rtol=1e-3)


def test_an_entropy_bonus_raises_entropy(made: Made) -> None:
    """With nothing to gain otherwise, a step along the gradient makes the policy's next tokens less certain."""
    a2c = made("a2c", entropy_coef=1.0, value_coef=0.0)
    rollout = rollout_of(a2c, (0.0,) * 4)
    rollout = rollout.adding(advantages=torch.zeros_like(rollout.added["advantages"]))
    before = rollout.added["entropy"].sum().item()
    a2c.loss(rollout).values.sum().backward()
    with torch.no_grad():
        for parameter in a2c.roles.policy.parameters():
            parameter.sub_(1e-2 * parameter.grad)
    after = a2c.roles.measured(rollout, 4096).added["entropy"].sum().item()
    assert after > before + 0.01


def test_reinforce_pays_each_decision_what_comes_after_it(made: Made) -> None:
    """Scores 3, 0, 0, 1 and no KL: the others' means are 1/3, 4/3, 4/3 and 1."""
    algorithm = made("reinforce")
    rollout = rollout_of(algorithm, (3.0, 0.0, 0.0, 1.0))
    expected = torch.tensor([3 - 1 / 3, -4 / 3, -4 / 3, 0.0])[:, None] * rollout.valid
    torch.testing.assert_close(rollout.added["advantages"], expected)
    gradient = weighted_scores(algorithm, rollout, expected[rollout.valid] / 4)
    torch.testing.assert_close(policy_gradient(algorithm, rollout), gradient, atol=1e-5, rtol=1e-3)


def test_reinforce_with_kl(made: Made) -> None:
    """Each decision answers for its own and later KL; the baseline is a constant of each sequence."""
    rollout = rollout_of(made("reinforce", baseline="none"), (3.0, 0.0, 0.0, 1.0), beta=0.5)
    kl = (rollout.added["logprobs"] - rollout.added["reference"]) * rollout.valid
    to_come = kl.flip(1).cumsum(1).flip(1)
    expected = (torch.tensor([3.0, 0.0, 0.0, 1.0])[:, None] - 0.5 * to_come) * rollout.valid
    torch.testing.assert_close(rollout.added["advantages"], expected, atol=1e-5, rtol=1e-5)
    assert kl.abs().max().item() > 0.01
    based = rollout_of(made("reinforce"), (3.0, 0.0, 0.0, 1.0), beta=0.5)
    shift = (expected - based.added["advantages"])[:, :2]
    torch.testing.assert_close(shift[:, 0], shift[:, 1], atol=1e-5, rtol=1e-5)
    whole = expected[:, 0]
    torch.testing.assert_close(shift[:, 0], (whole.sum() - whole) / 3, atol=1e-5, rtol=1e-5)


def test_rloo_compares_within_a_prompt_and_charges_for_kl(made: Made) -> None:
    algorithm = made("rloo", group_size=2)
    rollout = rollout_of(algorithm, (3.0, 1.0, 0.0, 4.0), beta=0.5)
    rewards = (torch.tensor([3.0, 1.0, 0.0, 4.0]) - 0.5 * sequence_kl(rollout)).tolist()
    a, b = rewards[0] - rewards[1], rewards[2] - rewards[3]
    assert rollout.added["advantages"].tolist() == pytest.approx([a, -a, b, -b], abs=1e-5)
    each = (rollout.added["advantages"][:, None] * rollout.valid)[rollout.valid]
    gradient = weighted_scores(algorithm, rollout, each / 4)
    torch.testing.assert_close(policy_gradient(algorithm, rollout), gradient, atol=1e-5, rtol=1e-3)


def test_rloo_clips_whole_completions(made: Made) -> None:
    """Where each token's ratio is 1.1, that of five tokens is 1.61: a good completion is clipped, its gradient 0."""
    algorithm = made("rloo", group_size=2, clip_range=0.2)
    rollout = rollout_of(algorithm, (0.0, 1.0, 0.0, 0.0))
    rollout = rollout.adding(logprobs=(rollout.added["logprobs"] - torch.tensor(1.1).log()) * rollout.valid)
    loss = algorithm.loss(rollout)
    assert loss.values.tolist() == pytest.approx([1.1**3, -1.2, 0.0, 0.0], rel=1e-4)
    assert loss.metrics["policy/clipfrac_avg"].tolist() == [1.0, 1.0, 1.0, 1.0]
    assert torch.autograd.grad(loss.values[1], algorithm.roles.policy.lm_head.weight)[0].abs().max().item() == 0.0


@pytest.mark.parametrize("method", ["rloo", "grpo"])
def test_equal_rewards_in_a_group_give_no_policy_gradient(made: Made, method: str) -> None:
    algorithm = made(method, group_size=2, beta=0.0)
    rollout = rollout_of(algorithm, (3.0, 3.0, -1.0, -1.0))
    assert policy_gradient(algorithm, rollout).abs().max().item() == 0.0


@pytest.mark.parametrize(
    ("reduction", "weights"),
    [
        ("sequence", [1 / 12, 1 / 20, 1 / 8, 1 / 16]),
        ("token", [1 / 14] * 4),
        ("constant", [1 / 32] * 4),  # max_new_tokens is 8
        ("sum", [1 / 4] * 4),
    ],
)
def test_grpo_with_one_step_is_a_weighted_policy_gradient(made: Made, reduction: str, weights: list[float]) -> None:
    """Scores 3 and 1, 0 and 4: the mean apart by 1 and 2. With one update the clipping does nothing."""
    algorithm = made("grpo", group_size=2, scale=False, reduction=reduction, clip_range=1e-3)
    rollout = rollout_of(algorithm, (3.0, 1.0, 0.0, 4.0), beta=0.0)
    each = torch.tensor([1.0, -1.0, -2.0, 2.0]) * torch.tensor(weights)
    gradient = weighted_scores(algorithm, rollout, (each[:, None] * rollout.valid)[rollout.valid])
    torch.testing.assert_close(policy_gradient(algorithm, rollout), gradient, atol=1e-5, rtol=1e-3)
    assert algorithm.loss(rollout).metrics["policy/clipfrac_avg"].sum().item() == 0


def test_weighed_by_the_ratio_the_gradient_is_that_of_the_kl_from_the_reference(made: Made) -> None:
    """Equal scores, so the KL alone: k3 + 1 - exp(-d) = d, a token's weight in the gradient of KL(pi || reference)."""
    algorithm = made("grpo", group_size=2, kl_ratio=True)
    rollout = rollout_of(algorithm, (1.0, 1.0, 2.0, 2.0), beta=0.7)
    apart = (rollout.added["logprobs"] - rollout.added["reference"]) * rollout.valid
    each = -0.7 * apart / rollout.valid.sum(1, keepdim=True) / 4
    expected = weighted_scores(algorithm, rollout, each[rollout.valid])
    torch.testing.assert_close(policy_gradient(algorithm, rollout), expected, atol=1e-5, rtol=1e-3)
    paper = policy_gradient(made("grpo", group_size=2), rollout)
    assert not torch.allclose(paper, expected, atol=1e-3)


def test_grpo_has_its_kl_in_the_loss(made: Made) -> None:
    algorithm = made("grpo", group_size=2)
    with_kl, without = (rollout_of(algorithm, (3.0, 1.0, 0.0, 4.0), beta=beta) for beta in (0.5, 0.0))
    assert torch.equal(with_kl.added["advantages"], without.added["advantages"])
    difference = algorithm.loss(with_kl).values - algorithm.loss(without).values
    d = (with_kl.added["logprobs"] - with_kl.added["reference"])[with_kl.valid]
    torch.testing.assert_close(difference, 0.5 * ((-d).exp() - 1 + d), atol=1e-5, rtol=1e-4)
    assert d.abs().max().item() > 0.01


def test_dapo_clips_the_two_sides_differently(made: Made) -> None:
    algorithm = made("grpo", group_size=2, clip_range=0.2, clip_range_high=0.28)
    rollout = rollout_of(algorithm, (0.0, 0.0, 0.0, 0.0)).adding(advantages=torch.ones(4, 5))
    rollout = rollout.adding(logprobs=rollout.added["logprobs"] - torch.tensor(1.5).log())
    assert algorithm.loss(rollout).values.tolist() == pytest.approx([-1.28] * 14, rel=1e-5)


@pytest.mark.parametrize("method", ["rloo", "grpo"])
def test_a_group_of_one_has_nobody_to_be_compared_with(made: Made, method: str) -> None:
    with pytest.raises(InputError, match="group_size 2 or more, got 1"):
        made(method, group_size=1)


def test_a_batch_is_made_of_whole_groups(made: Made) -> None:
    with pytest.raises(InputError, match="batch_size must be a multiple of group_size, got 6 and 4; try 8"):
        made("grpo", group_size=4)


def test_ppo_learns_values_before_it_moves(made: Made) -> None:
    """During the critic's warm-up the policy has no gradient at all; afterwards it has."""
    algorithm = made("ppo", critic_warmup=2, kl_target=None)
    rollout = rollout_of(algorithm, (2.0, 5.0, -1.0, 0.5))
    for version, moved in ((0, False), (1, False), (2, True)):
        algorithm.roles.policy.zero_grad(set_to_none=True)
        algorithm.roles.critic.zero_grad(set_to_none=True)
        algorithm.loss(replace(rollout, weight_version=version)).values.sum().backward()
        assert any(p.grad is not None for p in algorithm.roles.policy.parameters()) == moved
        assert algorithm.roles.critic.score.weight.grad.abs().max().item() > 0


def test_advantages_of_ppo_are_whitened_and_those_of_a2c_only_if_asked(made: Made) -> None:
    plain = rollout_of(made("a2c", whiten_advantages=False, gae_lambda=1.0), (2.0, 5.0, -1.0, 0.5))
    expected = (plain.added["returns"] - plain.added["values"]) * plain.valid
    torch.testing.assert_close(plain.added["advantages"], expected)
    white = rollout_of(made("a2c", gae_lambda=1.0), (2.0, 5.0, -1.0, 0.5))
    torch.testing.assert_close(white.added["advantages"], whiten(expected, plain.valid, shift_mean=True))


def test_rft_learns_the_best_alone(made: Made) -> None:
    """Of 3 and 1 the first, of 0 and 4 the second: completions of 3 and 4 tokens."""
    algorithm = made("rft", group_size=2)
    rollout = rollout_of(algorithm, (3.0, 1.0, 0.0, 4.0))
    assert rollout.valid.sum(1).tolist() == [3, 4]
    assert rollout.scores.tolist() == [3.0, 4.0]
    gradient = weighted_scores(algorithm, rollout, torch.full((7,), 1 / 7))
    torch.testing.assert_close(policy_gradient(algorithm, rollout), gradient, atol=1e-5, rtol=1e-3)
    with pytest.raises(InputError, match="keep must be less than group_size, or nothing is rejected, got 2 and 2"):
        made("rft", group_size=2, keep=2)


def test_online_dpo_is_dpo_on_the_best_and_the_worst(made: Made) -> None:
    """Of 1 and 3 the second is better, of 4 and 0 the first; DPO's gradient is -beta sigmoid(-beta z) grad z."""
    algorithm = made("online_dpo", group_size=2)
    rollout = rollout_of(algorithm, (1.0, 3.0, 4.0, 0.0), beta=0.7)
    assert rollout.scores.tolist() == [3.0, 1.0, 4.0, 0.0]
    assert rollout.together == 2
    ratio = sequence_kl(rollout)
    z = torch.stack([ratio[0] - ratio[1], ratio[2] - ratio[3]])
    loss = algorithm.loss(rollout)
    torch.testing.assert_close(loss.values, -torch.nn.functional.logsigmoid(0.7 * z), atol=1e-5, rtol=1e-5)
    slope = 0.7 * (-0.7 * z).sigmoid() / 2
    each = torch.stack([slope[0], -slope[0], slope[1], -slope[1]])[:, None] * rollout.valid
    gradient = weighted_scores(algorithm, rollout, each[rollout.valid])
    torch.testing.assert_close(policy_gradient(algorithm, rollout), gradient, atol=1e-5, rtol=1e-3)


def test_online_dpo_calls_equal_scores_a_tie_and_can_be_soft(made: Made) -> None:
    assert rollout_of(made("online_dpo", group_size=2), (2.0, 2.0, 5.0, 4.0)).added["label"].tolist() == [
        0.5,
        0.5,
        1.0,
        1.0,
    ]
    soft = rollout_of(made("online_dpo", group_size=2, soft=True), (2.0, 2.0, 5.0, 4.0)).added["label"].tolist()
    assert soft == pytest.approx([0.5, 0.5, 0.7310586, 0.7310586])


def test_every_step_of_trpo_keeps_to_its_bound(made: Made) -> None:
    """Over four rollouts: the KL that is logged is that of the distributions, measured here, and at most max_kl."""
    algorithm = made("trpo", max_kl=0.01, cg_steps=10)
    parameters = [p for model in algorithm.roles.trained for p in model.parameters()]
    optimizer = Optimizer(parameters, Schedule(1e-3, 10, 0, "constant"))
    taken = []
    for _ in range(4):
        rollout = rollout_of(algorithm, (3.0, 1.0, 0.0, 4.0))
        old = algorithm.roles.distributions(rollout).detach()
        logged = algorithm.step(rollout, optimizer)
        new = algorithm.roles.distributions(rollout).detach()
        kl = (old.exp() * (old - new)).sum(-1).mean().item()
        assert logged["policy/kl"].item() == pytest.approx(kl, abs=1e-6)
        assert kl <= 0.01
        taken.append(logged["policy/accepted"].item())
        if taken[-1]:
            ratio = (algorithm.roles.logprobs(rollout) - rollout.added["logprobs"][rollout.valid]).exp()
            gain = ((ratio - 1) * rollout.added["advantages"][rollout.valid]).mean().item()
            assert logged["policy/gain"].item() == pytest.approx(gain, abs=1e-5)
            assert gain > 0
    assert sum(taken) >= 3


def test_trpos_direction_is_the_natural_gradient(made: Made) -> None:
    """F v against an F built from the gradients of every token's log-probability, weighted by its probability."""
    algorithm = made("trpo")
    roles = algorithm.roles
    algorithm.weights = [roles.policy.model.norm.weight]
    rollout = rollout_of(algorithm, (3.0, 1.0, 0.0, 4.0)).rows([2])
    logp = roles.distributions(rollout)
    size = algorithm.weights[0].numel()
    fisher = torch.zeros(size, size)
    for decision in logp:
        slopes = torch.stack(
            [torch.autograd.grad(value, algorithm.weights, retain_graph=True)[0] for value in decision]
        )
        fisher += slopes.T @ (decision.detach().exp()[:, None] * slopes) / len(logp)
    vector = torch.randn(size, generator=torch.Generator().manual_seed(0))
    found = algorithm._hessian_product(rollout, [logp.detach()], vector, float(len(logp)))
    torch.testing.assert_close(found, fisher @ vector, atol=1e-5, rtol=1e-3)


def test_trpos_fisher_matrix_may_be_of_some_completions(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second one here. The step keeps to its bound on all four."""
    algorithm = made("trpo", max_kl=0.01, cg_steps=10, fisher_share=0.5)
    rollout = rollout_of(algorithm, (3.0, 1.0, 0.0, 4.0))
    old = algorithm.roles.distributions(rollout).detach()
    seen, usual = [], algorithm._hessian_product

    def watched(some: Rollout, before: list[Tensor], vector: Tensor, count: float) -> Tensor:
        seen.append((some.ids.tolist(), count))
        return usual(some, before, vector, count)

    monkeypatch.setattr(algorithm, "_hessian_product", watched)
    parameters = [p for model in algorithm.roles.trained for p in model.parameters()]
    logged = algorithm.step(rollout, Optimizer(parameters, Schedule(1e-3, 10, 0, "constant")))
    half = rollout.rows([0, 2])
    assert len(seen) == 11
    assert all(found == (half.ids.tolist(), float(half.valid.sum())) for found in seen)
    new = algorithm.roles.distributions(rollout).detach()
    assert logged["policy/accepted"].item() == 1.0
    assert logged["policy/kl"].item() == pytest.approx((old.exp() * (old - new)).sum(-1).mean().item(), abs=1e-6)
    assert logged["policy/kl"].item() <= 0.01


def test_trpo_stays_where_it_is_when_nothing_will_do(made: Made) -> None:
    """Without advantages there is nothing to gain: the policy is the same to the bit."""
    algorithm = made("trpo", critic_steps=0)
    before = [p.detach().clone() for p in algorithm.weights]
    optimizer = Optimizer(algorithm.weights, Schedule(1e-3, 10, 0, "constant"))
    rollout = rollout_of(algorithm, (3.0, 1.0, 0.0, 4.0))
    logged = algorithm.step(rollout.adding(advantages=torch.zeros_like(rollout.added["advantages"])), optimizer)
    assert logged["policy/accepted"].item() == 0.0
    assert all(torch.equal(p, b) for p, b in zip(algorithm.weights, before, strict=True))
