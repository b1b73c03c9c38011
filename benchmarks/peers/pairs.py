"""Pairs: prefloop against TRL 1.16 on reward models, DPO and SFT; one 12.5 M Llama, the same texts, batches of 32.

A prompt has 147 tokens on average and a completion 61, as in HH; in the works that end in `_3c` every prompt is three
times as long as its completions. `dpo` includes the reference on both sides; `dpo_precomputed` leaves it out on both.
Both sides run at the best of their settings, TRL of `CHOICES` and prefloop of `TOKENS`, found on a first, shorter run:
of those that are nearly as fast as the fastest the one that takes least at once, as memory is compared, too.
The rate counts pairs (demonstrations for SFT) of the training itself: neither side's loading and tokenising counts.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peers.environments import interpreter
from benchmarks.peers.material import completion_lengths, prompt_lengths, words, write_model
from benchmarks.peers.race import Side, once, ours, race, row

PAIRS, SCOUTED = 96, 32
WORKS = ("reward_model", "dpo", "dpo_precomputed", "sft", "reward_model_3c", "dpo_3c", "sft_3c")
CHOICES = tuple({"micro": m, "attention": a} for m, a in itertools.product((4, 8, 16), ("sdpa", "eager")))
"""Rows at once and attention of TRL."""
ROUNDS = 2
"""Of that first run; of each setting the better counts. Other work on the machine only ever slows one down."""
NEARLY = 0.97
"""Share of the fastest's rate: as much as two runs of the same differ."""
TOKENS = (512, 1024, 2048)
"""Tokens at once of prefloop; the bare trunk gets as many."""
MOST_DIFFERENCE = {"float32": 1e-3, "bfloat16": 0.05}
"""Relative, of the loss (for DPO: of the completions' log-probabilities) on the same first rows before training."""


def rows(work: str, folder: Path, dtype: str) -> list[dict[str, Any]]:
    """The row of one of `WORKS`, with both sides' losses on the same rows and our share of what the trunk can do.

    Raises RuntimeError when the losses differ by more than rounding: then it is not the same task.
    """
    method = work.removesuffix("_3c").removesuffix("_precomputed")
    model = write_model(folder / "model", kind="reward_model" if method == "reward_model" else "policy")
    write_pairs(folder / "pairs.jsonl", PAIRS, long_prompts=work.endswith("_3c"))
    write_pairs(folder / "scouted.jsonl", SCOUTED, long_prompts=work.endswith("_3c"))
    spec = {
        "method": method,
        "model": str(model),
        "data": str(folder / "pairs.jsonl"),
        "dtype": dtype,
        "batch": 32,
        "precomputed": work.endswith("_precomputed"),
    }
    peer = Side("TRL", interpreter("trl-1.16"), "benchmarks.peers.sides.theirs_pairs")
    here = ours("benchmarks.peers.sides.ours_pairs")

    def best_of(side: Side, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        scouted = {**spec, "data": str(folder / "scouted.jsonl")}
        rounds = [[_rate(once(side, {**scouted, **choice})) for choice in choices] for _ in range(ROUNDS)]
        found = chosen(choices, [max(rates) for rates in zip(*rounds, strict=True)])
        print(f"  {side.name} at its best: {found}", file=sys.stderr, flush=True)
        return found

    best, own = best_of(peer, CHOICES), best_of(here, [{"tokens": tokens} for tokens in TOKENS])
    ceiling = Side("bare trunk", Path(sys.executable), "benchmarks.peers.sides.bare_trunk")
    us, them, trunk = race([here, peer, ceiling], {**spec, **best, **own})
    ours_said, theirs_said = us.runs[0]["agreement"], them.runs[0]["agreement"]
    if abs(ours_said - theirs_said) > MOST_DIFFERENCE[dtype] * abs(theirs_said):
        raise RuntimeError(f"{work}: on the same rows prefloop has {ours_said}, TRL {theirs_said}: not the same task")
    reached = us.rate * us.runs[0]["gflop"] / us.runs[0]["units"]
    return [
        {
            **row(work, "demonstrations/s" if method == "sft" else "pairs/s", us, peer.name, them),
            "agreement": [ours_said, theirs_said],
            "our_settings": own,
            "peer_settings": best,
            "model_gflops": round(reached, 1),
            "of_bare_trunk": round(reached / trunk.rate, 2),
            "of_matmul": round(reached / median(run["matmul"] for run in trunk.runs), 2),
        }
    ]


def chosen(choices: Sequence[dict[str, Any]], rates: Sequence[float]) -> dict[str, Any]:
    """Of those `NEARLY` as fast as the fastest the one with the least at once; of several such the fastest."""
    fast = [(choice, rate) for choice, rate in zip(choices, rates, strict=True) if rate >= NEARLY * max(rates)]
    return min(fast, key=lambda one: (one[0].get("micro", one[0].get("tokens")), -one[1]))[0]


def write_pairs(path: Path, n: int, *, long_prompts: bool, seed: int = 0) -> None:
    """`n` comparisons as jsonl, in messages, as long as HH's."""
    stream = random.Random(seed)
    completions = completion_lengths(2 * n, seed + 1)
    lines = []
    for prompt, chosen, rejected in zip(prompt_lengths(n, seed), completions[:n], completions[n:], strict=True):
        size = min(900, 3 * (chosen + rejected) // 2) if long_prompts else prompt
        # of the template's tokens three belong to the prompt and one, the EOS, to the completion
        said = {"chosen": max(1, min(chosen, 1000 - size) - 1), "rejected": max(1, min(rejected, 1000 - size) - 1)}
        line = {"prompt": [{"role": "user", "content": words(max(1, size - 3), stream)}]}
        sides = {name: [{"role": "assistant", "content": words(length, stream)}] for name, length in said.items()}
        lines.append(json.dumps({**line, **sides}) + "\n")
    path.write_text("".join(lines))


def _rate(found: dict[str, Any]) -> float:
    return float(found["units"] / found["seconds"])
