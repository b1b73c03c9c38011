"""Rewards from simulated people, without a language model: what a mixture of feedback is worth, ties, MetaRM, SSRM.

python -m benchmarks.rewards [mixture|davidson|metarm|semi] [SEEDS]         (all of them, five seeds)

Completions are vectors of features, people score them with hidden weights, and the models are linear or have one hidden
layer; the likelihoods, thresholds and steps are the package's own. Every person here is simulated.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from prefloop.functional.feedback import (
    comparison_logprobs,
    cross_entropy,
    difference_spread,
    plackett_luce,
    yes_logprobs,
)
from prefloop.models.feedback import Answers
from prefloop.quality import davidson
from prefloop.quality.evidence import Votes
from prefloop.training.meta import ascended

SECONDS = {"comparison": 30, "rating": 15, "approval": 5, "ranking": 75}
"""Of an annotator's time for one answer, as in issue 4: a ranking of four takes 75."""
WIDTH, PROMPTS, K = 12, 60, 4
BUDGET = 4 * 3600
HALO, LENIENCY = 1.0, 0.7
"""Standard deviations: how far a whole prompt, or one's own mood, moves absolute judgements and no comparison."""
PEOPLE = 12


@dataclass(frozen=True)
class World:
    """60 prompts with 4 completions each, what they are worth, and how people are."""

    features: Tensor
    worth: Tensor
    halo: Tensor
    leniency: Tensor
    weights: Tensor

    @classmethod
    def of(cls, seed: int) -> World:
        draw = torch.Generator().manual_seed(seed)
        features = torch.randn(PROMPTS, K, WIDTH, generator=draw)
        weights = torch.randn(WIDTH, generator=draw) / WIDTH**0.5 * 1.2
        halo = HALO * torch.randn(PROMPTS, generator=draw)
        return cls(features, features @ weights, halo, LENIENCY * torch.randn(PEOPLE, generator=draw), weights)


@dataclass
class Said:
    """Answers of one kind: which prompt, which completions, what."""

    prompt: Tensor
    places: Tensor
    what: Tensor


def ask(world: World, kind: str, seconds: float, seed: int) -> Said:
    """As many answers as the time allows: prompts, completions and people at random."""
    draw = torch.Generator().manual_seed(seed * 7919 + sum(map(ord, kind)))
    n = int(seconds // SECONDS[kind])
    prompt = torch.randint(PROMPTS, (n,), generator=draw)
    places = torch.stack([torch.randperm(K, generator=draw) for _ in range(n)]) if n else torch.zeros(0, K).long()
    worth = world.worth[prompt[:, None], places]
    noise = torch.rand(n, K, generator=draw)
    mood = world.halo[prompt] + world.leniency[torch.randint(PEOPLE, (n,), generator=draw)]
    if kind == "comparison":
        return Said(prompt, places[:, :2], (noise[:, 0] < (worth[:, 0] - worth[:, 1]).sigmoid()).long())
    if kind == "ranking":
        gumbel = -torch.log(-torch.log(noise.clamp(1e-6, 1 - 1e-6)))
        return Said(prompt, places, (-(worth + gumbel)).argsort(1).argsort(1) + 1)
    felt = worth[:, 0] + mood
    if kind == "approval":
        return Said(prompt, places[:, :1], (noise[:, 0] < felt.sigmoid()).long())
    edges = torch.tensor([-2.0, -0.7, 0.7, 2.0])
    below = (edges[None] - felt[:, None]).sigmoid()
    return Said(prompt, places[:, :1], (noise[:, :1] > below).sum(1))


def fitted(world: World, said: dict[str, Said]) -> Tensor:
    """The weights of a linear reward under which all of it is likely: ridge 1, thresholds fitted along, LBFGS."""
    questions = {}
    if "rating" in said:
        questions["rating:all"] = torch.bincount(said["rating"].what, minlength=5).tolist()
    if "approval" in said:
        questions["approval"] = torch.bincount(said["approval"].what, minlength=2).tolist()
    answers = Answers(questions)
    weights = torch.zeros(WIDTH, requires_grad=True)
    parameters = [weights, *(p for p in answers.parameters() if p.requires_grad)]
    optimizer = torch.optim.LBFGS(parameters, max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = 0.5 * weights.square().sum()
        for kind, one in said.items():
            scores = (world.features @ weights)[one.prompt[:, None], one.places]
            if kind == "comparison":
                shares = torch.stack([one.what, 1 - one.what], 1).float()
                loss = loss + cross_entropy(comparison_logprobs(scores[:, 0] - scores[:, 1], None), shares).sum()
            elif kind == "ranking":
                loss = loss + plackett_luce(scores, one.what.float(), torch.ones_like(scores).bool()).sum()
            else:
                name, levels = ("rating:all", 5) if kind == "rating" else ("approval", 2)
                shares = nn.functional.one_hot(one.what, levels).float()
                loss = loss + cross_entropy(answers.logprobs(name, scores[:, 0]), shares).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


def accuracy(world: World, weights: Tensor, seed: int) -> float:
    """How often fresh pairs of one prompt are put in the order of their true worth."""
    draw = torch.Generator().manual_seed(seed + 10**6)
    pairs = torch.randn(20_000, 2, WIDTH, generator=draw)
    difference = pairs[:, 0] - pairs[:, 1]
    return float(((difference @ weights > 0) == (difference @ world.weights > 0)).float().mean())


def mixture(seeds: int) -> None:
    """Each kind alone, and a quarter of the time for each, at equal annotator seconds."""
    rows: dict[str, list[float]] = {}
    for seed in range(seeds):
        world = World.of(seed)
        for kind in SECONDS:
            said = {kind: ask(world, kind, BUDGET, seed)}
            rows.setdefault(kind, []).append(accuracy(world, fitted(world, said), seed))
        said = {kind: ask(world, kind, BUDGET / len(SECONDS), seed) for kind in SECONDS}
        rows.setdefault("mixture", []).append(accuracy(world, fitted(world, said), seed))
    for name, values in rows.items():
        print(f"{name:12} {interval(values)}")
    for kind in SECONDS:
        print(f"mixture - {kind:11} {interval([a - b for a, b in zip(rows['mixture'], rows[kind], strict=True)])}")


def davidson_recovery(seeds: int) -> None:
    """20 annotators of known discrimination on 300 pairs, ties with nu = 0.8: what the consensus model finds."""
    found, share = [], []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        d, beta, nu = rng.normal(scale=2.0, size=300), np.exp(rng.normal(scale=0.7, size=20)), 0.8
        who, item = np.repeat(np.arange(20), 100), np.concatenate([rng.permutation(300)[:100] for _ in range(20)])
        half = beta[who] * d[item] / 2
        odds = np.stack([np.exp(half), np.exp(-half), np.full(len(half), nu)], 1)
        drawn = (rng.random(len(half))[:, None] > np.cumsum(odds / odds.sum(1, keepdims=True), 1)).sum(1)
        votes = Votes(
            family="pair",
            labels=("a", "b", "tie"),
            items=[str(i) for i in range(300)],
            item=item,
            who=who,
            label=drawn,
            shown=drawn,
            first=np.zeros_like(drawn),
            longer=np.zeros(len(drawn)),
            number=np.arange(len(drawn)),
            gold=np.full(300, -1),
        )
        fit = davidson.fit(votes, 20, np.ones(20))
        found.append(spearman(fit.beta, beta))
        share.append(fit.nu / nu)
    print(f"Spearman of discriminations   {interval(found)}")
    print(f"nu found / nu planted         {interval(share)}")


ETAS = {"ordinary training": 0.0, "MetaRM, eta 0.1": 0.1, "MetaRM, eta 1": 1.0}
MOVES = 0.7
"""How far the policy moves in a round, in standard deviations of an answer."""


def metarm(seeds: int) -> None:
    """Four rounds of a policy that moves away: labelled pairs of the start only, unlabelled samples of each round.

    Against the reward model that is frozen before the first round, and the one that goes on with ordinary training.
    """
    runs = [metarm_rounds(seed) for seed in range(seeds)]
    for name in runs[0]:
        for what in runs[0][name][0]:
            course = [[run[name][r][what] for run in runs] for r in range(len(runs[0][name]))]
            rounds = "  ".join(f"{np.mean(values):.3f}" for values in course)
            print(f"{name:18} {what:17} by round {rounds}  last {interval(course[-1])}")
    for name in ETAS:
        for what in runs[0][name][0]:
            for other in ("frozen", "ordinary training"):
                if name != other:
                    less = [run[name][-1][what] - run[other][-1][what] for run in runs]
                    print(f"{name} - {other}: {what} {interval(less)}")


def metarm_rounds(seed: int, rounds: int = 4, steps: int = 100) -> dict[str, list[dict[str, float]]]:
    """Of each reward model, after each round: the spread of its scores, and its accuracy on shifted and old pairs."""
    torch.manual_seed(seed)
    truth = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    for p in truth.parameters():
        p.requires_grad_(False).mul_(3)
    pairs = torch.randn(1500, 2, 8)
    won = (truth(pairs)[..., 0].diff(dim=1)[:, 0].neg().sigmoid() > torch.rand(1500)).float()
    old_test, towards = torch.randn(4000, 2, 8), torch.randn(8)
    frozen = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))
    train_meta(frozen, pairs, won, torch.randn(200, 4, 8), 0.0, 4 * steps)
    models = {"frozen": frozen} | {name: copy.deepcopy(frozen) for name in ETAS}
    result: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for r in range(1, rounds + 1):
        mean = r * MOVES * towards / towards.norm()
        samples, shifted, groups = (
            mean + torch.randn(200, 4, 8),
            mean + torch.randn(4000, 2, 8),
            torch.randn(2000, 4, 8),
        )
        for name, model in models.items():
            torch.manual_seed(seed * 1000 + r)  # the same batches for all
            if name in ETAS:
                train_meta(model, pairs, won, samples, ETAS[name], steps)
            with torch.no_grad():
                spread = float(model(mean + groups)[..., 0].std(dim=1).mean())
                result[name].append(
                    {
                        "spread": spread,
                        "shifted accuracy": agreement(model, truth, shifted),
                        "old accuracy": agreement(model, truth, old_test),
                    }
                )
    return result


def train_meta(model: nn.Module, pairs: Tensor, won: Tensor, samples: Tensor, eta: float, steps: int) -> None:
    """Steps of Adam on the labelled pairs, each gradient taken where samples are told apart better."""
    parameters = list(model.parameters())
    adam = torch.optim.Adam(parameters, 1e-3)
    for _ in range(steps):
        rows, some = torch.randint(len(pairs), (64,)), samples[torch.randint(len(samples), (16,))]

        def towards(some: Tensor = some) -> list[Tensor]:
            return list(torch.autograd.grad(difference_spread(model(some)[..., 0]).mean(), parameters))

        with ascended(parameters, towards, eta):
            adam.zero_grad()
            difference = model(pairs[rows])[..., 0]
            shares = torch.stack([won[rows], 1 - won[rows]], 1)
            cross_entropy(comparison_logprobs(difference[:, 0] - difference[:, 1], None), shares).mean().backward()
        adam.step()


def semi(seeds: int) -> None:
    """SSRM: a tenth of the pairs are labelled; three times, what the model is sure of (0.8) becomes a label."""
    rows: dict[str, list[float]] = {}
    for seed in range(seeds):
        torch.manual_seed(seed)
        truth = torch.randn(30) * 0.8
        test, labelled, unlabelled = (torch.randn(n, 30) for n in (10_000, 60, 540))
        won = (torch.rand(60) < (labelled @ truth).sigmoid()).float()

        def right(weights: Tensor, test: Tensor = test, truth: Tensor = truth) -> float:
            return float(((test @ weights > 0) == (test @ truth > 0)).float().mean())

        only = logistic(labelled, won)
        rows.setdefault("labelled only", []).append(right(only))
        for threshold in (0.8, 0.95, 1.0):
            weights = only
            for _ in range(3):
                p = (unlabelled @ weights).sigmoid()
                sure = torch.maximum(p, 1 - p) >= threshold
                both = torch.cat([labelled, unlabelled[sure]])
                weights = logistic(both, torch.cat([won, (p[sure] > 0.5).float()]))
            rows.setdefault(f"confidence {threshold}", []).append(right(weights))
        rows.setdefault("all labelled", []).append(
            right(logistic(unlabelled, (torch.rand(540) < (unlabelled @ truth).sigmoid()).float()))
        )
    for name, values in rows.items():
        print(f"{name:16} {interval(values)}")


def logistic(x: Tensor, y: Tensor) -> Tensor:
    weights = torch.zeros(x.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(yes_logprobs(x @ weights), torch.stack([1 - y, y], 1)).sum()
        loss = loss + 0.5 * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


def agreement(model: nn.Module, truth: nn.Module, pairs: Tensor) -> float:
    return float(((model(pairs)[..., 0].diff() > 0) == (truth(pairs)[..., 0].diff() > 0)).float().mean())


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])


def interval(values: list[float]) -> str:
    """Mean and 95 % interval over seeds (Student's t)."""
    from scipy import stats

    array = np.asarray(values)
    half = stats.t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / len(array) ** 0.5 if len(array) > 1 else 0.0
    return f"{array.mean():+.4f} [{array.mean() - half:+.4f}, {array.mean() + half:+.4f}]"


PARTS: dict[str, Callable[[int], None]] = {
    "mixture": mixture,
    "davidson": davidson_recovery,
    "metarm": metarm,
    "semi": semi,
}

if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] not in PARTS:
        sys.exit(f"which part? {', '.join(PARTS)}")
    for part in sys.argv[1:2] or PARTS:
        print(part, flush=True)
        PARTS[part](int(sys.argv[2]) if len(sys.argv) > 2 else 5)
