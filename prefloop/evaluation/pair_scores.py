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
    if not isinstance(reward, LearnedReward):
        return _scored_at_once(reward, pairs)
    judges = [reward.asked(pair.columns.get("criterion")) for pair in pairs]
    found: list[tuple[float, float]] = [(0.0, 0.0)] * len(pairs)
    for criterion, judge in {judge.criterion: judge for judge in judges}.items():
        rows = [i for i, one in enumerate(judges) if one.criterion == criterion]
        if judge.untaught:
            raise InputError(f"{len(rows)} of {len(pairs)} pairs have no column criterion, and {judge.untaught}")
        heat = reward.temperature / judge.temperature
        sides = zip(*_scored_at_once(judge, [pairs[i] for i in rows]), strict=True)
        for i, (chosen, rejected) in zip(rows, sides, strict=True):
            found[i] = heat * chosen, heat * rejected
    return [chosen for chosen, _ in found], [rejected for _, rejected in found]


def _scored_at_once(reward: Reward, pairs: Sequence[Comparison]) -> tuple[list[float], list[float]]:
    names = {name for pair in pairs for name in pair.columns} - {"prompts", "completions"}
    columns = {name: [pair.columns.get(name) for pair in pairs] * 2 for name in sorted(names)}
    texts = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    scores = scored(reward, [pair.prompt for pair in pairs] * 2, texts, **columns).total
    return list(scores[: len(pairs)]), list(scores[len(pairs) :])
