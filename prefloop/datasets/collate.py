"""Rows become micro-batches. Padding is on the right and told from text by lengths, never by id.

With padding on the right a causal model needs no attention mask: no real token can see a later one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

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
    """Split a batch into micro-batches of at most `budget` padded tokens, rows of like length together.

    `length` is a row's padded cost when it stands alone (a pair counts both of its sides). A row that is longer than
    the budget goes alone. The order is longest first, so that running out of memory shows at once.
    """
    result: list[list[T]] = []
    for row in sorted(rows, key=length, reverse=True):
        if result and length(result[-1][0]) * (len(result[-1]) + 1) <= budget:
            result[-1].append(row)
        else:
            result.append([row])
    return result


def batch_indices(n: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Which rows make up the batch of optimizer step `step` (from 0).

    Every epoch is a new permutation, a function of (seed, epoch) alone; the last batch of an epoch may be smaller.
    """
    per_epoch = -(-n // batch_size)
    epoch, place = divmod(step, per_epoch)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).tolist()
    return order[place * batch_size : (place + 1) * batch_size]
