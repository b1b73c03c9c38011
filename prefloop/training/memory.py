"""What a run takes, before it starts; and when memory runs out: smaller micro-batches, and the same batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer

from prefloop.models.heads import CompletionLogprobs, ScoreHead
from prefloop.models.template import Encoded
from prefloop.models.trees import Forest

T = TypeVar("T")

SMALLEST = 16
"""Tokens at once; below that it is not the micro-batch that does not fit."""


@dataclass
class Budget:
    """Tokens that go through a model at once; it is halved when they are too many."""

    tokens: int
    log: Callable[[str], None]

    def spend(self, work: Callable[[int], T], undo: Callable[[], None] = lambda: None) -> T:
        """`work(tokens)`; where memory runs out, `undo()` and again with half as many. Raises what is no such error."""
        while True:
            try:
                return work(self.tokens)
            except RuntimeError as error:
                if not ran_out(error) or self.tokens // 2 < SMALLEST:
                    raise
            # Outside the handler: the traceback would hold the tensors of the failed attempt.
            undo()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            elif torch.backends.mps.is_available():
                torch.mps.empty_cache()
            self.tokens //= 2
            self.log(f"out of memory: micro-batches of {self.tokens} tokens from here on, batches stay as they are")


def model_bytes(trained: Mapping[str, nn.Module], frozen: Mapping[str, nn.Module]) -> dict[str, int]:
    """What each model of a run takes before anything goes through it. Shared weights count once, where they come first.

    A weight that is trained takes its own bytes, 4 for its gradient, 8 for AdamW's moments, and 4 for a float32 copy
    where it is not in float32 itself.
    """
    seen: set[int] = set()
    found: dict[str, int] = {}
    for kind, models in (("trained", trained), ("frozen", frozen)):
        for name, model in models.items():
            size = 0
            for parameter in model.parameters():
                if id(parameter) in seen:
                    continue
                seen.add(id(parameter))
                each = parameter.element_size()
                if kind == "trained" and parameter.requires_grad:
                    each += 12 if parameter.dtype == torch.float32 else 16
                size += parameter.numel() * each
            found[f"{name} ({kind})"] = size
    return found


def kept_bytes(measure: CompletionLogprobs | ScoreHead, texts: Sequence[Encoded]) -> int | None:
    """What a micro-batch of these texts keeps between its forward and its backward pass, the weights left out.

    Nothing is computed and no memory taken: the model is copied to torch's meta device, where a tensor has a shape and
    no values, and autograd says what it saves. Where layers are recomputed, one layer's share comes on top of what all
    of them keep, because the backward pass has one layer at a time. None for layers that cannot be tried without
    values, such as those with weights in 4 bits, and for encoder-decoders.
    """
    try:
        return _saved(measure, texts)
    except Exception:  # whatever somebody's kernel raises when it is given a tensor without values
        return None


@torch.no_grad()
def token_bytes(model: nn.Module) -> int | None:
    """Keys and values of one token in all layers of a decoder, as a sampler keeps them. None as in `kept_bytes`."""
    cache = DynamicCache()
    try:
        shell = copy.deepcopy(model, dict(_without_values(model))).eval()
        shell(input_ids=torch.zeros(1, 1, dtype=torch.long, device="meta"), past_key_values=cache, use_cache=True)
    except Exception:  # as there
        return None
    found: int = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    return found


def _without_values(model: nn.Module) -> dict[int, Tensor]:
    """For each parameter and buffer, by its id, one of the same shape on the meta device."""
    empty: dict[int, Tensor] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return empty | {id(b): torch.empty_like(b, device="meta") for b in model.buffers()}


def _saved(measure: CompletionLogprobs | ScoreHead, texts: Sequence[Encoded]) -> int:
    empty = _without_values(measure.full if isinstance(measure, CompletionLogprobs) else measure.model)
    weights = {_storage(tensor) for tensor in empty.values()}
    shell = copy.deepcopy(measure, dict(empty))

    def kept() -> int:
        saved: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            if _storage(tensor) not in weights:
                saved[_storage(tensor)] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            shell.along(Forest.plant(texts))
        return sum(saved.values())

    inside = shell.full if isinstance(shell, CompletionLogprobs) else shell.model
    layers = [layer for layer in inside.modules() if isinstance(layer, GradientCheckpointingLayer)]
    again = [layer for layer in layers if layer.gradient_checkpointing]
    total = kept()
    for layer in again:
        layer.gradient_checkpointing = False
    return total + (kept() - total) // len(again) if again else total


def _storage(tensor: Tensor) -> int:
    """Tells one piece of memory from another, also where there is none behind it."""
    address: int = tensor.untyped_storage()._cdata
    return address


def mebibytes(what: str, sizes: Mapping[str, int]) -> str:
    """Their sum and each of them, in words."""
    parts = ", ".join(f"{name} {size / 2**20:.0f}" for name, size in sizes.items())
    return f"{what} {sum(sizes.values()) / 2**20:.0f} MiB ({parts})"


def ran_out(error: RuntimeError) -> bool:
    """Whether memory ran out, on an accelerator or on the processor."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in said or "MPS backend out of memory" in said
