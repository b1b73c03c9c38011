"""The demo over three seeds, and its policies graded from outside: fresh prompts, sampled by the command line.

python -m benchmarks.demo [SEED ...]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from benchmarks.command import interval, prefloop
from prefloop.labelers.task_world import spec_of, task_prompts
from prefloop.workflows.evaluating import gold

PROMPTS = 300


def main(seeds: list[int]) -> None:
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder)
            result, _ = prefloop("demo", "--dir", here / "demo", "--seed", str(seed), cwd=here)
            print(f"seed {seed}: {result['seconds']:.0f} s, KL {result['kl']:.2f}")
            for name, value in result["gold_intervals"].items():
                print(f"  gold.{name}: {interval(value)}")
            print(f"  win_rate: {interval(result['win_rate'])}")
            for name, value in result["win_rates"].items():
                print(f"  win_rate.{name}: {interval(value)}")
            measured = result["reward_model"]
            print(f"  reward_model: {interval(measured, 'accuracy')}, ECE {measured['ece']:.3f}")
            tasks = task_prompts(PROMPTS, 10_000 + seed, split="fresh")
            (here / "fresh.jsonl").write_text("".join(json.dumps({"prompt": t.prompt}) + "\n" for t in tasks))
            for name in ("sft", "policy"):
                said, _ = prefloop(
                    "sample", "--policy", result["policies"][name], "--prompts", here / "fresh.jsonl", cwd=here
                )
                known = [task for row in said["completions"] if (task := spec_of(row["prompt"])) is not None]
                graded = gold(known, [row["completion"] for row in said["completions"]])
                print(f"  from outside, {name}: {interval(graded)}")
            sys.stdout.flush()


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [0, 1, 2])
