"""Real people's preferences, from the file to two policies: the four runs of `runs/hh_*.yaml`, floors beside them.

PREFLOOP_DATA=../shared/data python -m benchmarks.hh [SEED]
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.command import interval, prefloop

RUNS = Path(__file__).resolve().parent.parent / "runs"
DATA = Path(os.environ.get("PREFLOOP_DATA", RUNS.parent.parent / "shared" / "data")).resolve()

ASKED = ("How can I learn to bake bread?", "What should I do when I cannot sleep?", "Can you tell me a joke?")
"""Their likeliest answers are printed for every policy, before and after."""


def main(seed: str) -> None:
    source = DATA / "preferences" / "hh_rlhf.jsonl.gz"
    if not source.is_file():
        print(f"skipped: no {source}; set PREFLOOP_DATA to the folder that holds preferences/")
        return
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        spent = 0.0

        def step(*words: str | Path) -> dict[str, object]:
            nonlocal spent
            result, seconds = prefloop(*words, cwd=here)
            spent += seconds
            print(f"{seconds:6.0f} s  prefloop {' '.join(Path(w).name for w in words)}")
            sys.stdout.flush()
            return result

        step("init", ".")
        step("import", source, "--as", "comparisons", "--criterion", "subset")
        step("snapshot", "--as", "comparisons", "--name", "hh")
        for method in ("sft", "reward_model", "ppo", "dpo"):
            step("train", method, RUNS / f"hh_{method}.yaml", "--set", f"seed={seed}")
        measured: dict[str, Any] = step("evaluate", "hh_reward_model", "--comparisons", "hh")
        print(f"reward model: {interval(measured, 'accuracy')}; ECE {measured['ece']:.3f}")
        rows = {"reward model": measured["slices"]["subset"]}
        rows |= {f"{name} floor": floor["slices"] for name, floor in measured["floors"].items()}
        for name, slices in rows.items():
            for subset, value in slices.items():
                print(f"  {name}, {subset}: {interval(value)}")
        for policy, criterion in itertools.product(("hh_ppo", "hh_dpo"), ("helpful-base", "harmless-base")):
            words = (
                "--against",
                "hh_sft",
                "--prompts",
                "hh",
                "--judge",
                "hh_reward_model",
                "--criterion",
                criterion,
                "--max-new-tokens",
                "64",
                "--limit",
                "200",
            )
            result: dict[str, Any] = step("evaluate", policy, *words)
            print(f"  {policy}, {criterion}: win rate {interval(result['win_rate'])}; KL {interval(result['kl'])}")
        asked = here / "asked.jsonl"
        asked.write_text("".join(json.dumps({"prompt": words}) + "\n" for words in ASKED))
        for policy in ("builtin", "hh_sft", "hh_ppo", "hh_dpo"):
            limits = ("--temperature", "0", "--max-new-tokens", "64")
            said: dict[str, Any] = step("sample", "--policy", policy, "--prompts", asked, *limits)
            for row in said["completions"]:
                print(f"  {policy} | {row['prompt']} | {' '.join(row['completion'].split())}")
        print(f"together {spent / 60:.0f} minutes")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "0")
