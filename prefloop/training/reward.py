"""What an online method is rewarded by, from its settings: a reward model, or parts put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from prefloop.datasets.feedback import marked_passages
from prefloop.datasets.rows import prompt_columns
from prefloop.errors import InputError
from prefloop.models.template import Template
from prefloop.rewards.attention_credit import Credit, CreditSettings, credit_of
from prefloop.rewards.composition import Composition, Reward, compose
from prefloop.rewards.ensemble import Ensemble
from prefloop.rewards.learned import LearnedReward, earning
from prefloop.rewards.shared_trunk import SharedTrunk
from prefloop.training.method import Inputs
from prefloop.training.roles import place_of
from prefloop.training.run import RunSettings

DEFAULT = "reward_model"
"""The artifact that is meant where neither `reward_model` nor `reward` is given."""


def reward_model_at(
    ref: str, inputs: Inputs, settings: RunSettings, trunk: PreTrainedModel | None = None
) -> LearnedReward:
    """A reward model by its name, hash or directory (relative to the run file, if it is there); becomes a parent.

    With a `trunk` it is read on that policy's own weights.
    """
    return LearnedReward(_folder(ref, inputs), *place_of(settings), max_length=settings.max_length, trunk=trunk)


def adapters_at(refs: list[str], inputs: Inputs, settings: RunSettings) -> SharedTrunk:
    """Reward models that are adapters of one base, which is loaded once; they become parents."""
    folders = [_folder(ref, inputs) for ref in refs]
    return SharedTrunk(folders, *place_of(settings), max_length=settings.max_length)


def _folder(ref: str, inputs: Inputs) -> str:
    beside = inputs.base / ref
    return inputs.resolve(str(beside) if beside.exists() else ref, "reward_model")


def model_within(reward: Reward) -> LearnedReward | None:
    """The reward model that a reward is, or the first one of its parts; cost models do not count."""
    candidates = reward.models if isinstance(reward, Composition) else [reward]
    return next((model for model in candidates if isinstance(model, LearnedReward) and not model.cost), None)


def models_of(reward: object) -> list[PreTrainedModel]:
    """Every model that a reward reads, once each: criteria of one model share its weights."""
    if isinstance(reward, Composition):
        found = [model for one in reward.models for model in models_of(one)]
    elif isinstance(reward, Ensemble):
        found = [model for one in reward.rewards for model in models_of(one)]
    else:
        found = [reward.head.model] if isinstance(reward, LearnedReward | SharedTrunk) else []
    return list({id(model): model for model in found}.values())


def credit_rule(settings: CreditSettings, reward: Reward, template: Template, inputs: Inputs) -> Credit:
    """How a score is spread over tokens. Raises InputError for attention of a model with another tokenizer."""
    if settings.spans is not None:
        beside = inputs.base / settings.spans
        source = inputs.resolve(str(beside) if beside.exists() else settings.spans, "snapshot")
        good, bad = marked_passages(Path(source))
        settings = replace(settings, good=[*settings.good, *good], bad=[*settings.bad, *bad])
    model = model_within(reward)
    if settings.by == "attention" and model is not None:
        if model.template.tokenizer.get_vocab() != template.tokenizer.get_vocab():
            raise InputError("credit by attention needs a reward model with the policy's tokenizer; use by: evenly")
    return credit_of(settings, None if model is None else model.head)


def built_reward(
    reward_model: str | None,
    reward: Mapping[str, Any] | None,
    inputs: Inputs,
    settings: RunSettings,
    trunk: PreTrainedModel | None = None,
) -> tuple[Reward, str | None]:
    """The reward, and the directory of its first reward model (what a critic starts from), None without one.

    A `reward_model` is read on the `trunk`, where there is one; parts of a `reward` say themselves what they share.
    Raises InputError when both settings are given, or one names what is not there.
    """
    if reward_model is not None and reward is not None:
        raise InputError("give either reward_model or reward; a part of reward can be `{learned: my-reward-model}`")
    places: list[str] = []

    @cache
    def learned(ref: str) -> Reward:
        """Loaded once, however many parts name it."""
        made = reward_model_at(ref, inputs, settings)
        if not made.cost:
            places.append(made.place)
        return made

    if reward is None:
        model = earning(reward_model_at(reward_model or DEFAULT, inputs, settings, trunk))
        return model, model.place
    assert inputs.data is not None
    columns = prompt_columns(inputs.data, inputs.ledger)

    def together(refs: list[str]) -> Reward:
        if trunk is None:
            return adapters_at(refs, inputs, settings)
        return Ensemble([reward_model_at(ref, inputs, settings, trunk) for ref in refs])

    made = compose(reward, learned, base=inputs.base, columns=columns, together=together)
    return made, places[0] if places else None
