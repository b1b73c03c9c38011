"""RLHF against DPO when the true reward can and cannot be written in the reward model's features. Tabular, numpy alone.

    python benchmarks/realisable.py [--seeds 20] [--json FILE]

20 prompts with 10 completions each. The reference is uniform, pairs are drawn uniformly, and the answers are
Bradley-Terry's of the true reward. RLHF fits a reward that is linear in 4 features and takes its optimal policy
ref * exp(r / beta) / Z exactly; DPO fits a table of logits, and so may have any policy. Both fits are maximum
likelihood with the same weak prior. The gap is J(best) - J(policy), J = E[true reward] - beta KL, which is
beta KL(policy, best). The claim (Nika et al. 2024, https://arxiv.org/abs/2403.01857): with a reward that the model can
express RLHF needs fewer pairs, because it has fewer parameters; with one that it cannot, its gap does not vanish, and
DPO's does.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
PROMPTS, COMPLETIONS, FEATURES, BETA, PRIOR = 20, 10, 4, 1.0, 0.1
PAIRS = (100, 300, 1000, 3000, 10_000, 100_000, 1_000_000)


def fit(design: Floats, wins: Floats, trials: Floats) -> Floats:
    """Logistic regression by Newton's method: P(win) = sigmoid(design @ w), with a prior of variance 1 / PRIOR."""
    w = np.zeros(design.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-design @ w))
        slope = design.T @ (wins - trials * p) - PRIOR * w
        curve = (design.T * (trials * p * (1 - p))) @ design + PRIOR * np.eye(len(w))
        step = np.linalg.solve(curve, slope)
        w += step
        if np.abs(step).max() < 1e-10:
            return w
    raise RuntimeError("Newton's method did not converge")


def policy_of(reward: Floats) -> Floats:
    """exp(r / beta) / Z for each prompt: the reference is uniform."""
    tilted = np.exp((reward - reward.max(1, keepdims=True)) / BETA)
    result: Floats = tilted / tilted.sum(1, keepdims=True)
    return result


def gap(reward: Floats, true: Floats) -> float:
    """beta KL(policy of reward, policy of the true reward), mean over prompts: what the policy loses."""
    p, best = policy_of(reward), policy_of(true)
    return float(BETA * (p * np.log(p / best)).sum(1).mean())


def measured(seed: int, realisable: bool) -> list[tuple[float, float]]:
    """(RLHF's gap, DPO's) for each number of pairs; more pairs include the fewer."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((PROMPTS, COMPLETIONS, FEATURES))
    if realisable:
        true = features @ rng.standard_normal(FEATURES) / math.sqrt(FEATURES)
    else:
        true = rng.standard_normal((PROMPTS, COMPLETIONS))
    first, second = np.triu_indices(COMPLETIONS, 1)
    likely = 1 / (1 + np.exp(-(true[:, first] - true[:, second])))
    trials, wins = np.zeros_like(likely), np.zeros_like(likely)
    found, done = [], 0
    for pairs in PAIRS:
        new = rng.multinomial(pairs - done, np.full(likely.size, 1 / likely.size)).reshape(likely.shape)
        trials, wins, done = trials + new, wins + rng.binomial(new, likely), pairs
        differences = (features[:, first] - features[:, second]).reshape(-1, FEATURES)
        weights = fit(differences, wins.ravel(), trials.ravel())
        one_each = np.eye(COMPLETIONS)[first] - np.eye(COMPLETIONS)[second]
        table = np.stack([fit(one_each, wins[x], trials[x]) for x in range(PROMPTS)])
        found.append((gap(features @ weights, true), gap(table, true)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    result: dict[str, Any] = {"seeds": given.seeds, "pairs": PAIRS}
    for name, realisable in (("realisable", True), ("not realisable", False)):
        all_gaps = np.array([measured(seed, realisable) for seed in range(given.seeds)])
        print(f"{name}: gap of RLHF and of DPO, mean (standard deviation) over {given.seeds} seeds")
        for pairs, gaps in zip(PAIRS, all_gaps.transpose(1, 0, 2), strict=True):
            (rlhf, dpo), (rlhf_sd, dpo_sd) = gaps.mean(0), gaps.std(0, ddof=1)
            print(f"  {pairs:>9,} pairs  RLHF {rlhf:.4f} ({rlhf_sd:.4f})  DPO {dpo:.4f} ({dpo_sd:.4f})")
        result[name] = all_gaps.tolist()
    if given.json:
        given.json.write_text(json.dumps(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
