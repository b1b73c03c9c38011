"""`prefloop demo`: the whole loop, with nothing to bring."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from prefloop.cli.answer import Answer, facts, table
from prefloop.cli.streams import log, printable
from prefloop.cli.verb import SeedOption, verb

STAGES = {
    "base": "base: continues text",
    "sft": "after SFT",
    "round1": "after one round",
    "dpo": "DPO on the first round's answers",
    "round2": "after two rounds",
    "policy": "the average of these three",
}
SHOWN = ("base", "sft", "policy")


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(app, "demo", "prefloop demo", "prefloop demo --dir demo --seed 1 --json")
    def demo(
        directory: Annotated[
            Path | None,
            typer.Option(
                "--dir",
                metavar="DIR",
                help="Where to work; an interrupted demo goes on in it. Without it: a new prefloop-demo folder.",
                show_default=False,
            ),
        ] = None,
        seed: SeedOption = 0,
    ) -> Answer:
        """Run the whole loop on the built-in model and simulated people, then write a report.

        Demonstrations, SFT, sampled completions, comparisons, a reward model, PPO, DPO, evaluation, and a second
        round. No network, no account, no GPU.
        """
        import prefloop

        result = prefloop.demo(directory, seed=seed, log=log)
        return Answer(result, lambda console: show(console, result))


def show(console: Console, result: Mapping[str, Any]) -> None:
    """The answers before and after, the figures, and where the report is."""
    for row in result["shows"]:
        console.rule(printable(row["prompt"]), align="left", style="bold")
        for stage in SHOWN:
            passed = row["passed"].get(stage)
            verdict = "" if passed is None else "  (passes)" if passed else "  (does not pass)"
            console.print(f"{STAGES[stage]}{verdict}", style="bold", markup=False)
            console.print(printable(row["answers"][stage]).strip() or "(nothing)", markup=False)
            console.print()
    intervals = result["gold_intervals"]
    rows = [[words, intervals[stage]] for stage, words in STAGES.items() if stage in intervals]
    console.print(table("Fresh tasks solved, as the checkers say", ["", "share (95 % interval)"], rows))
    console.print()
    console.print(
        facts(
            {
                "blind, against SFT": result["win_rate"],
                "reward model": {**result["reward_model"], "value": result["reward_model"]["accuracy"]},
                "KL from SFT": f"{result['kl']:.1f} nats per answer",
                "time": f"{result['seconds']:.0f} s",
                "policy": result["policy"],
                "report": result["report"],
            }
        )
    )
    console.print("Every answer was a simulated person's. Open the report in a browser.")
