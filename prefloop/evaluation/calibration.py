"""Is a reward model as sure as it is right? Expected calibration error on pairs, and one temperature that mends it.

A pair's confidence is sigma(|d| / T), d the difference of the two scores, so it lies in [0.5, 1]. Guo et al. 2017,
https://arxiv.org/abs/1706.04599, eq. 3 (ECE) and section 4.2 (temperature).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prefloop.errors import InputError
from prefloop.functional.calibration import temperature

Floats = npt.NDArray[np.float64]
BINS = 10
SIMULATIONS = 1000


def sigmoid(x: Floats) -> Floats:
    """Logistic function without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)), dtype=np.float64)


def confidence(differences: Sequence[float] | Floats, temperature: float = 1.0) -> Floats:
    """sigma(|d| / T) for differences (n,): the probability the model gives to the side it prefers."""
    if not temperature > 0:
        raise InputError(f"temperature must be above 0, got {temperature}")
    return sigmoid(np.abs(np.asarray(differences, dtype=np.float64)) / temperature)


def reliability(
    confidences: Floats, correct: Sequence[float] | Sequence[bool] | Floats, bins: int = BINS
) -> list[dict[str, Any]]:
    """Rows with similar confidence, and how often they were right: {"low", "high", "confidence", "accuracy", "n"}.

    `confidences` (n,) in [0.5, 1] fall in `bins` bins of equal width; `correct` (n,) is 1, 0, or 0.5 for equal scores.
    Empty bins are left out.
    """
    right, place = _placed(confidences, correct, bins)
    width = 0.5 / bins
    return [
        {
            "low": 0.5 + b * width,
            "high": 0.5 + (b + 1) * width,
            "confidence": float(confidences[place == b].mean()),
            "accuracy": float(right[place == b].mean()),
            "n": int((place == b).sum()),
        }
        for b in range(bins)
        if (place == b).any()
    ]


def expected_calibration_error(
    confidences: Floats, correct: Sequence[float] | Sequence[bool] | Floats, bins: int = BINS
) -> float:
    """Sum over bins of (n_b / n) |accuracy_b - confidence_b|."""
    right, place = _placed(confidences, correct, bins)
    gaps = np.bincount(place, weights=right - confidences, minlength=bins)
    return float(np.abs(gaps).sum() / len(right))


def ece_of_a_calibrated_model(
    confidences: Floats, bins: int = BINS, *, seed: int = 0, simulations: int = SIMULATIONS
) -> tuple[float, float]:
    """(mean, 95th percentile) of the ECE that chance alone gives a perfectly calibrated model at these confidences.

    With few pairs even a perfect model shows an ECE well above 0; only what exceeds this is miscalibration. Outcomes
    are drawn from the confidences themselves.
    """
    rng = np.random.default_rng(seed)
    place = np.minimum(((confidences - 0.5) / 0.5 * bins).astype(int), bins - 1)
    n = len(confidences)
    total = np.zeros(simulations)
    for b in np.unique(place):
        inside = confidences[place == b]
        for start in range(0, simulations, step := max(1, 2_000_000 // len(inside))):
            draws = rng.random((min(step, simulations - start), len(inside))) < inside
            total[start : start + len(draws)] += np.abs(draws.sum(axis=1) - inside.sum())
    return float(total.mean() / n), float(np.quantile(total / n, 0.95))


def fit_temperature(differences: Sequence[float] | Floats, labels: Sequence[float] | Floats | None = None) -> float:
    """The T > 0 that minimises the mean of -log sigma(d / T) over pairs (n,); to be fitted on held-out pairs.

    `labels` (n,) are probabilities that the first of each pair is better (default 1); the ends of the range are those
    of `functional.calibration.temperature`.
    """
    d = np.asarray(differences, dtype=np.float64)
    p = np.ones_like(d) if labels is None else np.asarray(labels, dtype=np.float64)
    if d.size == 0 or d.shape != p.shape or not np.isfinite(d).all():
        raise InputError(f"a temperature needs one finite difference per label, got {d.shape} and {p.shape}")
    return temperature(torch.from_numpy(d), torch.from_numpy(p))


def _placed(confidences: Floats, correct: Sequence[Any] | Floats, bins: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    right = np.asarray(correct, dtype=np.float64)
    if right.shape != confidences.shape or right.size == 0:
        raise InputError(f"calibration needs one outcome per confidence, got {right.shape} and {confidences.shape}")
    if confidences.min() < 0.5 or confidences.max() > 1:
        raise InputError(
            f"confidences lie in [0.5, 1], got {confidences.min():g} to {confidences.max():g}; "
            "use confidence(differences)"
        )
    return right, np.minimum(((confidences - 0.5) / 0.5 * bins).astype(np.int64), bins - 1)
