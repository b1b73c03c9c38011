"""Keys and values of a pool of slots in pages of 64 tokens, as virtual memory keeps a process's.

A slot has as many pages as its own sequence is long, not as many as the pool's longest (Kwon et al. 2023,
"PagedAttention", sect. 4.2); a page that a sequence leaves is the next one's. Nothing is copied when a sequence grows,
and a product reads each page where it stands: the pages of a bank are the matrices of one product.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache

from prefloop.generation.slots import Behind, hidden_columns
from prefloop.models.device import give_back_freed

PAGE = 64
"""Tokens of a page. Half a page of each slot is empty on average; a product of smaller ones takes longer."""
STEP = 64
"""So many pages at a time are read of a bank: a product of another size has to be prepared, and stays in memory."""


@dataclass(frozen=True)
class Bank:
    """Pages that were made at once."""

    numbers: range
    """Those among all pages."""
    held: list[Float[Tensor, "p G 64 D"]]
    """The keys of each layer, then the values."""

    @classmethod
    def like(cls, numbers: range, layers: Sequence[Float[Tensor, "_ G _ D"]]) -> Bank:
        """With the heads and the type of these. One piece of memory, so that other tensors leave no gaps in it."""
        shapes = [(len(numbers), x.shape[1], PAGE, x.shape[3]) for x in layers]
        sizes = [math.prod(shape) for shape in shapes]
        pieces = layers[0].new_empty(sum(sizes)).split(sizes)
        return cls(numbers, [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)])


class Pages(Cache):  # type: ignore[misc]
    """What a `SlotCache` is, for layers whose attention can be replaced by `attend`."""

    def __init__(self, slots: int, most: int, device: torch.device) -> None:
        """For sequences of at most `most` tokens."""
        super().__init__(layers=[])
        self.slots, self.most = slots, most
        self.banks: list[Bank] = []
        self.pages: list[list[int]] = [[] for _ in range(slots)]
        """The numbers of each slot's pages, in the order of its sequence."""
        self.vacant: list[int] = []
        """A heap: the first of them is taken, so that a bank's pages that are read lie together."""
        self.at: Int[Tensor, "S"] = torch.zeros(slots, dtype=torch.long, device=device)
        """Where each slot writes next."""
        self.reach = 0
        """Columns of the slot that has most."""
        self._layer = 0

    @property
    def depth(self) -> int:
        """Layers that are held."""
        return len(self.banks[0].held) // 2

    @property
    def dtype(self) -> torch.dtype:
        return self.banks[0].held[0].dtype

    def place(self, prompts: Any, rows: Sequence[int], slots: Sequence[int], lengths: Int[Tensor, "n"]) -> None:
        """Copy row `rows[i]` of a prefilled cache, `lengths[i]` long, into slot `slots[i]`."""
        self.free(slots)
        self.at[self._tensor(slots)] = lengths
        filled = [layer.keys for layer in prompts.layers] + [layer.values for layer in prompts.layers]
        taken: list[tuple[int, int, int]] = []
        for row, slot, length in zip(rows, slots, lengths.tolist(), strict=True):
            self.pages[slot] = [self._take(filled) for _ in range(0, length, PAGE)]
            taken += [(number, row, part) for part, number in enumerate(self.pages[slot])]
        into = []
        for bank in self.banks:
            if mine := [(n - bank.numbers.start, row, part) for n, row, part in taken if n in bank.numbers]:
                into.append((bank, *self._tensor(mine).T))
        for layer, read in enumerate(filled):
            # The last page of a prompt is filled up with zeros.
            cut = torch.nn.functional.pad(read, (0, 0, 0, -read.shape[2] % PAGE)).unflatten(2, (-1, PAGE))
            for bank, place, row, part in into:
                bank.held[layer][place] = cut[row, :, part]
        # Prompts of another length need pieces of another size: what they leave behind would add up. All the trims of a
        # run of half a minute take a tenth of a second.
        give_back_freed()

    def free(self, slots: Sequence[int]) -> None:
        """These hold nothing until they are filled; what comes out of them until then means nothing."""
        for slot in slots:
            for number in self.pages[slot]:
                heapq.heappush(self.vacant, number)
            self.pages[slot] = []
        self.at[self._tensor(slots)] = 0

    def begin_step(self) -> None:
        """Make room for one more token in every slot, and find out which pages are read and which are written."""
        writing = []
        for slot, at in enumerate(self.at.tolist()):
            if not (own := self.pages[slot]):
                continue
            if at == len(own) * PAGE:
                own.append(self._take(self.banks[0].held))
                bank = next(bank for bank in self.banks if own[-1] in bank.numbers)
                for held in bank.held:
                    held[own[-1] - bank.numbers.start] = 0  # what was never written may be no number
            writing.append((slot, own[at // PAGE], at % PAGE))
        asking = {number: (slot, part) for slot, own in enumerate(self.pages) for part, number in enumerate(own)}
        read: list[range] = []
        self._written: list[tuple[Bank, Tensor, Tensor, Tensor]] = []
        for bank in self.banks:
            upto = max((number for number in asking if number in bank.numbers), default=bank.numbers.start - 1) + 1
            read.append(bank.numbers[: -(-(upto - bank.numbers.start) // STEP) * STEP])
            if here := [(slot, n - bank.numbers.start, column) for slot, n, column in writing if n in bank.numbers]:
                slots, pages, columns = self._tensor(here).T
                self._written.append((bank, slots, pages, columns))
        self._read = [len(numbers) for numbers in read]
        # A vacant page among them is asked by a slot that does not exist.
        who = [asking.get(number, (self.slots, 0)) for number in itertools.chain(*read)]
        self._slot, self._part = self._tensor(who).T
        self._asker = self._slot.clamp(max=self.slots - 1)
        self.reach = PAGE * max(map(len, self.pages))

    def keep(self, slots: Int[Tensor, "n"]) -> None:
        """Forget all other slots, and the banks that nobody needs then: the last pages move to the front."""
        self.pages = [self.pages[slot] for slot in slots.tolist()]
        self.at, self.slots = self.at[slots], len(slots)
        numbers = set(itertools.chain(*self.pages))
        count = len(numbers)
        moved = dict(zip(sorted(n for n in numbers if n >= count), set(range(count)) - numbers, strict=True))
        for source, target in itertools.product(self.banks, self.banks):
            pairs = [(n, m) for n, m in moved.items() if n in source.numbers and m in target.numbers]
            old, new = self._tensor(pairs).view(-1, 2).T
            for held, into in zip(source.held, target.held, strict=True):
                into[new - target.numbers.start] = held[old - source.numbers.start]
        self.pages = [[moved.get(number, number) for number in pages] for pages in self.pages]
        self.banks = [bank for bank in self.banks if bank.numbers.start < count]
        self.vacant = [*range(count, self.banks[-1].numbers.stop)]

    def hidden(self, window: int | None = None) -> Bool[Tensor, "S R"]:
        """True where a slot must not look: behind its own end, and before its last `window` tokens."""
        return hidden_columns(self.at, self.reach, window)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The library's layers call this before they attend; `attend` reads what is held."""
        self._layer = layer_idx
        for bank, slot, page, column in self._written:
            bank.held[layer_idx][page, :, column] = key_states[slot, :, 0]
            bank.held[layer_idx + self.depth][page, :, column] = value_states[slot, :, 0]
        return key_states, value_states

    def attend(
        self,
        module: nn.Module,
        query: Float[Tensor, "S H 1 D"],
        key: Float[Tensor, "S G 1 D"],
        value: Float[Tensor, "S G 1 D"],
        attention_mask: Float[Tensor, "S 1 1 R"],
        scaling: float | None = None,
        softcap: float | None = None,
        **others: Any,
    ) -> tuple[Float[Tensor, "S 1 H D"], None]:
        """The library's signature; nothing is dropped out in sampling. Heads g n to g n + n - 1 read group g."""
        slots, heads, _, size = query.shape
        groups = key.shape[1]
        asked = (query * (size**-0.5 if scaling is None else scaling)).view(slots, groups, -1, size)
        keys = [bank.held[self._layer].transpose(2, 3) for bank in self.banks]
        scores = asked.new_zeros(slots + 1, groups, heads // groups, self.reach // PAGE, PAGE)
        scores[self._slot, :, :, self._part] = self._products(asked[self._asker], keys)
        scores = scores[:slots].flatten(3)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        weights = torch.softmax(scores + attention_mask, -1, dtype=torch.float32).to(query.dtype)
        weights = weights.unflatten(3, (-1, PAGE))[self._asker, :, :, self._part]
        parts = self._products(weights, [bank.held[self._layer + self.depth] for bank in self.banks])
        found = parts.new_zeros(slots + 1, self.reach // PAGE, *parts.shape[1:])
        found[self._slot, self._part] = parts
        return found[:slots].sum(1, dtype=torch.float32).to(query.dtype).view(slots, 1, heads, -1), None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.reach - 1

    def behind(self, layers: int) -> Behind:
        """The same slots for a second model, whose keys and values stand behind the first one's `layers`."""
        return Behind(self, layers)

    def _products(self, rows: Float[Tensor, "n G r k"], banks: Sequence[Float[Tensor, "p G k l"]]) -> Tensor:
        """Each read page's own rows times it."""
        found = rows.new_empty(*rows.shape[:3], banks[0].shape[3])
        split = zip(rows.split(self._read), found.split(self._read), banks, strict=True)
        for some, into, held in split:
            if len(some):
                torch.bmm(some.flatten(0, 1), held[: len(some)].flatten(0, 1), out=into.flatten(0, 1))
        return found

    def _take(self, layers: Sequence[Tensor]) -> int:
        """A vacant page; if there is none, of a new bank for layers like these."""
        if not self.vacant:
            there = self.banks[-1].numbers.stop if self.banks else 0
            # Each bank adds a product to every layer; what nobody has written yet takes no memory.
            size = max(1, min(max(2 * self.slots, there), self.slots * -(-self.most // PAGE) - there))
            self.banks.append(Bank.like(range(there, there + size), layers))
            self.vacant = [*self.banks[-1].numbers]
        return heapq.heappop(self.vacant)

    def _tensor(self, numbers: Sequence[Any]) -> Int[Tensor, "..."]:
        return torch.tensor(numbers, dtype=torch.long, device=self.at.device)
