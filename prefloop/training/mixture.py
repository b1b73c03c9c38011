"""Demonstrations that are learned in the same optimizer steps as a reward, so that the policy does not forget them.

PPO-ptx: Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, eq. 2, gamma E[log pi(x)].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from prefloop.datasets.collate import cycled, micro_batches
from prefloop.datasets.rows import TextRow
from prefloop.models.heads import CompletionLogprobs


@dataclass(frozen=True)
class Mixture:
    """Rows that are mixed in, and what they count."""

    rows: Sequence[TextRow]
    coef: float
    """Weight of the mean negative log-likelihood of a token, in nats."""
    ratio: float
    """Rows for each episode of a minibatch."""
    seed: int

    def losses(
        self, logprobs: CompletionLogprobs, update: int, episodes: int, budget: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For optimizer step `update`, micro-batch by micro-batch: (part of the loss, log-likelihood of each token).

        The parts add up to coef times the mean over all tokens of the step's rows; every row comes once before any
        comes again.
        """
        size = max(1, round(self.ratio * episodes))
        chosen = [self.rows[i] for i in cycled(len(self.rows), size, update, self.seed)]
        tokens = sum(row.text.completion_length for row in chosen)
        for micro in micro_batches(chosen, lambda row: row.text.length, budget):
            found, valid = logprobs.of([row.text for row in micro])
            yield -self.coef * found.sum() / tokens, found[valid].detach()
