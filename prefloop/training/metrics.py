"""Metrics that cost nothing until they are read: sums stay tensors, and become numbers once per log line."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Measured = Tensor | tuple[Tensor, Tensor]


class Means:
    """Running weighted means by name."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Measured], weights: Tensor | None = None) -> None:
        """Add `values[name]` of any shape; `weights` of the same shape counts each entry (default 1).

        What is known of some rows only comes with the weights of those: (values, weights).
        """
        for name, given in values.items():
            value, counts = given if isinstance(given, tuple) else (given, weights)
            # On the processor: Apple's devices have no float64.
            value = value.detach().cpu().double()
            weight = torch.ones_like(value) if counts is None or counts.shape != value.shape else counts.cpu().double()
            self._sums[name] = self._sums.get(name, torch.zeros((), dtype=torch.double)) + (value * weight).sum()
            self._counts[name] = self._counts.get(name, torch.zeros((), dtype=torch.double)) + weight.sum()

    def absorb(self, other: Means) -> None:
        """Add all that `other` has seen."""
        for name, total in other._sums.items():
            self._sums[name] = self._sums.get(name, torch.zeros((), dtype=torch.double)) + total
            self._counts[name] = self._counts.get(name, torch.zeros((), dtype=torch.double)) + other._counts[name]

    def state(self) -> dict[str, list[float]]:
        """Sums and counts so far, for a checkpoint."""
        return {name: [float(total), float(self._counts[name])] for name, total in self._sums.items()}

    def load(self, state: Mapping[str, list[float]]) -> None:
        """Take up what `state()` gave."""
        self._sums = {name: torch.tensor(pair[0], dtype=torch.double) for name, pair in state.items()}
        self._counts = {name: torch.tensor(pair[1], dtype=torch.double) for name, pair in state.items()}

    def read(self) -> dict[str, float]:
        """The means so far, and start again."""
        result = {name: float(total / self._counts[name].clamp_min(1e-12)) for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return result
