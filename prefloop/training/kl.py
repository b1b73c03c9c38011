"""The price of KL: fixed, or adapted so that the KL per sequence goes to a target (Ziegler et al. 2019, sect. 2.2)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class KLController:
    """`beta` is the price of a nat; with a `target` it follows e = clip(KL / target - 1, -0.2, 0.2)."""

    beta: float
    target: float | None = None
    horizon: float = 10_000

    def update(self, kl: float, episodes: int) -> float:
        """The price that this rollout was charged; afterwards beta is beta (1 + e * episodes / horizon).

        `kl` is the mean over episodes of the KL summed over a sequence, in nats.
        """
        charged = self.beta
        if self.target is not None:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.beta *= 1 + error * episodes / self.horizon
        return charged
