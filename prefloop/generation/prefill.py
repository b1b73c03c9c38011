"""Prompts of different lengths through a decoder at once, and the logits of what follows each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache


def prefill(
    model: Any, prompts: Sequence[Sequence[int]], keeps_some_logits: bool
) -> tuple[DynamicCache, Float[Tensor, "P V"]]:
    """The cache of prompts that are sorted by length (the shorter are padded on the right), and their last logits.

    Only the last real position's logits are wanted; a model that `keeps_some_logits` computes no others.
    """
    device = model.device
    last = torch.tensor([len(p) - 1 for p in prompts], device=device)
    ids = torch.tensor([[*p, *[0] * (len(prompts[-1]) - len(p))] for p in prompts], device=device)
    wanted, column = torch.unique(last, return_inverse=True)
    some = {"logits_to_keep": wanted} if keeps_some_logits else {}
    # The trunk alone would not serve every architecture.
    out = model(input_ids=ids, past_key_values=DynamicCache(), use_cache=True, **some)
    row = torch.arange(len(prompts), device=device)
    return out.past_key_values, out.logits[row, column if some else last].float()
