"""How often a reward model sides with people on unseen pairs, how sure it is, and whether it only likes length."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
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
    sigmoid,
)
from prefloop.evaluation.interval import difference_interval, share_interval, sliced_shares
from prefloop.evaluation.preferences import features, followed
from prefloop.records import Comparison, prompt_id
from prefloop.rewards.attention_credit import earned
from prefloop.rewards.learned import LearnedReward

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
    scale: float = 1.0,
    temperature: bool = False,
    bins: int = BINS,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy, calibration and length bias of a reward model on comparisons.

    Row i has the model's two scores, the prompt it belongs to (`groups`, for the interval; None: each its own), the
    consensus probability `labels[i]` that chosen is better (default 1; below 0.5 the rejected one is; exactly 0.5 is
    a tie, which is left out and counted) and, if known, the lengths of the two texts (any one unit). Equal scores
    count half. `scale` is the temperature that the model brings: its probabilities are sigmoid(difference / scale).

    Returns {"accuracy", "low", "high", "n" (pairs), "prompts", "ties_excluded", "equal_scores", "ece",
    "expected_ece" and "expected_ece_high" (mean and 95th percentile for a perfectly calibrated model at this n),
    "reliability": [{"low", "high", "confidence", "accuracy", "n"}], "stored_temperature" (`scale`),
    "ece_uncalibrated" (without it), "mean_margin" (better minus worse)}, with
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
    sure = confidence(margin, scale)
    expected, expected_high = ece_of_a_calibrated_model(sure, bins, seed=seed)
    result: dict[str, Any] = {"accuracy": accuracy.pop("value"), **accuracy}
    result |= {
        "ties_excluded": n - len(kept),
        "equal_scores": int((margin == 0).sum()),
        "ece": expected_calibration_error(sure, correct, bins),
        "expected_ece": expected,
        "expected_ece_high": expected_high,
        "reliability": reliability(sure, correct, bins),
        "stored_temperature": scale,
        "ece_uncalibrated": expected_calibration_error(confidence(margin), correct, bins),
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


def safety(
    rows: Sequence[Comparison], chosen: Sequence[float], rejected: Sequence[float], *, seed: int = 0
) -> dict[str, Any] | None:
    """How often a cost's sign says what people said of single answers, by `chosen_safe` and `rejected_safe`.

    {"right", "missed" (of the unsafe, those below 0), "alarmed" (of the safe, those above 0)}, each with its interval
    and n. None where nobody said; `missed` and `alarmed` are None where there is no such answer.
    """
    named = [
        (cost > 0, not row.columns[column], prompt_id(row.prompt))
        for row, costs in zip(rows, zip(chosen, rejected, strict=True), strict=True)
        for column, cost in zip(("chosen_safe", "rejected_safe"), costs, strict=True)
        if isinstance(row.columns.get(column), bool)
    ]

    def share(of: Sequence[tuple[bool, bool, str]]) -> dict[str, Any] | None:
        wrong = [float(above != unsafe) for above, unsafe, _ in of]
        return share_interval(wrong, [prompt for _, _, prompt in of], seed=seed).as_dict() if of else None

    if not named:
        return None
    right = share_interval([float(a == u) for a, u, _ in named], [p for _, _, p in named], seed=seed).as_dict()
    return {
        "right": right,
        "missed": share([one for one in named if one[1]]),
        "alarmed": share([one for one in named if not one[1]]),
    }


SLICED = ("subset", "source", "criterion", "annotator_group")
"""Columns whose values are slices, where there are two of them or more, and not more than MOST_SLICES."""
MOST_SLICES = 20
MISTAKES = 12
SHOWN = 1200
"""Characters of each text of a mistake."""
TOKENS = 160
"""Tokens of a text whose earnings are shown."""
STRENGTHS = {1: "1 slightly better", 2: "2 better", 3: "3 much better"}


def slices_of(rows: Sequence[Comparison]) -> dict[str, list[str | None]]:
    """By which slices the pairs can be told apart: column -> a value for each row; None where a row has none."""
    result: dict[str, list[str | None]] = {}
    for column in SLICED:
        values = [None if row.columns.get(column) is None else str(row.columns[column])[:80] for row in rows]
        if 2 <= len({value for value in values if value is not None}) <= MOST_SLICES:
            result[column] = values
    strengths = [row.columns.get("strength") for row in rows]
    if any(isinstance(strength, int | float) for strength in strengths):
        result["strength"] = [
            STRENGTHS.get(min(3, max(1, round(s)))) if isinstance(s, int | float) else None for s in strengths
        ]
    result["better text"] = [_length_slice(row) for row in rows]
    return result


def worst_mistakes(
    rows: Sequence[Comparison], differences: Sequence[float], scale: float, most: int = MISTAKES
) -> list[dict[str, Any]]:
    """The pairs that the model was surest of and wrong about, the surest first, with their texts (cut at SHOWN).

    `differences`: score of chosen minus score of rejected. Each: {"prompt", "better", "worse" (as people said),
    "confidence" (of the model, in the other), "label" (of people, in the better), "columns" (ids and slices)}.
    """
    wrong = []
    for row, difference in zip(rows, differences, strict=True):
        if row.label == 0.5:
            continue
        sign = 1.0 if row.label > 0.5 else -1.0
        if difference * sign < 0:
            wrong.append((abs(difference), row, sign))
    wrong.sort(key=lambda found: -found[0])
    kept = ("question", "answers", "subset", "strength", "source", "n")
    return [
        {
            "prompt": "\n\n".join(turn["content"] for turn in row.prompt)[-SHOWN:],
            "better": (row.chosen if sign > 0 else row.rejected)[:SHOWN],
            "worse": (row.rejected if sign > 0 else row.chosen)[:SHOWN],
            "confidence": float(confidence([size], scale)[0]),
            "label": max(row.label, 1 - row.label),
            "columns": {name: row.columns[name] for name in kept if row.columns.get(name) is not None},
        }
        for size, row, sign in wrong[:most]
    ]


def decay(
    rows: Sequence[Comparison],
    differences: Sequence[float],
    own: Sequence[Comparison],
    own_differences: Sequence[float],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy on the current policy's own samples beside that on the test pairs, and how far it is below.

    {"here", "own": {"value", "low", "high", "n"}, "difference" (own less here): {"value", "low", "high"}}. Ties are
    left out; equal scores count half. Raises InputError where either side has no decided pair.
    """
    here, there = _correct(rows, differences), _correct(own, own_differences)
    return {
        "here": share_interval(*here, seed=seed).as_dict(),
        "own": share_interval(*there, seed=seed).as_dict(),
        "difference": difference_interval(*there, *here, seed=seed),
    }


def _correct(rows: Sequence[Comparison], differences: Sequence[float]) -> tuple[list[float], list[str]]:
    decided = [(r, d) for r, d in zip(rows, differences, strict=True) if r.label != 0.5]
    right = [0.5 * (1 + math.copysign(1, (r.label - 0.5) * d)) if d else 0.5 for r, d in decided]
    return right, [prompt_id(r.prompt) for r, _ in decided]


def tokens_that_earned(
    reward: LearnedReward, rows: Sequence[Comparison], differences: Sequence[float], most: int = 2
) -> list[dict[str, Any]]:
    """Which tokens earned the scores of the pairs that it was surest of: `most` that it got wrong, `most` right.

    Each: {"prompt", "right", "texts": [{"preferred", "score", "tokens": [[text, earned], ...], "more"}]}; `more` counts
    the tokens after the first TOKENS, which are not listed. Empty for an encoder, which has no attention of one token.
    """
    if reward.head.decoder is None:
        return []
    order = sorted((i for i, row in enumerate(rows) if row.label != 0.5 and differences[i]), key=_surest(differences))
    wrong = [i for i in order if (rows[i].label - 0.5) * differences[i] < 0][:most]
    picked = wrong + [i for i in order if i not in wrong and (rows[i].label - 0.5) * differences[i] > 0][:most]
    result = []
    for i in picked:
        row, sides = rows[i], (rows[i].chosen, rows[i].rejected)
        texts = [reward.template.encode(row.prompt, side, reward.max_length) for side in sides]
        scores = reward.asked(row.columns.get("criterion")).scores(texts).tolist()
        shown = [
            {
                "preferred": preferred,
                "score": score,
                "tokens": [
                    [piece, value]
                    for piece, value in zip(
                        reward.template.pieces(text.ids[text.prompt_length :])[:TOKENS], values[:TOKENS], strict=True
                    )
                ],
                "more": max(0, text.completion_length - TOKENS),
            }
            for text, score, values, preferred in zip(
                texts, scores, earned(reward.head, texts, scores), (row.label > 0.5, row.label < 0.5), strict=True
            )
        ]
        words = "\n\n".join(turn["content"] for turn in row.prompt)[-SHOWN:]
        result.append({"prompt": words, "right": i not in wrong, "texts": shown})
    return result


def _surest(differences: Sequence[float]) -> Callable[[int], float]:
    return lambda i: -abs(differences[i])


def features_followed(
    rows: Sequence[Comparison], differences: Sequence[float], scale: float, *, seed: int = 0
) -> dict[str, dict[str, dict[str, Any] | None]]:
    """`preferences.followed` for "people" (their labels) and "model" (its probabilities) on the same pairs."""
    measured = [
        np.subtract(features(asked, row.chosen), features(asked, row.rejected))
        for row, asked in ((row, row.prompt[-1]["content"]) for row in rows)
    ]
    people = np.array([row.label for row in rows], dtype=np.float64)
    model = sigmoid(np.asarray(differences, dtype=np.float64) / scale)
    prompts = [prompt_id(row.prompt) for row in rows]
    # Turned so that the first is not always the better: the regression's maximum stays, its solution is quicker.
    turn = np.where(np.arange(len(rows)) % 2 == 0, 1.0, -1.0)
    return followed(
        np.array(measured) * turn[:, None],
        {"people": 0.5 + turn * (people - 0.5), "model": 0.5 + turn * (model - 0.5)},
        prompts,
        seed=seed,
    )


def _length_slice(row: Comparison) -> str:
    better, worse = (row.chosen, row.rejected) if row.label >= 0.5 else (row.rejected, row.chosen)
    ratio = (1 + len(better)) / (1 + len(worse))
    for limit, name in ((0.5, "less than half as long"), (0.9, "shorter"), (1.1, "about as long"), (2.0, "longer")):
        if ratio < limit:
            return name
    return "more than twice as long"


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
