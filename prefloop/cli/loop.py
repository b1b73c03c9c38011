"""`prefloop loop`: round after round."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.answer import Answer, facts
from prefloop.cli.streams import log
from prefloop.cli.verb import WorkspaceOption, verb


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(app, "loop", "prefloop loop runs/loop.yaml --rounds 2")
    def loop(
        run: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="The settings of the loop.")],
        rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often to go round.")],
        workspace: WorkspaceOption = None,
    ) -> Answer:
        """Go round the whole loop: sample, ask, freeze, train, evaluate; then again on the new policy's samples."""
        import prefloop

        result = prefloop.loop(run, rounds=rounds, workspace=workspace, log=log)
        return Answer(result, lambda console: console.print(facts(result)))
