"""How often a reward model sides with people on unseen pairs, how sure it is, and whether it only likes length."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from prefloop.errors import InputError
from prefloop.evaluation.calibration import (
    BINS,
    confidence,
    ece_of_a_calibrated_model,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from prefloop.evaluation.interval import share_interval, sliced_shares

Floats = npt.NDArray[np.float64]


def evaluate_scores(
    chosen_scores: Sequence[float] | Floats,
    rejected_scores: Sequence[float] | Floats,
    groups: Sequence[Hashable] | None = None,
    labels: Sequence[float] | Floats | None = None,
    *,
    chosen_lengths: Sequence[int] | None = None,
    rejected_lengths: Sequence[int] | None = None,
    slices: Mapping[str, Sequence[Hashable]] | None = None,
    temperature: bool = False,
    bins: int = BINS,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy, calibration and length bias of a reward model on comparisons.

    Row i has the model's two scores, the prompt it belongs to (`groups`, for the interval; None: each its own), the
    consensus probability `labels[i]` that chosen is better (default 1; below 0.5 the rejected one is; exactly 0.5 is
    a tie, which is left out and counted) and, if known, the lengths of the two texts (any one unit). Equal scores
    count half.

    Returns {"accuracy", "low", "high", "n" (pairs), "prompts", "ties_excluded", "equal_scores", "ece",
    "expected_ece" and "expected_ece_high" (mean and 95th percentile for a perfectly calibrated model at this n),
    "reliability": [{"low", "high", "confidence", "accuracy", "n"}], "mean_margin" (better minus worse)}, with
    `slices` {column: n values} also "slices": {column: {value: {"value", "low", "high", "n"}}}, with lengths also
    "length" (see `length_bias`), and with `temperature` also "temperature" (fitted on all pairs) and
    "ece_after_temperature", in which the pairs of each half of the prompts are scaled by what the other half taught.

    Raises InputError for unequal lengths, scores that are not finite (the row is named), labels outside 0..1, or when
    only ties are left.
    """
    chosen, rejected = _column(chosen_scores, "chosen_scores"), _column(rejected_scores, "rejected_scores")
    n = len(chosen)
    label = np.ones(n) if labels is None else _column(labels, "labels")
    keys: Sequence[Hashable] = range(n) if groups is None else groups
    for name, column in {"rejected_scores": rejected, "labels": label, "groups": keys, **(slices or {})}.items():
        if len(column) != n:
            raise InputError(f"{name} has {len(column)} rows, chosen_scores {n}; they must be the same pairs")
    if n and (label.min() < 0 or label.max() > 1):
        raise InputError(f"labels are probabilities, 0..1; got {label.min():g} to {label.max():g}")
    kept = [i for i in range(n) if label[i] != 0.5]
    if len(kept) == 0:
        raise InputError(f"no pair has a winner: all {n} labels are 0.5; accuracy needs decided comparisons")

    sign = np.sign(label[kept] - 0.5)
    margin = (chosen - rejected)[kept] * sign
    certainty = np.maximum(label, 1 - label)[kept]
    correct = np.where(margin > 0, 1.0, np.where(margin == 0, 0.5, 0.0))
    prompts = [keys[i] for i in kept]
    accuracy = share_interval(correct, prompts, seed=seed).as_dict()
    sure = confidence(margin)
    expected, expected_high = ece_of_a_calibrated_model(sure, bins, seed=seed)
    result: dict[str, Any] = {"accuracy": accuracy.pop("value"), **accuracy}
    result |= {
        "ties_excluded": n - len(kept),
        "equal_scores": int((margin == 0).sum()),
        "ece": expected_calibration_error(sure, correct, bins),
        "expected_ece": expected,
        "expected_ece_high": expected_high,
        "reliability": reliability(sure, correct, bins),
        "mean_margin": float(margin.mean()),
    }
    if slices:
        result["slices"] = {
            name: sliced_shares(correct, prompts, [column[i] for i in kept], seed=seed)
            for name, column in slices.items()
        }
    if chosen_lengths is not None and rejected_lengths is not None:
        longer = _column(chosen_lengths, "chosen_lengths") - _column(rejected_lengths, "rejected_lengths")
        if len(longer) != n:
            raise InputError(f"lengths have {len(longer)} rows, chosen_scores {n}; they must be the same pairs")
        result["length"] = length_bias(longer[kept] * sign, margin, prompts, seed=seed)
    if temperature:
        result["temperature"] = fit_temperature(margin, certainty)
        scaled = _scaled_by_the_other_half(margin, certainty, prompts, seed)
        result["ece_after_temperature"] = expected_calibration_error(confidence(scaled), correct, bins)
    return result


def length_bias(
    longer: Floats, margin: Floats, groups: Sequence[Hashable] | None = None, *, seed: int = 0
) -> dict[str, Any]:
    """What length alone explains, on the same pairs.

    `longer` (n,) is the better text's length minus the worse one's, `margin` (n,) its score minus the other's.
    "longer_wins": accuracy of always choosing the longer text (equal lengths half) with its interval;
    "better_is_longer": share of pairs whose better text is strictly longer;
    "model_prefers_longer": share of the unequal pairs in which the model scores the longer text higher, None without
    one. A model whose share is far above better_is_longer pays for length.
    """
    rule = np.where(longer > 0, 1.0, np.where(longer == 0, 0.5, 0.0))
    unequal = longer != 0
    follows = np.where(margin == 0, 0.5, (margin * longer > 0).astype(float))[unequal]
    return {
        "longer_wins": share_interval(rule, groups, seed=seed).as_dict(),
        "better_is_longer": float((longer > 0).mean()),
        "model_prefers_longer": float(follows.mean()) if unequal.any() else None,
    }


def _scaled_by_the_other_half(margin: Floats, labels: Floats, prompts: Sequence[Hashable], seed: int) -> Floats:
    """Margins divided by the temperature that was fitted on the prompts of the other half."""
    names = list(dict.fromkeys(prompts))
    if len(names) < 2:
        raise InputError("a temperature needs held-out pairs: at least two different prompts")
    half = dict(zip(names, np.random.default_rng(seed).permutation(len(names)) % 2, strict=True))
    side = np.array([half[p] for p in prompts])
    scaled = np.empty_like(margin)
    for s in (0, 1):
        scaled[side == s] = margin[side == s] / fit_temperature(margin[side != s], labels[side != s])
    return scaled


def _column(values: Sequence[float] | Floats, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise InputError(f"{name} must be one number per pair, got shape {array.shape}")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array))[0])
        raise InputError(f"{name}: row {row} is {array[row]}; every score must be a finite number")
    return array
