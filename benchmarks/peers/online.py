"""One online step: prefloop against TRL 1.16's RLOO and GRPO and TRL 1.12's PPO; one 12.5 M Llama, the same prompts.

A step is 8 prompts x 8 samples x 64 tokens: sampling, scoring, reference (and for PPO critic and reward model) and the
update, for PPO four passes over the rollout. TRL runs at the best of the settings in `CHOICES`, found on a first,
shorter run. The first step warms up and is left out; the rate counts samples. Before the race both sides are given the
same completions, and must agree on rewards, advantages, loss and gradient: in float32, whatever the race is in, as
rounding would hide a difference; and in processes of their own, as that takes more memory than a step.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import interpreter
from benchmarks.peers.material import score, words, write_model, write_prompts
from benchmarks.peers.race import Side, once, ours, race, row

WORKS = ("rloo", "grpo", "ppo")
PROMPTS, GROUP, TOKENS, STEPS = 8, 8, 64, 3
CHOICES = tuple({"micro": micro} for micro in (64, 16))
"""Samples at once in TRL's update."""
MOST_DIFFERENCE = 1e-3
"""Relative, of each number that the sides compute from the same completions."""


def rows(work: str, folder: Path, dtype: str) -> list[dict[str, Any]]:
    """The row of one of `WORKS`, with what both sides made of the same completions.

    Raises RuntimeError when they differ by more than rounding: then it is not the same task.
    """
    spec = written(work, folder, dtype)
    peer = {
        "rloo": Side("TRL RLOOTrainer", interpreter("trl-1.16"), "benchmarks.peers.sides.theirs_group"),
        "grpo": Side("TRL GRPOTrainer", interpreter("trl-1.16"), "benchmarks.peers.sides.theirs_group"),
        "ppo": Side("TRL PPOTrainer", interpreter("trl-1.12"), "benchmarks.peers.sides.theirs_ppo"),
    }[work]
    here = ours("benchmarks.peers.sides.ours_online")
    exact = {**spec, "dtype": "float32", "measure": "agreement"}
    agreed = agreement(work, once(here, exact)["agreement"], once(peer, exact)["agreement"], MOST_DIFFERENCE)
    print(f"  both of the same completions: {agreed}", file=sys.stderr, flush=True)
    best = max(CHOICES, key=lambda choice: _rate(once(peer, {**spec, "steps": 2, **choice})))
    print(f"  TRL at its best: {best}", file=sys.stderr, flush=True)
    us, them = race([here, peer], {**spec, **best})
    return [{**row(work, "samples/s", us, peer.name, them), "agreement": agreed, "peer_settings": best}]


def written(
    work: str, folder: Path, dtype: str, *, prompts: int = PROMPTS, tokens: int = TOKENS, steps: int = STEPS
) -> dict[str, Any]:
    """Models, prompts and given completions in `folder`, and what both sides are told."""
    write_model(folder / "model")
    write_model(folder / "reference", seed=1)
    write_model(folder / "reward", seed=2, kind="reward_model")
    write_prompts(folder / "prompts.jsonl", prompts)
    # As many tokens in each as may be: TRL's PPO puts the score of a shorter one behind its last token. PPO's reward is
    # a model's, which scores a text at its EOS: TRL appends none, so the sides give it as the last of those tokens.
    stream = random.Random(7)
    given = [words(tokens - (work == "ppo"), stream) for _ in range(prompts * GROUP)]
    (folder / "given.json").write_text(json.dumps([{"text": text, "reward": score(text)} for text in given]))
    (folder / "trl").mkdir(exist_ok=True)
    return {
        "work": work,
        "measure": "rate",
        "dtype": dtype,
        "group": GROUP,
        "tokens": tokens,
        "steps": steps,
        "micro": prompts * GROUP,
        "folder": str(folder / "trl"),
        **{name: str(folder / name) for name in ("model", "reference", "reward")},
        "prompts": str(folder / "prompts.jsonl"),
        "given": str(folder / "given.json"),
    }


def agreement(
    work: str, here: dict[str, float], there: dict[str, float], most: float
) -> dict[str, tuple[float, float]]:
    """{what: (ours, theirs)}. Raises RuntimeError for a difference of more than `most`, relative."""
    assert here.keys() == there.keys()
    for what, value in here.items():
        # A group's advantages cancel in the loss before the first step: its rounding is to be seen beside theirs.
        scale = max(abs(there[what]), there.get("advantage", 0.0) if what == "loss" else 0.0)
        if abs(value - there[what]) > most * max(scale, 1e-3):
            raise RuntimeError(
                f"{work}: of the same completions prefloop's {what} is {value}, TRL's {there[what]}: not the same task"
            )
    return {what: (value, there[what]) for what, value in here.items()}


def _rate(found: dict[str, Any]) -> float:
    return float(found["units"] / found["seconds"])
