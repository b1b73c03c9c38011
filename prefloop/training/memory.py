"""When memory runs out: smaller micro-batches, and the same batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

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
            self.tokens //= 2
            self.log(f"out of memory: micro-batches of {self.tokens} tokens from here on, batches stay as they are")


def ran_out(error: RuntimeError) -> bool:
    """Whether memory ran out, on an accelerator or on the processor."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
