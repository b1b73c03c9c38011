"""Any causal model, the plain way: sequences of one length go through it together, so nothing is ever padded.

For models that slots of different lengths cannot serve. Some count positions themselves (ALiBi), some have layers that
attend in chunks, and what carries a state from token to token would read a padded token as a real one. Each length has
a cache of its own, the model's, and the model never learns that there are others.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache

KEPT = ("past_key_values", "cache_params", "state")
"""What models call what they give back and want to be given again: `ALL_CACHE_NAMES` of transformers' generation."""


@dataclass
class _Group:
    """Sequences of one length: row i is that of slot `slots[i]`."""

    slots: list[int]
    ids: Int[Tensor, "n L"]
    """All tokens so far; not gone on with where the models keep something."""
    kept: list[dict[str, Any]]
    """What each model keeps of them, under the name that it wants it by."""

    def select(self, rows: Sequence[int]) -> None:
        """Row i is what row `rows[i]` was. Raises TypeError where rows of what a model keeps cannot be told."""
        index = torch.tensor(rows, device=self.ids.device)
        self.ids = self.ids[index]
        self.kept = [{name: _rows(kept, index) for name, kept in each.items()} for each in self.kept]


class Lockstep:
    """A model, or several side by side: their logits stand in one row, as a `Twin`'s do."""

    refills, padding = True, sys.maxsize

    def __init__(self, models: Sequence[Any], *, alone: bool = False, keeps: bool = True) -> None:
        """`alone` gives every sequence a cache of its own. Without `keeps` there is none: every sequence is read anew
        for every token, by the model's own forward pass and nothing else."""
        self.models, self.alone, self.keeps = models, alone, keeps
        self.last = [{"logits_to_keep": 1} if "logits_to_keep" in _takes(model) else {} for model in models]
        self.groups: list[_Group] = []

    def begin(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[int], slots: Sequence[int]
    ) -> Float[Tensor, "n V"]:
        self._forget(slots)
        first: dict[int, Float[Tensor, "V"]] = {}

        def group_of(i: int) -> int:
            return i if self.alone else len(prompts[rows[i]])

        for _, some in groupby(sorted(range(len(slots)), key=group_of), group_of):
            members = list(some)
            read = sorted({rows[i] for i in members})
            ids = torch.tensor([list(prompts[row]) for row in read], device=self.models[0].device)
            group = _Group([slots[i] for i in members], ids[:, :0], [{} for _ in self.models])
            logits = self._read(group, ids)
            each = [read.index(rows[i]) for i in members]
            if each != [*range(len(read))]:
                group.select(each)
            self.groups.append(group)
            first |= zip(members, logits[each], strict=True)
        return torch.stack([first[i] for i in range(len(slots))])

    def advance(self, tokens: Int[Tensor, "S"], busy: Bool[Tensor, "S"], ended: Sequence[int]) -> Float[Tensor, "S V"]:
        self._forget(ended)
        found = [(group.slots, self._read(group, tokens[group.slots][:, None])) for group in self.groups]
        result = found[0][1].new_zeros(len(tokens), found[0][1].shape[1])
        for slots, logits in found:
            result[slots] = logits
        return result

    def keep(self, slots: Int[Tensor, "n"]) -> None:
        place = {slot: new for new, slot in enumerate(slots.tolist())}
        self._forget([slot for group in self.groups for slot in group.slots if slot not in place])
        for group in self.groups:
            group.slots = [place[slot] for slot in group.slots]

    def _read(self, group: _Group, ids: Int[Tensor, "n l"]) -> Float[Tensor, "n V"]:
        """The logits behind these tokens, which follow those that the group has read."""
        if not self.keeps:
            ids = group.ids = torch.cat([group.ids, ids], 1)
        logits = []
        for place, (model, last) in enumerate(zip(self.models, self.last, strict=True)):
            out = model(input_ids=ids, use_cache=self.keeps, **group.kept[place], **last)
            if self.keeps:
                group.kept[place] = {name: out[name] for name in KEPT if out.get(name) is not None}
            logits.append(out.logits[:, -1].float())
        return torch.cat(logits, -1)

    def _forget(self, slots: Sequence[int]) -> None:
        gone = set(slots)
        for group in self.groups:
            left = [row for row, slot in enumerate(group.slots) if slot not in gone]
            if 0 < len(left) < len(group.slots):
                group.select(left)
            group.slots = [slot for slot in group.slots if slot not in gone]
        self.groups = [group for group in self.groups if group.slots]


def _takes(model: Any) -> Sequence[str]:
    return list(inspect.signature(model.forward).parameters)


def _rows(kept: Any, index: Int[Tensor, "n"]) -> Any:
    if isinstance(kept, Cache):
        kept.reorder_cache(index)
        return kept
    if isinstance(kept, list | tuple) and all(isinstance(part, Tensor) for part in kept):
        return [part[index] for part in kept]
    raise TypeError(f"of a {type(kept).__name__} no rows can be taken")
