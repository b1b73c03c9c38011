"""Apprenticeship learning by feature matching. Abbeel, Ng 2004, http://ai.stanford.edu/~ang/papers/icml04-apprentice.pdf

Whoever acts such that the features of what happens are on average those of an expert does as well as the expert, for
every reward that is linear in the features, whether or not the expert's own reward is ever known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """Policies to be drawn from, one per episode, and how close their mean features are to the expert's."""

    weights: Float[Tensor, "n"]
    """The probability of each response, in the order in which they were asked for; they add up to 1."""
    features: Float[Tensor, "d"]
    """Mean features of the mixture."""
    reward: Float[Tensor, "d"]
    """The last reward's weights: what the expert still has more of."""
    distances: list[float]
    """Between expert and mixture, after each response; it never grows."""


def match_features(
    expert: Float[Tensor, "d"],
    respond: Callable[[Float[Tensor, "d"]], Float[Tensor, "d"]],
    *,
    tolerance: float,
    rounds: int = 100,
) -> Mixture:
    """The projection method (sect. 3.1): ask for the best policy under a reward, move towards its features, ask again.

    `respond(w)` trains a policy for the reward w . features and returns its mean features. Ends when the mixture is
    within `tolerance` of the expert, after which |w . (mixture - expert)| <= tolerance for every w of length at most
    1; or after `rounds`; or when a response no longer helps, because no policy has the expert's features.
    """
    features = respond(torch.zeros_like(expert))
    weights = torch.ones(1, dtype=expert.dtype)
    distances: list[float] = []
    while True:
        reward = expert - features
        distances.append(float(reward.norm()))
        if distances[-1] <= tolerance or len(distances) > rounds:
            break
        change = respond(reward) - features
        # Of the points between mixture and response the one closest to the expert.
        step = float((change @ reward / (change @ change).clamp_min(1e-30)).clamp(0, 1))
        if step == 0.0:
            break
        features = features + step * change
        weights = torch.cat([(1 - step) * weights, torch.tensor([step], dtype=weights.dtype)])
    return Mixture(weights, features, reward, distances)
