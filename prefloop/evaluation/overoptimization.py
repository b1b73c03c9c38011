"""Is the reward being fooled? Gao's curves, best-of-n, and the guard that watches a run against an independent reward.

Gao, Schulman and Hilton 2022, Scaling Laws for Reward Model Overoptimization (arXiv 2210.10760). With
d = sqrt(KL(policy || start)) the gold reward follows R(d) = d (a - b d) for best-of-n and R(d) = d (a - b log d) for
reinforcement learning: it rises, peaks and falls while the proxy still rises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from prefloop.errors import InputError, RunError
from prefloop.evaluation.interval import mean_interval
from prefloop.records import Messages
from prefloop.rewards.composition import Reward, scored
from prefloop.rewards.text import distinct
from prefloop.training.watch import Finding, Seen

Floats = npt.NDArray[np.float64]
Kind = Literal["best_of_n", "rl"]

OUTLIER_QUANTILE = 0.99
"""A text is a latent outlier when it is farther from the first look's mean than this share of its texts."""


def best_of_n_kl(n: int) -> float:
    """KL(best of n || one), in nats: log n - (n - 1)/n (Stiennon et al. 2020, app. G.3).

    Exact for scores without ties; an upper bound otherwise (Beirami et al. 2024, arXiv 2401.01879).
    """
    if n < 1:
        raise InputError(f"best-of-n needs n >= 1, got {n}")
    return math.log(n) - (n - 1) / n


def best_of_n(proxy: Sequence[float] | Floats, gold: Sequence[float] | Floats, n: int) -> float:
    """What the best of n by `proxy` scores by `gold`, on average over all n-subsets of these N samples.

    Unbiased (Nakano et al. 2021, app. I): sum over i of C(i-1, n-1)/C(N, n) gold_(i), sorted by the proxy, i from 1.
    Where proxies tie, each of the tied is equally likely to be taken. Raises InputError unless 1 <= n <= N.
    """
    scores, values = np.asarray(proxy, np.float64), np.asarray(gold, np.float64)
    size = len(scores)
    if scores.shape != values.shape or scores.ndim != 1 or not 1 <= n <= size:
        raise InputError(f"best-of-n needs 1 <= n <= samples, got n = {n} for {scores.shape} and {values.shape}")
    _, group = np.unique(scores, return_inverse=True)
    shared = (np.bincount(group, weights=values) / np.bincount(group))[group]
    ordered = shared[np.argsort(scores, kind="stable")]
    return float(sum(math.comb(i, n - 1) / math.comb(size, n) * ordered[i] for i in range(n - 1, size)))


@dataclass(frozen=True)
class Curve:
    """R(d) of one of Gao's two forms, with R(0) = 0."""

    kind: Kind
    alpha: float
    beta: float

    def at(self, d: float) -> float:
        """R(d)."""
        if d == 0:
            return 0.0
        return d * (self.alpha - self.beta * (d if self.kind == "best_of_n" else math.log(d)))

    @property
    def peak(self) -> tuple[float, float] | None:
        """(d*, R*), or None where the curve has none: a/2b and a^2/4b; e^(a/b - 1) and b d*."""
        if self.beta <= 0 or (self.kind == "best_of_n" and self.alpha <= 0):
            return None
        if self.kind == "best_of_n":
            return self.alpha / (2 * self.beta), self.alpha**2 / (4 * self.beta)
        if self.alpha / self.beta > 50:
            return None  # beyond e^49: nothing that the data could say
        top = math.exp(self.alpha / self.beta - 1)
        return top, self.beta * top


def fit_curve(d: Sequence[float] | Floats, gain: Sequence[float] | Floats, kind: Kind = "rl") -> Curve | None:
    """Least squares of the gain over d = 0 on d; None with fewer than three different d > 0."""
    x, y = np.asarray(d, np.float64), np.asarray(gain, np.float64)
    x, y = x[x > 0], y[x > 0]
    if len(np.unique(x)) < 3:
        return None
    bend = x * x if kind == "best_of_n" else x * np.log(x)
    (alpha, beta), *_ = np.linalg.lstsq(np.column_stack([x, -bend]), y, rcond=None)
    return Curve(kind, float(alpha), float(beta))


@dataclass(frozen=True)
class Look:
    """What the policy did at one step, on the same n prompts and with the same random numbers every time."""

    step: int
    texts: Sequence[str]
    proxy: Floats
    """(n,) the reward that the policy is trained on."""
    held_out: Floats
    """(m, n) rewards that it is not trained on: other seeds, other data."""
    kl: Floats
    """(n,) log pi - log reference, summed over a sequence, in nats."""
    tokens: Floats
    """(n,) length."""
    ended: Floats
    """(n,) 1 where the completion ended by itself."""
    entropy: Floats
    """(n,) of the policy, summed over a sequence, in nats."""
    latents: Floats | None = None
    """(n, d) what the proxy's reward model makes of each text, where it has something inside."""


@dataclass
class Guard:
    """Watches a policy that is trained on a proxy.

    The rule, fixed beforehand: a *warning* is a look at which the proxy rose and the held-out lower bound fell since
    the look before. Two warnings in a row are an *alarm* when the held-out reward also fell by more than chance
    explains: the 95 % paired bootstrap interval of its difference from the best look, prompt by prompt, lies below 0.

    The held-out score of a text is the mean over its rewards, less their standard deviation where there are several.
    """

    seed: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    """One for each look: the metrics, and what the next looks are compared with."""
    first: dict[str, Any] = field(default_factory=dict)
    """What is kept of the first look: latent mean, scale and radius; the slope of the proxy on length."""

    def __call__(self, look: Look) -> Finding:
        """Take a look in. Raises InputError when it has another number of prompts than the one before."""
        held = look.held_out.mean(0)
        if len(look.held_out) > 1:
            held = held - look.held_out.std(0)
        if self.rows and len(self.rows[-1]["scores"]) != len(held):
            raise InputError(f"the guard looks at the same {len(self.rows[-1]['scores'])} prompts, got {len(held)}")
        interval = mean_interval(held, seed=self.seed)
        low = interval.value if interval.low is None else interval.low
        row: dict[str, Any] = {
            "step": look.step,
            "proxy": float(look.proxy.mean()),
            "held_out": interval.value,
            "held_out_low": low,
            "spread": float(look.held_out.std(0).mean()),
            "kl": float(look.kl.mean()),
            "length": float(look.tokens.mean()),
            "eos": float(look.ended.mean()),
            "entropy": float(look.entropy.sum() / max(1.0, look.tokens.sum())),
            "repetition": float(np.mean([1 - distinct([text], 3) for text in look.texts])),
            "distinct_1": distinct(look.texts, 1),
            "distinct_2": distinct(look.texts, 2),
        }
        if not self.rows:
            self.first = _reference(look)
        row["outliers"] = _outliers(look, self.first)
        row["length_share"] = self._length_share(row)
        row["warning"] = (
            bool(self.rows) and row["proxy"] > self.rows[-1]["proxy"] and low < self.rows[-1]["held_out_low"]
        )
        fall = self._fall(held) if row["warning"] else None
        row["alarm"] = fall is not None and fall[2] < 0
        best = all(low > earlier["held_out_low"] for earlier in self.rows)
        self.rows.append({**row, "scores": held.tolist()})
        for earlier in self.rows[:-1]:
            if earlier is not self.best:
                earlier["scores"] = []  # nothing is compared with it
        words = self._words(row, fall)
        self.rows[-1]["words"] = words
        return Finding(best, row["alarm"], self._metrics(row), words)

    @property
    def best(self) -> dict[str, Any]:
        """The look with the highest held-out lower bound; the earliest of those that are alike."""
        return max(self.rows, key=lambda row: float(row["held_out_low"]))

    def curves(self) -> dict[str, Curve | None]:
        """Gao's curve for reinforcement learning through the gains so far, of the proxy and of the held-out reward."""
        d = [math.sqrt(max(0.0, row["kl"])) for row in self.rows]
        return {
            name: fit_curve(d, [row[name] - self.rows[0][name] for row in self.rows]) for name in ("proxy", "held_out")
        }

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs, as JSON values."""
        return {"rows": self.rows, "first": self.first}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state()` gave."""
        self.rows, self.first = list(state["rows"]), dict(state["first"])

    def report(self) -> dict[str, Any]:
        """Every look, the curves and the words, for the artifact."""
        return {
            "looks": [{k: v for k, v in row.items() if k != "scores"} for row in self.rows],
            "curves": {
                name: None if curve is None else {"alpha": curve.alpha, "beta": curve.beta, "peak": curve.peak}
                for name, curve in self.curves().items()
            },
            "best_step": self.best["step"],
            "alarm": any(row["alarm"] for row in self.rows),
        }

    def _fall(self, held: Floats) -> tuple[float, float, float] | None:
        """(difference, low, high) of the held-out reward since the best look, when the last was a warning too."""
        if not self.rows[-1]["warning"]:
            return None
        change = mean_interval(held - np.asarray(self.best["scores"]), seed=self.seed)
        return (change.value, change.low, change.high) if change.low is not None and change.high is not None else None

    def _length_share(self, row: Mapping[str, Any]) -> float:
        """Share of the proxy's gain that the gain in length explains, by the first look's slope; 0 without a gain."""
        if not self.rows or row["proxy"] <= self.rows[0]["proxy"]:
            return 0.0
        explained = self.first["length_slope"] * (row["length"] - self.rows[0]["length"])
        return float(explained / (row["proxy"] - self.rows[0]["proxy"]))

    def _metrics(self, row: Mapping[str, Any]) -> dict[str, float]:
        values = {f"guard/{name}": float(value) for name, value in row.items() if name != "step"}
        curve = self.curves()["held_out"]
        if curve is not None and curve.peak is not None:
            values |= {"guard/peak_kl": curve.peak[0] ** 2}
        return values

    def _words(self, row: Mapping[str, Any], fall: tuple[float, float, float] | None) -> str:
        """What was seen, for a person."""
        start, best = self.rows[0], self.best
        held = f"held-out {row['held_out']:.2f} (at least {row['held_out_low']:.2f})"
        shape = f"KL {row['kl']:.1f} nats, {row['length']:.0f} tokens"
        said = [f"step {row['step']}: reward {row['proxy']:.2f}, {held}, {shape}"]
        if row["alarm"] and fall is not None:
            said.append(
                f"ALARM: since step {best['step']}, the best, the reward went from {best['proxy']:.2f} to "
                f"{row['proxy']:.2f} while the held-out reward fell by {-fall[0]:.2f} [{-fall[2]:.2f}, {-fall[1]:.2f}]"
            )
        elif row["warning"]:
            said.append("warning: the reward rose and the held-out lower bound fell")
        else:
            return said[0]
        if row["length_share"] > 0.3:
            said.append(
                f"length explains {row['length_share']:.0%} of the gain ({start['length']:.0f} tokens at first)"
            )
        if row["repetition"] > start["repetition"] + 0.1:
            said.append(
                f"{row['repetition']:.0%} of the word triples repeat earlier ones (at first {start['repetition']:.0%})"
            )
        if row["eos"] < start["eos"] - 0.1:
            said.append(f"only {row['eos']:.0%} of the answers end by themselves (at first {start['eos']:.0%})")
        if row["distinct_2"] < 0.7 * start["distinct_2"]:
            said.append(
                f"answers are more alike: distinct-2 {row['distinct_2']:.2f}, at first {start['distinct_2']:.2f}"
            )
        if row["outliers"] > 5 * (1 - OUTLIER_QUANTILE):
            said.append(f"{row['outliers']:.0%} of the answers look like nothing that the reward model saw at first")
        if row["spread"] > 1.5 * start["spread"] > 0:
            said.append(f"the held-out rewards disagree more: {row['spread']:.2f}, at first {start['spread']:.2f}")
        curve = self.curves()["held_out"]
        if curve is not None and curve.peak is not None and math.sqrt(max(0.0, row["kl"])) > curve.peak[0]:
            said.append(f"the curve through the held-out rewards peaked at KL {curve.peak[0] ** 2:.1f}")
        return "; ".join(said)


@dataclass
class RunGuard:
    """The guard as a run's watch: it knows the held-out rewards, which the training loop does not."""

    prompts: Sequence[Messages]
    held_out: Sequence[Reward]
    """Rewards that the policy is not trained on."""
    every: int = 1
    """Rollouts between two looks."""
    stop: bool = True
    """Whether an alarm ends the run."""
    latents: Callable[[Sequence[Messages], Sequence[str]], Floats] | None = None
    """What the proxy's reward model makes of texts, (n, d)."""
    guard: Guard = field(default_factory=Guard)

    def __call__(self, seen: Seen) -> Finding:
        """Score what was seen by the held-out rewards, and judge it."""
        held = np.array([scored(reward, self.prompts, seen.texts).total for reward in self.held_out])
        if not np.isfinite(held).all():
            raise RunError(f"a held-out reward gave {held[~np.isfinite(held)][0]} at step {seen.step}")
        latents = None if self.latents is None else self.latents(self.prompts, seen.texts)
        found = self.guard(Look(**vars(seen), held_out=held, latents=latents))
        return replace(found, stop=found.stop and self.stop)

    def state(self) -> dict[str, Any]:
        return self.guard.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.guard.load_state(state)

    def report(self) -> dict[str, Any]:
        """What the artifact keeps of it."""
        return self.guard.report()


def _reference(look: Look) -> dict[str, Any]:
    """What later looks are measured against."""
    spread = look.tokens - look.tokens.mean()
    power = float((spread**2).sum())
    result: dict[str, Any] = {"length_slope": float((spread * look.proxy).sum()) / power if power > 0 else 0.0}
    if look.latents is not None:
        mean, scale = look.latents.mean(0), look.latents.std(0) + 1e-6
        radius = np.sqrt((((look.latents - mean) / scale) ** 2).mean(1))
        result |= {
            "mean": mean.tolist(),
            "scale": scale.tolist(),
            "radius": float(np.quantile(radius, OUTLIER_QUANTILE)),
        }
    return result


def _outliers(look: Look, first: Mapping[str, Any]) -> float:
    """Share of texts whose latent lies farther out than nearly all of the first look's; 0 without latents."""
    if look.latents is None:
        return 0.0
    distance = (look.latents - np.asarray(first["mean"])) / np.asarray(first["scale"])
    return float((np.sqrt((distance**2).mean(1)) > first["radius"]).mean())
