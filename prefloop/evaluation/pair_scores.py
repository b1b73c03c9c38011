"""What a reward says of both sides of comparisons."""

from __future__ import annotations

from collections.abc import Sequence

from prefloop.errors import InputError
from prefloop.records import Comparison
from prefloop.rewards.composition import Reward, scored
from prefloop.rewards.learned import LearnedReward


def both_sides(reward: Reward, pairs: Sequence[Comparison]) -> tuple[list[float], list[float]]:
    """Scores of what was chosen and of what was rejected; a reward model's by the criterion that a pair is about.

    A criterion's are brought to the temperature of the score itself. Raises InputError for a pair about a score that
    the model never learned.
    """
    judges: list[Reward] = [
        reward.asked(pair.columns.get("criterion")) if isinstance(reward, LearnedReward) else reward for pair in pairs
    ]
    about = [getattr(judge, "criterion", None) for judge in judges]
    found: list[tuple[float, float]] = [(0.0, 0.0)] * len(pairs)
    for criterion, judge in dict(zip(about, judges, strict=True)).items():
        rows = [i for i, one in enumerate(about) if one == criterion]
        some = [pairs[i] for i in rows]
        heat = 1.0
        if isinstance(reward, LearnedReward) and isinstance(judge, LearnedReward):
            if judge.untaught:
                raise InputError(f"{len(some)} of {len(pairs)} pairs are about no criterion, and {judge.untaught}")
            heat = reward.temperature / judge.temperature
        names = {name for pair in some for name in pair.columns} - {"prompts", "completions"}
        columns = {name: [pair.columns.get(name) for pair in some] * 2 for name in sorted(names)}
        texts = [pair.chosen for pair in some] + [pair.rejected for pair in some]
        scores = [heat * one for one in scored(judge, [pair.prompt for pair in some] * 2, texts, **columns).total]
        for i, one, other in zip(rows, scores[: len(some)], scores[len(some) :], strict=True):
            found[i] = one, other
    return [first for first, _ in found], [second for _, second in found]
