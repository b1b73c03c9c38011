"""Low-rank adapters (PEFT): put on before training, merged for saving, and kept beside the merged weights."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefloop.errors import InputError
from prefloop.models.load import disk_errors, load_reward_model, save_model


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
        with _old_names():
            return get_peft_model(model, config)
    except ValueError as error:
        raise InputError(f"lora.targets {targets!r}: {error}") from None


def save_trained(model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a trained model; of an adapted one the merged weights, with the adapter in `adapter/`."""
    if isinstance(model, PeftModel):
        with disk_errors():
            model.save_pretrained(str(folder / "adapter"))
        (folder / "adapter" / "README.md").unlink(missing_ok=True)
        save_model(merged(model), tokenizer, folder)
    else:
        save_model(model, tokenizer, folder)


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
            owner, _, name = path.rpartition(".")
            layer = base.get_submodule(owner)
            if hasattr(layer, "modules_to_save"):
                layer = layer.modules_to_save[layer.active_adapters[0]]
            plain = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer
            value = dequantize_module_weight(plain) if name == "weight" else getattr(plain, name)
            if plain is not layer and name == "weight":
                value = value.float() + layer.get_delta_weight(model.active_adapter).float()
            weight.copy_(value)
    if base.can_generate():
        whole.generation_config = base.generation_config
    return whole.eval()


def load_adapters(folders: Sequence[Path], dtype: torch.dtype, device: torch.device) -> PeftModel:
    """One reward model with the adapter of each folder, named by its place: "0", "1", ...; in eval mode.

    The folders are reward models that were trained as adapters (`lora`), whose base is loaded once. Raises InputError
    for a model without an adapter, and for adapters of different bases.
    """
    bases = []
    for folder in folders:
        config = folder / "adapter" / "adapter_config.json"
        if not config.is_file() or not (folder / "adapter" / "adapter_model.safetensors").is_file():
            raise InputError(f"{folder} has no adapter/: it was not trained with lora, so it has a trunk of its own")
        bases.append(str(json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]))
    if len(set(bases)) > 1:
        raise InputError(f"these adapters are not of one base, which they could share: {', '.join(sorted(set(bases)))}")
    model = load_reward_model(bases[0], dtype, device, new_head=True)
    with _old_names():
        adapted = PeftModel.from_pretrained(model, str(folders[0] / "adapter"), adapter_name="0")
        for place, folder in enumerate(folders[1:], 1):
            adapted.load_adapter(str(folder / "adapter"), adapter_name=str(place))
    return adapted.eval()


@contextmanager
def _old_names() -> Iterator[None]:
    """PEFT still asks transformers by an old name; there is nothing that a user could do about the warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        yield
