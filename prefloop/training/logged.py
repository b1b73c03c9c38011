"""What some policy once wrote, and what it got for it: the rows of the methods that learn from a log."""

from __future__ import annotations

from prefloop.datasets.rows import RewardedRow, rewarded_rows
from prefloop.models.template import Template
from prefloop.rewards.learned import LearnedReward, earning
from prefloop.training.method import Inputs
from prefloop.training.reading import Reading
from prefloop.training.roles import place_of
from prefloop.training.run import Run


def learned_reward(run: Run, inputs: Inputs, reward_model: str) -> LearnedReward:
    """The reward model that a setting names; it becomes a parent of the result."""
    place = inputs.resolve(reward_model, "reward_model")
    return earning(LearnedReward(place, *place_of(run.settings), max_length=run.settings.max_length))


def logged_rows(
    run: Run, inputs: Inputs, template: Template, reward_model: str | None
) -> tuple[list[RewardedRow], list[RewardedRow]]:
    """(train rows, held-out rows) of a run's log; a reward model, if named, scores them anew."""
    if reward_model is not None:
        run.log(f"scoring the log with {reward_model}")
    reward = None if reward_model is None else learned_reward(run, inputs, reward_model)
    return Reading(run, inputs, template).rows(rewarded_rows, reward=reward)
