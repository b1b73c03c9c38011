"""When memory runs out: smaller micro-batches, and the same batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

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


def model_memory(trained: Mapping[str, nn.Module], frozen: Mapping[str, nn.Module]) -> str:
    """What the models of a run take before anything goes through them, in words. Shared weights count once.

    A weight that is trained takes its own bytes, 4 for its gradient, 8 for AdamW's moments, and 4 for a float32 copy
    where it is not in float32 itself.
    """
    seen: set[int] = set()
    parts, total = [], 0
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
            parts.append(f"{name} ({kind}) {size / 2**20:.0f}")
            total += size
    return f"memory of the models: {total / 2**20:.0f} MiB, and what a micro-batch takes: {', '.join(parts)}"


def ran_out(error: RuntimeError) -> bool:
    """Whether memory ran out, on an accelerator or on the processor."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in said or "MPS backend out of memory" in said
