"""Several reward models as one: their mean, the worst of them, or the mean less what they disagree about.

Coste et al. 2023, https://arxiv.org/abs/2310.02743: optimising against the worst (WCO) or the mean less a penalty times
the variance (UWO) is harder to fool than one model or the mean. Members are the heads of one model (`members: 5`), or
whole models that were trained apart, which disagree more and so know more of what they do not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.errors import InputError
from prefloop.records import Message

Combine = Literal["mean", "worst", "penalised"]


class HasMembers(Protocol):
    """A reward with several opinions."""

    @property
    def temperature(self) -> float: ...

    def members(
        self, prompts: Sequence[Sequence[Message]], completions: Sequence[str]
    ) -> Float[Tensor, "n members"]: ...


def combined(scores: Float[Tensor, "n members"], how: Combine, penalty: float = 0.5) -> Float[Tensor, "n"]:
    """One score of several. `penalised` is mean - penalty * variance, the population's (divided by their number).

    The authors' code takes the population variance for best-of-n and the sample variance (one less) for PPO: 2.0 and
    2.5 for scores 1 to 5. Here it is the population's everywhere, so that one penalty means one thing.
    """
    if how == "worst":
        return scores.amin(dim=1)
    mean = scores.mean(dim=1)
    return mean if how == "mean" else mean - penalty * scores.var(dim=1, correction=0)


class Ensemble:
    """A reward function made of reward models, each with one head or several; every head is a member.

    The members' scores have each mean 0 and standard deviation 1 on the completions of their own training (see
    `normalise`), which is what makes them comparable.
    """

    def __init__(self, rewards: Sequence[HasMembers], how: Combine = "mean", penalty: float = 0.5) -> None:
        if not rewards:
            raise InputError("an ensemble needs at least one reward model")
        self.rewards, self.how, self.penalty = list(rewards), how, penalty

    def __call__(
        self, prompts: Sequence[Sequence[Message]], completions: Sequence[str], **columns: Sequence[Any]
    ) -> list[float]:
        """One score per completion."""
        found: list[float] = combined(self.members(prompts, completions), self.how, self.penalty).tolist()
        return found

    @property
    def temperature(self) -> float:
        """P(a is preferred to b) = sigmoid((score(a) - score(b)) / temperature): the mean of the models'."""
        return sum(reward.temperature for reward in self.rewards) / len(self.rewards)

    @property
    def cost(self) -> bool:
        """Whether one of them is a cost model, whose score is higher for what is worse."""
        return any(getattr(reward, "cost", False) for reward in self.rewards)

    def members(self, prompts: Sequence[Sequence[Message]], completions: Sequence[str]) -> Float[Tensor, "n members"]:
        """What each member says."""
        return torch.cat([reward.members(prompts, completions) for reward in self.rewards], dim=1)
