"""`prefloop demo`: the whole loop once, with nothing to bring."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from prefloop.cli.answer import Answer, facts
from prefloop.cli.streams import log
from prefloop.cli.verb import SeedOption, verb


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(app, "demo", "prefloop demo --dir demo --seed 1")
    def demo(
        directory: Annotated[
            Path | None,
            typer.Option("--dir", metavar="DIR", help="Where to keep what the demo makes.", show_default=False),
        ] = None,
        seed: SeedOption = 0,
    ) -> Answer:
        """Run the whole loop on the built-in model and simulated people, then write a report.

        Demonstrations, SFT, sampled completions, comparisons, a reward model, PPO, DPO, evaluation, and a second
        round. No network, no account, no GPU.
        """
        import prefloop

        result = prefloop.demo(directory, seed=seed, log=log)

        def show(console: Console) -> None:
            console.print(facts(result))

        return Answer(result, show)
