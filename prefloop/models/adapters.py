"""Low-rank adapters (PEFT): put on before training, merged for saving, and kept beside the merged weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
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
    writing = TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else TaskType.CAUSAL_LM
    kind = writing if task == "policy" else TaskType.SEQ_CLS
    if kind is TaskType.SEQ_CLS and model.config.is_encoder_decoder:
        raise InputError(
            f"lora has no way to train the head of {type(model).__name__}, the critic of an encoder-decoder; "
            "leave out lora, or use a method without a critic, such as rloo"
        )
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, task_type=kind)
    try:
        with old_names():
            return get_peft_model(model, config)
    except ValueError as error:
        raise InputError(f"lora.targets {targets!r}: {error}") from None


def save_trained(model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path, *, shared: bool = False) -> None:
    """Save a trained model; of an adapted one the merged weights, with the adapter in `adapter/`.

    Where its weights are `shared` with other models, they stay what they are.
    """
    if isinstance(model, PeftModel):
        for config in model.peft_config.values():
            # PEFT keeps names in sets, whose order is another in every process; equal runs are to have equal hashes.
            vars(config).update({name: sorted(names) for name, names in vars(config).items() if isinstance(names, set)})
        with disk_errors():
            model.save_pretrained(str(folder / "adapter"))
        (folder / "adapter" / "README.md").unlink(missing_ok=True)
        save_model(merged(_apart(model) if shared else model), tokenizer, folder)
    else:
        save_model(model, tokenizer, folder)


def write_weights(model: nn.Module, folder: Path) -> None:
    """Write the weights that a model in training has now, an adapter's update added to them, in the number format that
    it is trained in; the model stays what it is."""
    whole: Any = merged(_apart(model)) if isinstance(model, PeftModel) else model
    with disk_errors():
        whole.save_pretrained(folder)


def merged(model: PeftModel) -> PreTrainedModel:
    """The adapter's update folded into the weights that it was trained on, these in full where they were in 4 bits."""
    base: Any = model.get_base_model()
    if not getattr(base, "is_loaded_in_4bit", False):
        found: PreTrainedModel = model.merge_and_unload()
        return found
    # PEFT would round the sum to 4 bits again; what was measured in training is the sum.
    settings = {name: value for name, value in base.config.to_dict().items() if name != "quantization_config"}
    whole: PreTrainedModel = type(base)(type(base.config).from_dict(settings))
    with torch.no_grad():
        for path, weight in whole.named_parameters():
            plain, update = weight_at(base, path)
            weight.copy_(plain if update is None else plain.float() + update)
    if base.can_generate():
        whole.generation_config = base.generation_config
    return whole.eval()


def weight_at(base: PreTrainedModel, path: str) -> tuple[Tensor, Tensor | None]:
    """(an adapted model's weight by the name that it has without an adapter, in full; what the adapter adds to it)."""
    owner, _, name = path.rpartition(".")
    layer: Any = base.get_submodule(owner)
    if hasattr(layer, "modules_to_save"):
        layer = layer.modules_to_save[layer.active_adapters[0]]
    if not isinstance(layer, BaseTunerLayer):
        return (dequantize_module_weight(layer) if name == "weight" else getattr(layer, name)), None
    plain: Any = layer.get_base_layer()
    if name != "weight":
        return getattr(plain, name), None
    adapted: Any = layer
    return dequantize_module_weight(plain), adapted.get_delta_weight(adapted.active_adapters[0]).float()


def _apart(model: PeftModel) -> PeftModel:
    """A copy that shares nothing, in main memory: a device that holds one trunk may have no room for a second."""
    base: Any = model.get_base_model()
    if getattr(base, "is_loaded_in_4bit", False):
        return model  # it is not merged in place
    copies: dict[int, Tensor] = {id(p): nn.Parameter(p.detach().to("cpu", copy=True)) for p in model.parameters()}
    copies |= {id(b): b.to("cpu", copy=True) for b in model.buffers()}
    return copy.deepcopy(model, copies)


@contextmanager
def old_names() -> Iterator[None]:
    """PEFT still asks transformers by an old name; there is nothing that a user could do about the warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        yield
