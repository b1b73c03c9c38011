"""Does spreading a late score over the tokens save samples? PPO on a small language, sparse, evenly and by attention.

usage: python -m benchmarks.credit [SEEDS] [FIRST] [WORDS]        (5 seeds from 0, answers of up to 16 words)

Answers have up to WORDS words, some of which help, some hurt and some do nothing; simulated people compare random
answers, and a reward model learns one score for a whole answer from that. PPO has that score at the end (sparse), or
spread over the tokens: evenly, or by the reward model's attention (ABC, Chan et al. 2024), both with beta 0.8. One seed
has one reward model, policy and prompts in all three. Counted are the samples until the mean score of three rollouts in
a row is first what the sparse run ends with (the mean of its last three). WORDS 6, 16 and 28 tell whether longer
answers widen the gap.
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rewards import interval
from benchmarks.words import random_answer, write_policy

TOPICS = ("bread", "wood", "paint")
HELPS, HURTS, EMPTY = ("plan", "tip"), ("no", "bad", "um"), ("so", "well", "and", "then")
WORDS = [*TOPICS, *HELPS, *HURTS, *EMPTY]
MOST_WORDS = 16
PAIRS, ROLLOUTS, BATCH = 1000, 40, 64
CREDIT: dict[str, dict[str, Any] | None] = {
    "sparse": None,
    "evenly": {"by": "evenly", "beta": 0.8},
    "attention": {"by": "attention", "beta": 0.8},
}
COMMON: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_dropped": 0.5, "test_share": 0.0}
LEARN: dict[str, Any] = {"batch_size": 64, "epochs": 4, "lr": 5e-3}
PPO: dict[str, Any] = {
    "lr": 1e-3,
    "schedule": "constant",
    "log_every": 1,
    "batch_size": BATCH,
    "steps": ROLLOUTS,
    "rollout_epochs": 2,
    "minibatches": 2,
    "beta": 0.02,
    "missing_eos_score": None,
}


def worth(topic: str, text: str) -> float:
    """What an answer is worth: 0.4 for a word that helps (its own topic is one), -0.4 for one that hurts."""
    said = text.split()
    return 0.4 * sum((word in (topic, *HELPS)) - (word in HURTS) for word in said)


def one_seed(
    seed: int, folder: Path, *, words: int = MOST_WORDS, rollouts: int = ROLLOUTS, pairs: int = PAIRS
) -> dict[str, list[float]]:
    """The mean score of every rollout, under each rule of credit."""
    from prefloop.workflows.training import train

    start = str(write_policy(folder / "policy", WORDS, seed=seed))
    rng = random.Random(seed)
    rows = []
    for _ in range(pairs):
        topic = rng.choice(TOPICS)
        one, other = (random_answer(WORDS, rng, words) for _ in "ab")
        if rng.random() > 1 / (1 + math.exp(3 * (worth(topic, other) - worth(topic, one)))):
            one, other = other, one
        rows.append({"prompt": topic, "chosen": one, "rejected": other})
    data = folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {**COMMON, "policy": start, "data": str(data), "seed": seed}
    quiet: dict[str, Any] = {"log": lambda line: None}
    long = {"max_length": words + 4, "max_new_tokens": words}
    reward = train(
        "reward_model", out=folder / "reward", overrides={**common, **LEARN, "max_length": words + 4}, **quiet
    )
    result = {}
    for name, credit in CREDIT.items():
        settings = {**common, **PPO, **long, "reward_model": reward["artifact"], "credit": credit, "steps": rollouts}
        made = train("ppo", out=folder / name, overrides=settings, **quiet)
        lines = (Path(made["artifact"]) / "metrics.jsonl").read_text().splitlines()
        result[name] = [json.loads(line)["objective/scores"] for line in lines]
    return result


def samples_to(curve: list[float], goal: float) -> int | None:
    """Samples until the mean of three rollouts in a row is first `goal`; None where it never is."""
    means = np.convolve(curve, np.ones(3) / 3, mode="valid")
    reached = np.flatnonzero(means >= goal - 1e-9)
    return int(reached[0] + 3) * BATCH if len(reached) else None


def main(seeds: int, first: int, words: int) -> None:
    needed: dict[str, list[float]] = {name: [] for name in CREDIT}
    ends: dict[str, list[float]] = {name: [] for name in CREDIT}
    missed = dict.fromkeys(CREDIT, 0)
    for seed in range(first, first + seeds):
        with tempfile.TemporaryDirectory() as folder:
            curves = one_seed(seed, Path(folder), words=words)
        goal = float(np.mean(curves["sparse"][-3:]))
        for name, curve in curves.items():
            found = samples_to(curve, goal)
            missed[name] += found is None
            needed[name].append(float(found or len(curve) * BATCH))
            ends[name].append(float(np.mean(curve[-3:])))
        print(seed, {name: [round(v, 2) for v in curve[::4]] for name, curve in curves.items()}, flush=True)
    for name in CREDIT:
        less = [a - b for a, b in zip(needed[name], needed["sparse"], strict=True)]
        print(f"{name:10} samples {interval(needed[name])}; less sparse's {interval(less)}; never {missed[name]}")
        print(f"{name:10} final score {interval(ends[name])}")


if __name__ == "__main__":
    given = [*sys.argv[1:], *["5", "0", str(MOST_WORDS)][len(sys.argv) - 1 :]]
    main(*(int(word) for word in given))
