"""Which prompts the next rollout asks: all in turn, or some where the last answers differed most.

Where all answers to a prompt score alike, a method that compares them learns nothing from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.datasets.collate import stretch
from prefloop.training.run import generator


class Curriculum:
    """A function of (seed, step) and of what was seen, which goes into checkpoints."""

    def __init__(self, prompts: int, share: float, seed: int) -> None:
        """`share` of each rollout's prompts are drawn, with a chance proportional to the variance of their scores."""
        self.share, self.seed = share, seed
        self.taken = 0
        """Prompts that came in turn so far."""
        self.variance: Float[Tensor, "n"] = torch.zeros(prompts, dtype=torch.double)
        """Of each prompt's last group of scores; 0 before the first."""

    def choose(self, count: int, step: int) -> list[int]:
        """`count` prompts for rollout `step`. Where too few have answers that differed, more come in turn."""
        drawn: list[int] = []
        wanted = min(round(self.share * count), count - 1, int((self.variance > 0).sum()))
        if wanted > 0:
            stream = generator(self.seed, "curriculum", step)
            drawn = torch.multinomial(self.variance, wanted, generator=stream).tolist()
        first, self.taken = self.taken, self.taken + count - wanted
        return [*stretch(len(self.variance), first, self.taken, self.seed), *drawn]

    def saw(self, prompts: Sequence[int], scores: Float[Tensor, "n k"]) -> None:
        """The scores of each prompt's group."""
        self.variance[torch.tensor(prompts)] = scores.detach().cpu().double().var(1, correction=0)

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs, beside `taken`."""
        return {"curriculum/variance": self.variance}
