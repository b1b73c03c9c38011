"""Two models that read the same tokens side by side, so that the second can say what the first may draw (NLPO)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from prefloop.generation.pages import Pages
from prefloop.generation.slots import SlotCache


@dataclass(frozen=True)
class Adviser:
    """A model beside the policy, and what it allows to be drawn from its logits."""

    model: PreTrainedModel
    allows: Callable[[Float[Tensor, "n V"]], Bool[Tensor, "n V"]]
    """True for the tokens that may be drawn; at least one in each row."""


class Twin:
    """A policy and its adviser as one model: its logits are the policy's, then the adviser's, in one row of 2 V.

    Both keep their keys and values in one cache, the adviser's layers behind the policy's.
    """

    def __init__(self, policy: PreTrainedModel, adviser: PreTrainedModel) -> None:
        self.policy, self.adviser = policy, adviser
        self.forward = policy.forward
        """Read for its signature."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def eval(self) -> None:
        self.policy.eval()
        self.adviser.eval()

    def __call__(self, *, past_key_values: Any, **given: Any) -> Any:
        """One step of both in a cache of slots; with an empty cache of the library's, their prefill."""
        decoding = isinstance(past_key_values, SlotCache | Pages)
        one = self.policy(past_key_values=past_key_values, **given)
        beside = past_key_values.behind(past_key_values.depth // 2) if decoding else DynamicCache()
        two = self.adviser(past_key_values=beside, **given)
        logits = torch.cat([one.logits, two.logits], -1)
        if decoding:
            return SimpleNamespace(logits=logits)
        layers = [*one.past_key_values.layers, *two.past_key_values.layers]
        return SimpleNamespace(logits=logits, past_key_values=SimpleNamespace(layers=layers))


def each_of(model: Any) -> list[Any]:
    """The models that read what `model` is given: both of a `Twin`, else itself."""
    return [model.policy, model.adviser] if isinstance(model, Twin) else [model]
