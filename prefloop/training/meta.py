"""The gradient taken one step elsewhere: MetaRM (Dou et al. 2024, https://arxiv.org/abs/2405.00438).

theta' = theta + eta * grad J(theta); the loss's gradient at theta' updates theta. There is no second-order term: to
first order this descends L + eta <grad L, grad J>, with grad J held fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class MetaSettings:
    """Keep a reward model able to tell apart what the policy writes now (MetaRM): no answers to it are needed."""

    samples: str
    """File of the policy's own completions, several of each prompt, as `prefloop sample --out` writes it."""
    eta: NonNegativeFloat = 0.1
    """Length of the step towards telling them apart, at which the loss's gradient is taken; 0 is ordinary training."""
    prompts: PositiveInt = 8
    """Prompts of the samples looked at for each optimizer step."""
    completions: PositiveInt = 4
    """Completions of each, at most."""


@contextmanager
def ascended(
    parameters: Sequence[nn.Parameter], gradients: Callable[[], Sequence[Tensor]], eta: float
) -> Iterator[None]:
    """Inside, the parameters stand at theta + eta * gradient; afterwards where they stood, to the bit."""
    stood = [p.detach().clone() for p in parameters]
    steps = gradients()
    with torch.no_grad():
        for p, step in zip(parameters, steps, strict=True):
            p.add_(step, alpha=eta)
    try:
        yield
    finally:
        with torch.no_grad():
            for p, before in zip(parameters, stood, strict=True):
                p.copy_(before)
