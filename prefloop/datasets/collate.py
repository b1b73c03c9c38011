"""Rows become micro-batches. Padding is on the right and told from text by lengths, never by id.

With padding on the right a causal model needs no attention mask: no real token can see a later one. Texts go through
the model without padding, and a prompt that several share goes through once (`prefloop.models.trees`), so a micro-batch
costs the sum of its rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefloop.models.template import Encoded
from prefloop.models.trees import same_prompt, shared_beginning, tokens_of

T = TypeVar("T")


def pad(sequences: Sequence[Sequence[int]], value: int) -> Int[Tensor, "B T"]:
    """Sequences of ids, padded on the right to the longest."""
    longest = max(map(len, sequences), default=0)
    return torch.tensor([[*ids, *[value] * (longest - len(ids))] for ids in sequences], dtype=torch.long)


def completion_mask(starts: Sequence[int], ends: Sequence[int], width: int) -> Bool[Tensor, "B T"]:
    """True at positions start <= t < end of each row: the tokens of the completion."""
    position = torch.arange(width)
    return (position >= torch.tensor(starts)[:, None]) & (position < torch.tensor(ends)[:, None])


def micro_batches(rows: Sequence[T], length: Callable[[T], int], budget: int) -> list[list[T]]:
    """Split a batch into micro-batches of at most `budget` tokens, rows of like length together.

    `length` is what a row costs when it stands alone. A row that is longer than the budget goes alone. The order is
    longest first, so that running out of memory shows at once.
    """
    result: list[list[T]] = []
    room = 0
    for row in sorted(rows, key=length, reverse=True):
        cost = length(row)
        if result and cost <= room:
            result[-1].append(row)
        else:
            result.append([row])
            room = budget
        room -= cost
    return result


def text_batches(texts: Sequence[Encoded], budget: int, together: int = 1) -> list[list[int]]:
    """Indices of texts in micro-batches of at most `budget` tokens, texts with the same prompt together.

    A group that is too large for one micro-batch is cut: its prompt is computed in each of its parts. It is cut only
    between `together` neighbours; those have one prompt.
    """
    groups = [
        part
        for group in same_prompt(texts[::together])
        for part in _cut(texts, [range(i * together, (i + 1) * together) for i in group], budget)
    ]
    parts = micro_batches(groups, lambda group: tokens_of([texts[i] for i in group]), budget)
    return [[i for group in part for i in group] for part in parts]


def _cut(texts: Sequence[Encoded], units: Sequence[Sequence[int]], budget: int) -> list[list[int]]:
    """Units of texts with one prompt in parts of at most `budget` tokens, in one look at each.

    What all of a part begin with in common is the least that one of them shares with the first.
    """
    parts: list[list[int]] = []
    total = shared = 0
    for unit in units:
        added = sum(texts[i].length for i in unit)
        if parts:
            common = min(shared, shared_beginning([texts[i].ids for i in (parts[-1][0], *unit)]))
            if total + added - (len(parts[-1]) + len(unit) - 1) * common <= budget:
                parts[-1].extend(unit)
                total, shared = total + added, common
                continue
        parts.append(list(unit))
        total, shared = added, shared_beginning([texts[i].ids for i in unit])
    return parts


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Steps in which each of n rows comes once; the last batch of an epoch may be smaller."""
    return math.ceil(n / batch_size)


def batch_indices(n: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Which rows make up the batch of optimizer step `step` (from 0).

    Every epoch is a new permutation, a function of (seed, epoch) alone.
    """
    epoch, place = divmod(step, steps_per_epoch(n, batch_size))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).tolist()
    return order[place * batch_size : (place + 1) * batch_size]


def weighted_indices(chances: Float[Tensor, "n"], batch_size: int, step: int, seed: int) -> list[int]:
    """Rows of optimizer step `step`, drawn with replacement and with probability proportional to `chances`.

    A function of (seed, step) alone, as `batch_indices`; a row of chance 0 is never drawn.
    """
    stream = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return torch.multinomial(chances, batch_size, replacement=True, generator=stream).tolist()


def cycled(n: int, size: int, step: int, seed: int) -> list[int]:
    """`size` of `n` row numbers for step `step`: one permutation after another, cut wherever a step ends."""
    return stretch(n, step * size, (step + 1) * size, seed)


def stretch(n: int, first: int, last: int, seed: int) -> list[int]:
    """The row numbers first <= i < last of an endless stream: one permutation of n after another."""
    epochs = range(first // n, (last - 1) // n + 1)
    stream = [i for epoch in epochs for i in batch_indices(n, n, epoch, seed)]
    return stream[first - epochs[0] * n : last - epochs[0] * n]
