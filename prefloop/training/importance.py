"""How far the sampler was from the trainer: a gauge, and the weights that correct what is left of the distance.

Both know the same weights, but sum in another order, or one of them is a server of its own with another precision; then
the samples are not quite those of the policy that is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from prefloop.errors import InputError
from prefloop.functional.surrogates import MAX_LOG_RATIO
from prefloop.training.rollout import Rollout


@dataclass
class Gauge:
    """Measures every rollout, and says once when the mean is above `limit`, in nats per decision."""

    limit: float
    log: Callable[[str], None]
    said: bool = False

    def __call__(self, rollout: Rollout) -> dict[str, Tensor]:
        """What is logged of a measured rollout."""
        found = sampler_gap(rollout)
        gap = float(found["sampler/logprob_gap"].mean())
        if gap > self.limit and not self.said:
            self.said = True
            self.log(
                f"sampler and trainer differ by {gap:.3f} nats per token (sampler_gap is {self.limit:g}): the samples "
                "are not quite what the policy would say; set importance_cap, or dtype=float32"
            )
        return found


def sampler_gap(rollout: Rollout) -> dict[str, Tensor]:
    """`sampler/logprob_gap`, its maximum, both in nats per decision, and the mean ratio pi_trainer / pi_sampler."""
    gap = (rollout.added["logprobs"] - rollout.sampled_logprobs)[rollout.valid]
    return {
        "sampler/logprob_gap": gap.abs(),
        "sampler/logprob_gap_max": gap.abs().max(),
        "sampler/ratio": gap.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp(),
    }


def corrected(rollout: Rollout, cap: float, name: str) -> Rollout:
    """`advantages` times min(pi_trainer / pi_sampler, cap): truncated importance sampling (Ionides 2008).

    Per decision where they are per decision, else per completion. As weights are positive, a clipped surrogate of the
    result is the weighted clipped surrogate. Raises InputError for a method (`name`) without advantages.
    """
    advantages = rollout.added.get("advantages")
    if advantages is None:
        raise InputError(f"{name} has no advantages that importance_cap could weigh; leave it out")
    gap = (rollout.added["logprobs"] - rollout.sampled_logprobs) * rollout.valid
    if advantages.ndim == 1:
        gap = gap.sum(1)
    weights = gap.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().clamp_max(cap)
    return rollout.adding(advantages=advantages * weights)
