"""Which plain features people's preferences follow, and the model's: length, format, tone, hedging, overlap, ...

A logistic regression of "the first is better" on the differences of the two completions' features, without intercept,
so that swapping a pair swaps the answer. Differences are in standard deviations: a coefficient of 0.5 multiplies the
odds by e^0.5 for one standard deviation more. Features go together in real text, so a coefficient is what one adds
to the others, and no cause. Beside it stands the same regression of what the model prefers on the same pairs: where
the model's coefficient is far above people's, it pays for the feature and not for what people pay for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from prefloop.errors import InputError

Floats = npt.NDArray[np.float64]
RIDGE = 1.0
"""Prior precision of each coefficient: with few pairs the answers could be separated, and no maximum would exist."""
RESAMPLES = 300

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_HEDGES = re.compile(
    r"\b(?:may|might|maybe|perhaps|possibly|probably|likely|could|seems?|appears?|somewhat|generally|usually|often|"
    r"i (?:think|believe|guess|suppose)|i'?m not (?:sure|certain)|not sure|it depends|as far as i know)\b",
    re.IGNORECASE,
)
_POLITE = re.compile(
    r"\b(?:please|thanks?|thank you|sorry|welcome|glad|happy to|of course|certainly|great question|regards|dear)\b",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\b(?:i can(?:'|no)t|i cannot|i won't|i'm (?:unable|not able)|as an ai|i'm sorry, but)\b", re.IGNORECASE
)
_FORMAT = re.compile(r"^\s*(?:[-*•]|\d+[.)]|#{1,6})\s|\*\*|```|\|", re.MULTILINE)


def _share(found: int, text: str) -> float:
    return found / max(1, len(_WORD.findall(text)))


FEATURES: dict[str, Callable[[str, str], float]] = {
    "length": lambda prompt, text: math.log1p(len(text)),
    "format": lambda prompt, text: math.log1p(len(_FORMAT.findall(text))),
    "politeness": lambda prompt, text: _share(len(_POLITE.findall(text)), text),
    "exclamation": lambda prompt, text: _share(text.count("!"), text),
    "hedging": lambda prompt, text: _share(len(_HEDGES.findall(text)), text),
    "question back": lambda prompt, text: float("?" in text),
    "refusal": lambda prompt, text: float(bool(_REFUSAL.search(text))),
    "numbers": lambda prompt, text: _share(len(re.findall(r"\d+", text)), text),
    "overlap with the prompt": lambda prompt, text: _overlap(prompt, text),
}
"""Of (prompt, completion); per word where a longer text would have more of it anyway."""


def features(prompt: str, text: str) -> list[float]:
    """The features of one completion, in the order of FEATURES."""
    return [measure(prompt, text) for measure in FEATURES.values()]


def followed(
    differences: Floats,
    preferred: Mapping[str, Floats],
    groups: Sequence[Hashable],
    *,
    names: Sequence[str] = tuple(FEATURES),
    seed: int = 0,
) -> dict[str, dict[str, dict[str, Any] | None]]:
    """Coefficients with 95 % bootstrap intervals over prompts: `{feature: {who: {"value", "low", "high", "n"}}}`.

    `differences` (n, features): first minus second. `preferred`: who -> probability (n,) that the first is better. A
    feature in which no pair differs has None. Raises InputError for shapes that do not fit.
    """
    n, width = differences.shape
    if width != len(names) or any(p.shape != (n,) for p in preferred.values()) or len(groups) != n or n == 0:
        raise InputError(f"{n} pairs of {width} features need {len(names)} names, and one label and prompt each")
    spread = differences.std(axis=0)
    alive = np.flatnonzero(np.abs(differences).max(axis=0) > 0)
    scaled = differences[:, alive] / np.where(spread[alive] > 0, spread[alive], 1.0)
    number: dict[Hashable, int] = {}
    group = np.array([number.setdefault(key, len(number)) for key in groups])
    rng = np.random.default_rng(seed)
    draws = [np.bincount(rng.integers(0, len(number), len(number)), minlength=len(number)) for _ in range(RESAMPLES)]
    result: dict[str, dict[str, dict[str, Any] | None]] = {name: dict.fromkeys(preferred) for name in names}
    for who, label in preferred.items():
        whole = logistic(scaled, label, np.ones(n))
        again = np.array([logistic(scaled, label, draw[group].astype(float), whole) for draw in draws])
        low, high = np.quantile(again, [0.025, 0.975], axis=0)
        for place, column in enumerate(alive):
            result[names[int(column)]][who] = {
                "value": float(whole[place]),
                "low": float(low[place]) if len(number) > 1 else None,
                "high": float(high[place]) if len(number) > 1 else None,
                "n": n,
            }
    return result


def logistic(x: Floats, y: Floats, weights: Floats, start: Floats | None = None) -> Floats:
    """The coefficients (features,) that maximise sum w [y log s(xb) + (1 - y) log s(-xb)] - RIDGE |b|^2 / 2. Newton."""
    b = np.zeros(x.shape[1]) if start is None else start.copy()
    for _ in range(30):
        p = 0.5 * (1 + np.tanh(0.5 * (x @ b)))
        slope = x.T @ (weights * (y - p)) - RIDGE * b
        bend = (x * (weights * p * (1 - p))[:, None]).T @ x + RIDGE * np.eye(len(b))
        step = np.linalg.solve(bend, slope)
        b = b + step * min(1.0, 2.0 / max(1e-12, float(np.abs(step).max(initial=0.0))))
        if float(np.abs(step).max(initial=0.0)) < 1e-6:
            break
    return b


def _overlap(prompt: str, text: str) -> float:
    """Share of the text's words of four letters and more that are in the prompt."""
    asked = {word.lower() for word in _WORD.findall(prompt) if len(word) > 3}
    said = [word.lower() for word in _WORD.findall(text) if len(word) > 3]
    return sum(word in asked for word in said) / max(1, len(said))
