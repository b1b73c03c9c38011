"""The one number that makes a preference model as sure as it is right."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

REACH = 1e4
"""A temperature is looked for within this factor of the median |difference|, either way."""


def temperature(differences: Float[Tensor, "n"], labels: Float[Tensor, "n"]) -> float:
    """The T > 0 that minimises the mean of -log sigmoid(d / T) over pairs (Guo et al. 2017, section 4.2).

    `labels` are probabilities that the first of each pair is better. The loss is convex in 1/T, so its derivative is
    bisected. At the ends: pairs that are all right ask for T -> 0, a model no better than chance for T -> infinity; the
    end of the range is returned. Without any difference no temperature changes anything, and 1 is returned.
    """
    d, p = differences.detach().cpu().double(), labels.detach().cpu().double()
    unequal = d[d != 0].abs()
    if len(unequal) == 0:
        return 1.0
    scale = float(unequal.quantile(0.5)) if len(unequal) < 1_000_000 else float(unequal.median())

    def slope(u: float) -> float:
        return float(torch.dot(d, (u * d).sigmoid() - p))

    low, high = 1 / (scale * REACH), REACH / scale
    if slope(low) >= 0:
        return 1 / low
    if slope(high) <= 0:
        return 1 / high
    for _ in range(80):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / math.sqrt(low * high)
