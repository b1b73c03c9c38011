"""95 % intervals by bootstrap over prompts.

Rows that share a prompt are not independent, so whole prompts are drawn, never rows. Efron & Tibshirani 1993, ch. 13
(percentile interval). Where the bootstrap is blind (one prompt only, or every outcome the same) a share falls back to
Wilson's interval (Wilson 1927) over the prompts and says so in `method`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from prefloop.errors import InputError

Floats = npt.NDArray[np.float64]
Method = Literal["bootstrap", "wilson", "none"]

RESAMPLES = 2000
CELLS_AT_ONCE = 4_000_000
"""Random indices held in memory at one time (32 MB)."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval. `n` counts rows, `groups` the prompts they came from."""

    value: float
    low: float | None
    high: float | None
    n: int
    groups: int
    method: Method = "bootstrap"

    def as_dict(self) -> dict[str, Any]:
        """The form that artifacts and `--json` hold. `method` appears only where it is not the bootstrap."""
        result: dict[str, Any] = {"value": self.value, "low": self.low, "high": self.high, "n": self.n}
        result["prompts"] = self.groups
        if self.method != "bootstrap":
            result["method"] = self.method
        return result


def mean_interval(
    values: Sequence[float] | Floats,
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> Interval:
    """Mean of `values` (n,) with a percentile bootstrap interval over `groups` (n prompt keys; None: each row its own).

    For a paired difference of two policies on the same prompts, pass the row-wise differences. With one group the
    bootstrap knows nothing: low and high are None. Raises InputError for no rows, unequal lengths or values that are
    not finite.
    """
    value, sums, counts = _clusters(values, groups)
    n, g = int(counts.sum()), len(counts)
    if g < 2:
        return Interval(value, None, None, n, g, "none")
    means = resampled_means(sums, counts, seed=seed, resamples=resamples)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), n, g)


def difference_interval(
    one: Sequence[float] | Floats,
    groups: Sequence[Hashable] | None,
    other: Sequence[float] | Floats,
    other_groups: Sequence[Hashable] | None,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Mean of `one` less the mean of `other`, which are of different prompts: {"value", "low", "high"}.

    Both are resampled, each over its own prompts; low and high are None where either has one prompt only.
    """
    first, second = _clusters(one, groups), _clusters(other, other_groups)
    result: dict[str, Any] = {"value": first[0] - second[0], "low": None, "high": None}
    if min(len(first[2]), len(second[2])) > 1:
        means = [resampled_means(side[1], side[2], seed=seed + k) for k, side in enumerate((first, second))]
        result["low"], result["high"] = map(float, np.quantile(means[0] - means[1], [0.025, 0.975]))
    return result


def share_interval(
    values: Sequence[float] | Sequence[bool] | Floats,
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> Interval:
    """A share (values in 0..1, ties 0.5) with its interval: the bootstrap over prompts, Wilson's where that is blind.

    Thirty successes of thirty would give the bootstrap interval [1, 1]; Wilson's says [0.886, 1].
    Raises InputError for values outside 0..1 and where `mean_interval` does.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size and (np.nanmin(array) < 0 or np.nanmax(array) > 1):
        raise InputError(f"a share needs values between 0 and 1, got {np.nanmin(array):g} to {np.nanmax(array):g}")
    plain = mean_interval(array, groups, seed=seed, resamples=resamples, level=level)
    if plain.low is not None and plain.high is not None and plain.low < plain.high:
        return plain
    low, high = wilson(plain.value, plain.groups, level=level)
    return Interval(plain.value, low, high, plain.n, plain.groups, "wilson")


def sliced_shares(
    values: Sequence[float] | Sequence[bool] | Floats,
    groups: Sequence[Hashable] | None,
    column: Sequence[Hashable],
    *,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """`share_interval` within each value of `column` (n,), by name; rows whose value is None are left out."""
    array = np.asarray(values, dtype=np.float64)
    if len(column) != len(array):
        raise InputError(f"a slice needs one value per row: got {len(column)} for {len(array)} rows")
    keys: Sequence[Hashable] = range(len(array)) if groups is None else groups
    result: dict[str, dict[str, Any]] = {}
    for name in sorted({str(c) for c in column if c is not None}):
        rows = [i for i, c in enumerate(column) if c is not None and str(c) == name]
        result[name] = share_interval(array[rows], [keys[i] for i in rows], seed=seed).as_dict()
    return result


def wilson(share: float, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a share of n independent trials."""
    if n < 1:
        raise InputError(f"an interval needs at least one trial, got {n}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def resampled_means(sums: Floats, counts: Floats, *, seed: int = 0, resamples: int = RESAMPLES) -> Floats:
    """Means (resamples,) when whole clusters, given as sums (g,) and row counts (g,), are drawn with replacement."""
    rng = np.random.default_rng(seed)
    g = len(sums)
    means = np.empty(resamples)
    step = max(1, CELLS_AT_ONCE // g)
    for start in range(0, resamples, step):
        drawn = rng.integers(0, g, size=(min(step, resamples - start), g))
        means[start : start + len(drawn)] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return means


def _clusters(values: Sequence[Any] | Floats, groups: Sequence[Hashable] | None) -> tuple[float, Floats, Floats]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise InputError(f"nothing to measure: an interval needs at least one row, got shape {array.shape}")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array))[0])
        raise InputError(f"row {row} is {array[row]}; every measured value must be a finite number")
    if groups is None:
        return float(array.mean()), array, np.ones_like(array)
    if len(groups) != len(array):
        raise InputError(f"each row needs its prompt: got {len(groups)} prompts for {len(array)} rows")
    number: dict[Hashable, int] = {}
    index = np.array([number.setdefault(key, len(number)) for key in groups])
    sums = np.bincount(index, weights=array).astype(np.float64)
    counts = np.bincount(index).astype(np.float64)
    return float(array.mean()), sums, counts
