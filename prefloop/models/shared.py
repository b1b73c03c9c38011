"""One trunk, several roles: models with modules of their own around weights that are the very same tensors.

What the roles share is frozen; each has its adapter and its head for itself. So nothing is switched on and off between
them, no gradient of one reaches another's adapter, and whatever works on a model works on each of them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor, nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedModel

from prefloop.errors import InputError
from prefloop.models.adapters import old_names, weight_at
from prefloop.models.load import base_of, load_reward_model, model_config

M = TypeVar("M", bound=nn.Module)
OURS = "prefloop_"
"""What config keys of our own begin with."""


def sharing(model: M, weights: Iterable[Tensor]) -> M:
    """A copy of the model's modules around the same `weights`; all its other tensors are copied."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in weights})


def classifier_on(policy: PreTrainedModel) -> PreTrainedModel:
    """A sequence classifier with one label on a policy's own weights, its head at 0; in eval mode.

    The policy has no adapter yet. Raises InputError for an architecture whose classifier has another trunk, such as an
    encoder-decoder's.
    """
    body: Any = getattr(policy, policy.base_model_prefix, None)
    kind = None if body is None else MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(body.config), None)
    found: Any = None
    if kind is not None and not policy.config.is_encoder_decoder:
        body = sharing(body, [*policy.parameters(), *policy.buffers()])
        body.config.num_labels = 1
        with torch.device("meta"):  # its own trunk is never made
            found = kind(body.config)
    if found is None or not hasattr(found, "score") or type(getattr(found, found.base_model_prefix)) is not type(body):
        raise InputError(
            f"{type(policy).__name__} has no score or critic on its own trunk; use trunk: separate, or a decoder "
            "(Llama, Qwen, GPT-2, ...)"
        )
    setattr(found, found.base_model_prefix, body)
    found.score = nn.Linear(found.score.in_features, 1, bias=False, dtype=policy.dtype, device=policy.device)
    nn.init.zeros_(found.score.weight)
    whole: PreTrainedModel = found.eval()
    return whole


def adapter_on(policy: PreTrainedModel, folder: Path, *, trained: bool = False) -> PeftModel:
    """The reward model in `folder`, which was trained as an adapter (`lora`), on a policy's own weights; in eval mode.

    The policy has no adapter yet. Raises InputError for a reward model without an adapter, and for one that is not, to
    the rounding of its file, what its adapter makes of these weights.
    """
    origin = base_of_adapter(folder)
    other = InputError(
        f"{folder} is an adapter of other weights than the policy's: it was trained on {origin}; train it with lora "
        "from this policy, or use trunk: separate"
    )
    whole = classifier_on(policy)
    if {name: _shape(weight) for name, weight in whole.named_parameters()} != _shapes(folder):
        raise other
    for name, value in model_config(folder).to_dict().items():
        if name.startswith(OURS) or name == "pad_token_id":
            setattr(whole.config, name, value)
    with old_names():
        adapted = PeftModel.from_pretrained(whole, str(folder / "adapter"), is_trainable=trained)
    if not _says_the_same(adapted, folder):
        raise other
    return adapted.eval()


def load_adapters(folders: Sequence[Path], dtype: torch.dtype, device: torch.device) -> PeftModel:
    """One reward model with the adapter of each folder, named by its place: "0", "1", ...; in eval mode.

    The folders are reward models that were trained as adapters (`lora`), whose base is loaded once. Raises InputError
    for a model without an adapter, and for adapters of different bases.
    """
    bases = [base_of_adapter(folder) for folder in folders]
    if len(set(bases)) > 1:
        raise InputError(f"these adapters are not of one base, which they could share: {', '.join(sorted(set(bases)))}")
    model = load_reward_model(bases[0], dtype, device, new_head=True)
    with old_names():
        adapted = PeftModel.from_pretrained(model, str(folders[0] / "adapter"), adapter_name="0")
        for place, folder in enumerate(folders[1:], 1):
            adapted.load_adapter(str(folder / "adapter"), adapter_name=str(place))
    return adapted.eval()


def shares_with(model: nn.Module, other: nn.Module) -> bool:
    """Whether two models hold some weight together."""
    theirs = {id(parameter) for parameter in other.parameters()}
    return any(id(parameter) in theirs for parameter in model.parameters())


def trained_on(model: PreTrainedModel, base: str) -> bool:
    """Whether a model was loaded from a folder that says it was trained as an adapter of `base`."""
    try:
        return base_of_adapter(Path(model.name_or_path)) == base
    except InputError:
        return False


def base_of_adapter(folder: Path) -> str:
    """What the model in `folder` was trained on. Raises InputError for one that was not trained as an adapter."""
    config = folder / "adapter" / "adapter_config.json"
    if not config.is_file() or not (folder / "adapter" / "adapter_model.safetensors").is_file():
        raise InputError(f"{folder} has no adapter/: it was not trained with lora, so it has a trunk of its own")
    return str(json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"])


def _shape(weight: Tensor) -> tuple[int, ...]:
    """Of what a weight in 4 bits stands for, where it is one."""
    packed = getattr(weight, "quant_state", None)
    return tuple(weight.shape if packed is None else packed.shape)


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weights.get_slice(name).get_shape()) for name, weights in _stored(folder)}


@torch.no_grad()
def _says_the_same(adapted: PeftModel, folder: Path) -> bool:
    """Whether the merged weights in `folder` are those of the adapted model, but for rounding to bfloat16."""
    base = base_of(adapted)
    for name, weights in _stored(folder, str(base.device)):
        plain, update = weight_at(base, name)
        value, size = plain.float(), plain.float().abs()
        if update is not None:
            value, size = value + update, size + update.abs()
        # Rounding is 2**-9 of the weight, if it was loaded in bfloat16, and 2**-9 of the sum that was saved.
        if not ((weights.get_tensor(name).float() - value).abs() <= 2**-7 * size + 1e-6).all():
            return False
    return True


def _stored(folder: Path, device: str = "cpu") -> Iterator[tuple[str, Any]]:
    """The name of each weight in a model's files, and the open file that it is in."""
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, framework="pt", device=device) as weights:
            yield from ((name, weights) for name in list(weights.keys()))
