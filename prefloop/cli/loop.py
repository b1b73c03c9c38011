"""`prefloop loop`: round after round."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from prefloop.cli.answer import Answer, facts, table
from prefloop.cli.streams import log
from prefloop.cli.verb import WorkspaceOption, verb


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(app, "loop", "prefloop loop runs/loop.yaml --rounds 2")
    def loop(
        run: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The settings of the loop; see docs/loop.md.")],
        rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often to go round.")],
        workspace: WorkspaceOption = None,
    ) -> Answer:
        """Go round the whole loop: sample, ask, freeze, train, measure; then again on the new policy's samples.

        Started again with the same settings, it goes on where it stopped.
        """
        import prefloop

        result = prefloop.loop(run, rounds=rounds, workspace=workspace, log=log)

        def show(console: Console) -> None:
            rows = [
                [done["round"], done["questions"], {**done["measured"], "value": done["measured"]["accuracy"]}]
                for done in result["rounds"]
            ]
            console.print(table("Rounds", ["round", "questions", "reward model's accuracy"], rows))
            console.print(facts({"policy": result["policy"], "simulated": result["simulated"]}))

        return Answer(result, show)
