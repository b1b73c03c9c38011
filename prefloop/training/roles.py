"""The trained models of a run: a policy or a reward model, whole or with an adapter, as the settings say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from prefloop.models.adapters import add_lora
from prefloop.models.device import pick_device, pick_dtype
from prefloop.models.heads import ScoreHead
from prefloop.models.load import load_policy, load_reward_model, model_config, positions_of
from prefloop.models.recompute import recompute_layers
from prefloop.models.shared import adapter_on, classifier_on
from prefloop.training.run import RunSettings


def trained_policy(ref: str, settings: RunSettings) -> PreTrainedModel | PeftModel:
    """The policy to train, from a directory or hub id."""
    return made_trainable(start_policy(ref, settings), settings)


def start_policy(ref: str, settings: RunSettings) -> PreTrainedModel:
    """The policy to train before it is `made_trainable`: other roles can be put on its weights as they are now."""
    return load_policy(ref, *place_of(settings), four_bit=in_four_bits(settings))


def made_trainable(policy: PreTrainedModel, settings: RunSettings) -> PreTrainedModel | PeftModel:
    """The policy with an adapter, where the settings have one, and with what else they want of a trained model."""
    return _adapted(policy, settings, "policy")


def critic_on(policy: PreTrainedModel, settings: RunSettings, pad_id: int, start: str | None = None) -> PeftModel:
    """A critic, or a discriminator, that is an adapter and a head on the `start_policy`'s own weights.

    With `start`, a reward model that was trained on those weights: a copy of its adapter, rank included, and its head.
    Without, an adapter that changes nothing yet and a new head. Raises InputError where that cannot be.
    """
    if start is not None:
        found: Any = adapter_on(policy, Path(start), trained=True)
        if settings.gradient_checkpointing:
            recompute_layers(found)
    else:
        whole = classifier_on(policy)
        ScoreHead(whole).initialise(settings.seed)
        found = _adapted(whole, settings, "reward_model")
    found.get_base_model().config.pad_token_id = pad_id
    critic: PeftModel = found
    return critic


def trained_reward_model(ref: str, settings: RunSettings, pad_id: int) -> PreTrainedModel | PeftModel:
    """A reward model to train. From a policy it gets a new head; from a reward model it keeps the one it has."""
    with torch.random.fork_rng():  # the layers of an encoder's head, where it has none yet, are drawn on loading
        torch.manual_seed(settings.seed)
        model = load_reward_model(ref, *place_of(settings), new_head=True, four_bit=in_four_bits(settings))
    model.config.pad_token_id = pad_id
    head = ScoreHead(model)
    if not has_score(ref):
        head.initialise(settings.seed)
    return _adapted(model, settings, "reward_model")


def has_score(ref: str) -> bool:
    """Whether a model was saved as a reward model, from here or elsewhere, and not as a policy."""
    return any("SequenceClassification" in name for name in stored_architectures(ref))


def stored_architectures(ref: str) -> list[str]:
    """The class names that a model's config says it was saved from."""
    return list(model_config(ref).architectures or [])


def longest_row(ref: str, settings: RunSettings, log: Callable[[str], None]) -> int:
    """Tokens that a row may have: `max_length`, or what the model can take where that is less."""
    positions = positions_of(model_config(ref))
    if settings.max_length > positions:
        log(f"max_length is {settings.max_length}, but this model takes {positions} tokens: longer rows are cut there")
    return min(settings.max_length, positions)


def place_of(settings: RunSettings) -> tuple[torch.dtype, torch.device]:
    """The number format and the device of a run."""
    device = pick_device(settings.device)
    return pick_dtype(settings.dtype, device), device


def in_four_bits(settings: RunSettings) -> bool:
    """Whether the weights under an adapter are held in 4 bits."""
    return settings.lora is not None and settings.lora.four_bit


def _adapted(model: PreTrainedModel, settings: RunSettings, task: str) -> PreTrainedModel | PeftModel:
    if settings.gradient_checkpointing:
        recompute_layers(model)
    lora = settings.lora
    if lora is None:
        return model
    return add_lora(
        model,
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
        targets=lora.targets,
        seed=settings.seed,
        task="policy" if task == "policy" else "reward_model",
    )
