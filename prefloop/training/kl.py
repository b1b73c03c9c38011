"""The price of KL: fixed, or adapted so that the KL per sequence goes to a target (Ziegler et al. 2019, sect. 2.2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prefloop.training.steering import Change


@dataclass
class KLController:
    """`beta` is the price of a nat; with a `target` it follows e = clip(KL / target - 1, -0.2, 0.2)."""

    beta: float
    target: float | None = None
    horizon: float = 10_000

    def steer(self, changes: Iterable[Change]) -> None:
        """Go on with the last price and target that they name."""
        for change in changes:
            self.beta = self.beta if change.beta is None else change.beta
            self.target = self.target if change.kl_target is None else change.kl_target

    def update(self, kl: float, episodes: int) -> float:
        """The price that this rollout was charged; afterwards beta is beta (1 + e * episodes / horizon).

        `kl` is the mean over episodes of the KL summed over a sequence, in nats.
        """
        charged = self.beta
        if self.target is not None:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.beta *= 1 + error * episodes / self.horizon
        return charged
