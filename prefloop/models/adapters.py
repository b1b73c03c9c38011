"""Low-rank adapters (PEFT): put on before training, merged for saving, and kept beside the merged weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefloop.errors import InputError
from prefloop.models.load import disk_errors, save_model


def add_lora(
    model: PreTrainedModel,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: list[str] | str,
    seed: int,
    task: Literal["policy", "reward_model"],
) -> PeftModel:
    """Freeze `model` and put adapters on its layers; a reward model's head is trained whole.

    Raises InputError when no layer has one of the names in `targets`.
    """
    torch.manual_seed(seed)
    kind = TaskType.CAUSAL_LM if task == "policy" else TaskType.SEQ_CLS
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, task_type=kind)
    try:
        with warnings.catch_warnings():
            # PEFT still asks transformers by an old name; there is nothing that a user could do about it.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
            return get_peft_model(model, config)
    except ValueError as error:
        raise InputError(f"lora.targets {targets!r}: {error}") from None


def save_trained(model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a trained model; of an adapted one the merged weights, with the adapter in `adapter/`."""
    if isinstance(model, PeftModel):
        with disk_errors():
            model.save_pretrained(str(folder / "adapter"))
        (folder / "adapter" / "README.md").unlink(missing_ok=True)
        merged: Any = model.merge_and_unload()
        save_model(merged, tokenizer, folder)
    else:
        save_model(model, tokenizer, folder)
