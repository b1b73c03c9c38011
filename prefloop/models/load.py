"""Load and save models in Hugging Face layout, from a directory, a hub id, or the built-in policy.

Weights are safetensors and nothing else; code that comes with a model is never run.
"""

from __future__ import annotations

import errno
import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as library_logging

from prefloop.errors import InputError

# The library's own bars and notices would drown ours; its errors still come through.
library_logging.disable_progress_bar()
library_logging.set_verbosity_error()

BUILTIN = Path(__file__).resolve().parent.parent / "builtin"
"""The policy that ships in the package; `--policy builtin` names it."""

BIAS_KEY = "prefloop_reward_bias"
"""Config key of a reward model's bias: `score = head(hidden) + bias`. The gain is folded into the head."""
HEADS = ("score.", "classifier.", "pre_classifier.", "pooler.", "classification_head.")
"""What the layers of a sequence classifier's head are called; those of a decoder's is the first."""
COST_KEY = "prefloop_cost"
"""Config key, true of a cost model: its score is a cost, the higher the worse, and above 0 an answer is unsafe."""


def resolve(ref: str | Path) -> str:
    """The directory or hub id that `ref` names.

    Raises InputError for a directory that cannot be a model: no config, no tokenizer, pickled weights,
    or code of its own.
    """
    folder = BUILTIN if str(ref) == "builtin" else Path(ref)
    if not folder.exists():
        text = str(ref)
        if text.count("/") == 1 and not text.startswith((".", "/", "~")):
            return text  # a hub id: the library says whether it is there
        raise InputError(f"no model at {text!r}: neither a directory, nor a hub id (owner/name), nor 'builtin'")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; a model is a directory in Hugging Face layout")
    config = folder / "config.json"
    if not config.is_file():
        raise InputError(f"{folder} has no config.json, so it is not a model in Hugging Face layout")
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{config} is not JSON: {error}") from None
    if values.get("auto_map"):
        raise InputError(
            f"{folder} needs code of its own (auto_map in config.json), which prefloop never runs; "
            "use a model whose architecture the transformers library knows"
        )
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(
            p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl") for p in folder.glob(pattern)
        )
        if pickled:
            raise InputError(
                f"{folder} holds pickled weights ({', '.join(pickled)}), which can run code when loaded: refused; "
                "convert them to safetensors first"
            )
        raise InputError(f"{folder} has no *.safetensors weights")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        raise InputError(
            f"{folder} has no tokenizer (tokenizer.json); save the model's tokenizer into the same directory"
        )
    return str(folder)


def load_tokenizer(ref: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model. Raises InputError when it cannot be loaded."""
    place = resolve(ref)
    tokenizer: PreTrainedTokenizerBase = _from(AutoTokenizer, place)
    if tokenizer.eos_token_id is None and tokenizer.sep_token_id is not None:
        tokenizer.eos_token = tokenizer.sep_token  # an encoder's: [SEP] ends a text, and [CLS] begins it
    if tokenizer.bos_token_id is None and tokenizer.cls_token_id is not None:
        tokenizer.bos_token = tokenizer.cls_token
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer of {place} has no eos token, so a policy could never learn to stop")
    return tokenizer


def load_policy(
    ref: str | Path, dtype: torch.dtype, device: torch.device, *, four_bit: bool = False
) -> PreTrainedModel:
    """A causal language model, or an encoder-decoder, in eval mode; its layers in 4 bits where asked for.

    Raises InputError when it cannot be loaded.
    """
    auto = AutoModelForSeq2SeqLM if model_config(ref).is_encoder_decoder else AutoModelForCausalLM
    model, missing = _weights(auto, resolve(ref), dtype, device, four_bit=four_bit)
    if missing:
        raise InputError(f"{ref} lacks weights of a policy ({missing[0]}); is it a reward model?")
    return model.eval()


def load_reward_model(
    ref: str | Path, dtype: torch.dtype, device: torch.device, *, new_head: bool = False, four_bit: bool = False
) -> PreTrainedModel:
    """A sequence classifier with one label, in eval mode; its layers in 4 bits, its head whole, where asked for.

    A policy has no score head: it is refused (InputError), or given a new one when `new_head` is True. An architecture
    of which the transformers library has no classifier is refused as well.
    """
    if type(config := model_config(ref)) not in AutoModelForSequenceClassification._model_mapping:
        raise InputError(
            f"{ref} is a {config.model_type} model, of which the transformers library has no sequence classifier: it "
            "serves as a policy, not as a reward model or a critic; use another model for these, or a method without "
            "them, such as dpo, or rloo with a reward model of another architecture"
        )
    model, missing = _weights(
        AutoModelForSequenceClassification, resolve(ref), dtype, device, four_bit=four_bit, num_labels=1
    )
    if other := [name for name in missing if not name.startswith(HEADS) and ".pooler." not in name]:
        raise InputError(f"{ref} lacks weights of its architecture ({other[0]}); its files are not whole")
    if missing and not new_head:
        raise InputError(
            f"{ref} has no score head: it is a policy, not a reward model; make one with: prefloop train reward_model"
        )
    return model.eval()


def load_trunk(ref: str | Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """A model without any head, in eval mode; whichever layers a head needs may be missing."""
    model, missing = _weights(AutoModel, resolve(ref), dtype, device)
    if other := [name for name in missing if "pooler." not in name]:
        raise InputError(f"{ref} lacks weights of its architecture ({other[0]}); its files are not whole")
    return model.eval()


def model_config(ref: str | Path) -> Any:
    """The architecture settings of a model."""
    return _from(AutoConfig, resolve(ref))


def base_of(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face model inside an adapter's wrapper, or the model itself. Adapters stay in force."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turns safetensors' own error for a failed write into the OSError that it was: a full disk is one."""
    try:
        yield
    except SafetensorError as error:
        full = "os error 28" in str(error) or "No space left" in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error)) from None


def positions_of(config: Any) -> int:
    """The longest sequence that an architecture is declared for; very many where it declares none."""
    text = config.get_text_config()
    declared = (getattr(text, name, None) for name in ("max_position_embeddings", "max_seq_len"))  # MPT has the latter
    return int(next(filter(None, declared), 1 << 30))


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write weights (safetensors, bfloat16) and tokenizer, so that every other tool can load the folder."""
    kept = model.dtype
    with disk_errors():
        model.to(torch.bfloat16).save_pretrained(folder)
    model.to(kept)
    tokenizer.save_pretrained(folder)


def _weights(
    auto: Any, place: str, dtype: torch.dtype, device: torch.device, *, four_bit: bool = False, **arguments: Any
) -> tuple[PreTrainedModel, list[str]]:
    """A model on its device, and the names of those of its weights that were not in the files: random numbers."""
    if device.type == "cpu":
        # On a processor the fused kernel's backward pass costs more than attention written out, up to about 300 tokens
        # (measured: 6.7 against 13.3 thousand tokens a second at 100), and no less beyond.
        arguments["attn_implementation"] = "eager"
    if four_bit:
        arguments |= {"quantization_config": held_in_four_bits(dtype), "device_map": {"": device}}
    model, info = _from(auto, place, dtype=dtype, use_safetensors=True, output_loading_info=True, **arguments)
    if getattr(model.config, "rescale_every", 0):
        # RWKV halves weights in place where it is not training, for the range of float16, and would be saved like that.
        model.config.rescale_every = 0
    return model if four_bit else model.to(device), sorted(info["missing_keys"])


def held_in_four_bits(dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4 with quantised constants, computed in `dtype` (QLoRA, Dettmers et al. 2023, https://arxiv.org/abs/2305.14314).

    Raises InputError without the bitsandbytes library.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError("weights in 4 bits need bitsandbytes, which is not installed: pip install bitsandbytes")
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _from(auto: Any, place: str, **arguments: Any) -> Any:
    try:
        return auto.from_pretrained(place, trust_remote_code=False, local_files_only=Path(place).is_dir(), **arguments)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        ImportError,
        SafetensorError,
        StrictDataclassError,
    ) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{place} could not be loaded as {auto.__name__}: {reason}") from None
