"""What an online method is rewarded by, from its settings: a reward model, or parts put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefloop.datasets.rows import prompt_columns
from prefloop.errors import InputError
from prefloop.rewards.composition import Reward, compose
from prefloop.rewards.learned import LearnedReward
from prefloop.training.method import Inputs
from prefloop.training.roles import place_of
from prefloop.training.run import RunSettings

DEFAULT = "reward_model"
"""The artifact that is meant where neither `reward_model` nor `reward` is given."""


def reward_model_at(ref: str, inputs: Inputs, settings: RunSettings) -> LearnedReward:
    """A reward model by its name, hash or directory (relative to the run file, if it is there); becomes a parent."""
    beside = inputs.base / ref
    place = inputs.resolve(str(beside) if beside.exists() else ref, "reward_model")
    return LearnedReward(place, *place_of(settings), max_length=settings.max_length)


def built_reward(
    reward_model: str | None, reward: Mapping[str, Any] | None, inputs: Inputs, settings: RunSettings
) -> tuple[Reward, str | None]:
    """The reward, and the directory of its first reward model (what a critic starts from), None without one.

    Raises InputError when both settings are given, or one names what is not there.
    """
    if reward_model is not None and reward is not None:
        raise InputError("give either reward_model or reward; a part of reward can be `{learned: my-reward-model}`")
    places: list[str] = []

    def learned(ref: str) -> Reward:
        made = reward_model_at(ref, inputs, settings)
        places.append(made.place)
        return made

    if reward is None:
        return learned(reward_model or DEFAULT), places[0]
    assert inputs.data is not None
    columns = prompt_columns(inputs.data, inputs.ledger)
    return compose(reward, learned, base=inputs.base, columns=columns), places[0] if places else None
