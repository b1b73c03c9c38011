"""Trust Region Policy Optimization. Schulman et al. 2015, https://arxiv.org/abs/1502.05477

One large step per rollout and not many small ones: along the natural gradient, as far as the mean KL from the policy
that sampled may go, which is measured before the step is kept. It alone takes its step itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from prefloop.datasets.collate import micro_batches
from prefloop.errors import RunError
from prefloop.functional.returns import generalized_advantages, penalised_rewards, whiten
from prefloop.functional.trust_region import backtrack, conjugate_gradient
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.online_roles import Roles, roles_of
from prefloop.training.optimizer import Optimizer
from prefloop.training.rollout import Rollout
from prefloop.training.run import Run

Fraction = Annotated[float, Field(ge=0, le=1)]

DEFAULTS: dict[str, Any] = {"lr": 1e-5, "batch_size": 64, "schedule": "linear", "log_every": 1}


@dataclass(frozen=True, kw_only=True)
class TRPOConfig:
    """Settings of `train trpo`, beside those of every run and of every online run."""

    max_kl: PositiveFloat = 0.01
    """The mean KL per decision, in nats, that a step may go from the policy that sampled."""
    cg_steps: PositiveInt = 15
    """Products with the Fisher matrix in which the direction is found."""
    fisher_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of a rollout's completions that the Fisher matrix is of: a tenth gives nearly the same direction for a
    tenth of the time (appendix C of the paper). The KL of a step is measured on all of them."""
    damping: NonNegativeFloat = 0.1
    """Added to the Fisher matrix's diagonal."""
    shrink: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """A step that goes too far, or gains nothing, is tried again at this share of it."""
    tries: PositiveInt = 10
    """After so many tries the policy stays where it is."""
    critic_steps: NonNegativeInt = 10
    """Steps of the critic on each rollout, at the run's lr."""
    gamma: Fraction = 1.0
    """Discount per token."""
    gae_lambda: Fraction = 0.95
    """0 trusts only the critic; 1 only the return."""


class TRPO:
    """`step` moves the policy; `loss` is the critic's, one value per decision."""

    name = "trpo"

    def __init__(self, config: TRPOConfig, roles: Roles, budget: int) -> None:
        """`budget`: tokens that go through the model at once."""
        self.config, self.roles, self.budget = config, roles, budget
        self.weights = [p for p in roles.policy.parameters() if p.requires_grad]

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> Rollout:
        """Rewards, then advantages and returns by GAE; the advantages are whitened."""
        c, valid, seen = self.config, rollout.valid, rollout.added
        rewards = penalised_rewards(rollout.scores, seen["logprobs"], seen["reference"], valid, rollout.beta)
        advantages, returns = generalized_advantages(rewards, seen["values"], valid, c.gamma, c.gae_lambda)
        return rollout.adding(advantages=whiten(advantages, valid, shift_mean=True), returns=returns)

    def loss(self, minibatch: Rollout) -> Loss:
        """The critic's squared error."""
        (returns,) = minibatch.decisions("returns")
        values = (self.roles.values(minibatch) - returns).square()
        return Loss(values, torch.ones_like(values), {"loss/value_avg": values.detach()})

    def divisor(self, minibatch: Rollout) -> float:
        """The mean over decisions."""
        return float(minibatch.valid.sum())

    def step(self, rollout: Rollout, optimizer: Optimizer) -> dict[str, Tensor]:
        """Maximise the mean of ratio times A subject to mean KL(old || new) <= max_kl (eq. 14); then fit the critic."""
        c, count = self.config, self.divisor(rollout)
        with torch.no_grad():
            old = [self.roles.distributions(part) for part in self._parts(rollout)]
        slope = self._summed(rollout, lambda part, _: self._surrogate(part) / count, old)

        some, theirs = rollout, old
        if c.fisher_share < 1:  # whole distributions are large: only of some completions are they there twice
            some = rollout.rows(_spread(len(rollout), c.fisher_share))
            with torch.no_grad():
                theirs = [self.roles.distributions(part) for part in self._parts(some)]

        def fisher(vector: Tensor) -> Tensor:
            """(F + damping) v: the Hessian of the mean KL at the old policy times v."""
            return self._hessian_product(some, theirs, vector, self.divisor(some)) + c.damping * vector

        direction = conjugate_gradient(fisher, slope, c.cg_steps)
        curvature = float(direction @ fisher(direction))
        if not math.isfinite(curvature):
            raise RunError(f"the step became {curvature} in {rollout.words}; lower max_kl or raise damping")
        length = (2 * c.max_kl / curvature) ** 0.5 if curvature > 0 else 0.0
        masters = [
            m for p, m in zip(optimizer.live, optimizer.masters, strict=True) if any(p is w for w in self.weights)
        ]
        start = [m.detach().clone() for m in masters]

        @torch.no_grad()
        def attempt(share: float) -> tuple[float, float]:
            shifts = torch.split(share * length * direction, [m.numel() for m in masters])
            for master, at, shift in zip(masters, start, shifts, strict=True):
                master.copy_(at + shift.view(at.shape))
            optimizer.round_back()
            parts = list(zip(self._parts(rollout), old, strict=True))
            kl = sum(float(_kl(before, self.roles.distributions(part)).sum()) for part, before in parts) / count
            gain = sum(float(self._surrogate(part)) for part, _ in parts) / count
            return kl, gain - float(rollout.added["advantages"][rollout.valid].sum()) / count

        taken = backtrack(attempt, c.max_kl, c.shrink, c.tries)
        if taken is None:
            attempt(0.0)
        share, kl, gain = taken or (0.0, 0.0, 0.0)
        found = {"policy/kl": kl, "policy/step": share, "policy/gain": gain}
        found["policy/accepted"] = float(taken is not None)
        at = optimizer.steps
        for _ in range(c.critic_steps):
            optimizer.steps = at  # the learning rate's schedule counts rollouts
            for part in self._parts(rollout):
                loss = self.loss(part)
                optimizer.backward(loss.values.sum() / count, rollout.words)
                found["loss/value_avg"] = float(loss.values.detach().mean())
            found |= optimizer.step(rollout.words)
        return {name: torch.tensor(value) for name, value in found.items()}

    def _parts(self, rollout: Rollout) -> Iterator[Rollout]:
        lengths = rollout.lengths.tolist()
        for micro in micro_batches(range(len(rollout)), lambda i: lengths[i], self.budget):
            yield rollout.rows(micro)

    def _surrogate(self, part: Rollout) -> Float[Tensor, ""]:
        """Sum over decisions of ratio times advantage."""
        before, advantages = part.decisions("logprobs", "advantages")
        return ((self.roles.logprobs(part) - before).exp() * advantages).sum()

    def _summed(self, rollout: Rollout, value: Any, old: list[Tensor]) -> Float[Tensor, "n"]:
        """The gradient of the sum of `value(part, old)` over the rollout, as one vector in float32."""
        total = torch.zeros(sum(w.numel() for w in self.weights), device=self.weights[0].device)
        for part, before in zip(self._parts(rollout), old, strict=True):
            total += _flat(torch.autograd.grad(value(part, before), self.weights))
        return total

    def _hessian_product(self, rollout: Rollout, old: list[Tensor], vector: Tensor, count: float) -> Float[Tensor, "n"]:
        def slope_along(part: Rollout, before: Tensor) -> Tensor:
            mean = _kl(before, self.roles.distributions(part)).sum() / count
            return _flat(torch.autograd.grad(mean, self.weights, create_graph=True)) @ vector

        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
            return self._summed(rollout, slope_along, old)


def _spread(rows: int, share: float) -> list[int]:
    """So many of the rows, evenly: neighbours may answer the same prompt."""
    kept = math.ceil(rows * share)
    return [i * rows // kept for i in range(kept)]


def _kl(old: Float[Tensor, "n V"], new: Float[Tensor, "n V"]) -> Float[Tensor, "n"]:
    """KL(old || new) of each decision over the whole vocabulary, from log-probabilities."""
    return (old.exp() * (old - new)).sum(-1)


def _flat(tensors: Any) -> Float[Tensor, "n"]:
    return torch.cat([t.float().flatten() for t in tensors])


def build(config: TRPOConfig, run: Run, inputs: Inputs) -> TRPO:
    """TRPO from what a run names."""
    return TRPO(config, roles_of(run, inputs, critic=True), run.settings.micro_batch_tokens)
