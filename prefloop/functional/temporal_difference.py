"""Values from what follows: temporal differences, expectiles, targets. One value per decision.

Decisions stand in rows [B, T], as in a rollout: entry t of a row is the state before its t-th token, and behind a
row's last valid decision there is nothing to come.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def expectile_error(difference: Float[Tensor, "*n"], expectile: float) -> Float[Tensor, "*n"]:
    """|expectile - 1[u < 0]| u^2 for u = target - value (IQL, Kostrikov et al. 2021, eq. 5).

    At 0.5 half the squared error, whose minimum is the mean; towards 1 its minimum is the largest target.
    """
    return (expectile - (difference < 0).to(difference.dtype)).abs() * difference.square()


def following(values: Float[Tensor, "B T"], valid: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Each decision's entry of the one after it in its row; 0 behind the last."""
    rest = torch.zeros_like(values[:, :1])
    return torch.cat([(values * valid)[:, 1:], rest], 1)


def td_targets(
    rewards: Float[Tensor, "B T"], values: Float[Tensor, "B T"], valid: Bool[Tensor, "B T"], gamma: float
) -> Float[Tensor, "B T"]:
    """r_t + gamma V(s_{t+1}), without a gradient; V = 0 behind a row's last decision."""
    return (rewards + gamma * following(values, valid)).detach()


def final_rewards(rewards: Float[Tensor, "B"], valid: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """The reward of a whole completion, on its last decision; 0 elsewhere."""
    last = torch.arange(valid.shape[1], device=valid.device) == valid.sum(1, keepdim=True) - 1
    return rewards[:, None] * last


def soft_values(q: Float[Tensor, "*n V"], temperature: float) -> Float[Tensor, "*n"]:
    """V = T log sum_a exp(Q(s, a) / T): the value of the policy softmax(Q / T), its entropy counted at price T."""
    return temperature * (q.float() / temperature).logsumexp(-1)


def inverse_soft_q(
    values: Float[Tensor, "*n"], ahead: Float[Tensor, "*n"], rewards: Float[Tensor, "*n"], chi: float
) -> Float[Tensor, "*n"]:
    """V - gamma V' + chi r^2: what a decision costs whoever took it (Garg et al. 2021, eq. 10, chi = 1 / (4 alpha)).

    `ahead` is gamma V' and `rewards` is r = Q - gamma V'. Of an expert's decisions the loss has -r besides.
    """
    return values - ahead + chi * rewards.square()


def double_q_values(live: Float[Tensor, "*n V"], target: Float[Tensor, "*n V"]) -> Float[Tensor, "*n"]:
    """Q_target(s, argmax_a Q_live(s, a)) (van Hasselt et al. 2016, eq. 4): one chooses, the other appraises."""
    return target.gather(-1, live.argmax(-1, keepdim=True))[..., 0]


def dueling(value: Float[Tensor, "*n"], advantages: Float[Tensor, "*n V"]) -> Float[Tensor, "*n V"]:
    """Q = V + A - mean_a A (Wang et al. 2016, eq. 9): a constant added to A changes nothing."""
    return value[..., None] + advantages - advantages.mean(-1, keepdim=True)


def perturbed_logits(
    logits: Float[Tensor, "*n V"], q: Float[Tensor, "*n V"], value: Float[Tensor, "*n"], beta: float
) -> Float[Tensor, "*n V"]:
    """log pi(a) + beta (Q(a) - V): what ILQL samples from (Snell et al. 2022, sect. 4.4). beta 0 is the policy."""
    return logits.float().log_softmax(-1) + beta * (q - value[..., None])


def chosen(values: Float[Tensor, "n V"], actions: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
    """The entry of each row that its action names."""
    return values.gather(1, actions[:, None])[:, 0]


@torch.no_grad()
def polyak_(targets: Iterable[Tensor], live: Iterable[Tensor], rate: float) -> None:
    """target <- (1 - rate) target + rate live, in place; rate 1 copies."""
    for target, new in zip(targets, live, strict=True):
        target.lerp_(new, rate)
