"""Attention that is ours within a model of the library; and one for heads that share keys and values.

Attention written out copies the whole cache once for every head that reads it, with every token. Here the heads of a
group are rows of one matrix product, and nothing is copied; the library's fused attention does the same by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface

ATTENTION = "prefloop_sampling"
"""The name of our attention in the transformers library's table of them."""
_ATTENDS: ContextVar[Callable[..., tuple[Tensor, None]]] = ContextVar("attends")


def attend(
    module: nn.Module,
    query: Float[Tensor, "S H Q D"],
    key: Float[Tensor, "S G R D"],
    value: Float[Tensor, "S G R D"],
    attention_mask: Float[Tensor, "S 1 Q R"],
    scaling: float | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "S Q H D"], None]:
    """Heads g n to g n + n - 1 read group g. The signature is the library's; nothing is dropped out in sampling."""
    slots, heads, count, size = query.shape
    groups = key.shape[1]
    rows = query.reshape(slots, groups, -1, size)
    scores = rows @ key.transpose(2, 3) * (size**-0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    # The mask is the same for all heads: Q rows of it, over and over.
    scores = (scores.unflatten(2, (-1, count)) + attention_mask[:, :, None]).flatten(2, 3)
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).view(slots, heads, count, size).transpose(1, 2).contiguous(), None


@contextmanager
def attention_by(models: Sequence[Any], function: Callable[..., tuple[Tensor, None]]) -> Iterator[None]:
    """Within it the models' layers attend by `function`, which has the library's signature (see `attend`)."""
    configs = [model.config.get_text_config() for model in models]
    usual, token = [config._attn_implementation for config in configs], _ATTENDS.set(function)
    for config in configs:
        config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        for config, name in zip(configs, usual, strict=True):
            config._attn_implementation = name
        _ATTENDS.reset(token)


def groups_heads(model: Any) -> bool:
    """Whether its attention is written out, and has fewer keys than heads."""
    config = model.config.get_text_config()
    groups = getattr(config, "num_key_value_heads", None)
    return config._attn_implementation == "eager" and groups is not None and groups < config.num_attention_heads


def _attend(*given: Any, **named: Any) -> tuple[Tensor, None]:
    return _ATTENDS.get()(*given, **named)


AttentionInterface.register(ATTENTION, _attend)
