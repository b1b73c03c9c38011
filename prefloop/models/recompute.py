"""Gradient checkpointing (Chen et al. 2016, https://arxiv.org/abs/1604.06174): of a layer, only the input is kept.

It is computed a second time in the backward pass: a forward pass more, for memory that grows little with depth.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from prefloop.errors import InputError
from prefloop.models.load import base_of
from prefloop.models.trees import growing_again


def recompute_layers(model: nn.Module) -> None:
    """From now on, where a gradient is wanted. Raises InputError for an architecture that cannot."""
    full = base_of(model)
    layers = [layer for layer in full.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise InputError(f"{type(full).__name__} has no layers to recompute; leave out gradient_checkpointing")

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Around the forward pass, and around the second one, which comes when the first one's batch is long gone."""
        return nullcontext(), growing_again(full)

    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False, context_fn=contexts)
