"""`prefloop label`: questions answered by a machine, marked as such."""

from __future__ import annotations

from typing import Annotated

import typer

from prefloop.cli.answer import Answer, facts
from prefloop.cli.streams import log
from prefloop.cli.verb import SeedOption, WorkspaceOption, verb


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(app, "label", "prefloop label --by simulated:typical --limit 500")
    def label(
        by: Annotated[
            str, typer.Option("--by", metavar="simulated:PROFILE", help="Who answers.")
        ] = "simulated:typical",
        limit: Annotated[
            int | None, typer.Option("--limit", min=1, help="At most this many answers.", show_default=False)
        ] = None,
        seed: SeedOption = 0,
        workspace: WorkspaceOption = None,
    ) -> Answer:
        """Answer the waiting questions with a simulated panel.

        The answers go through the same queue as people's, and are marked as simulated wherever they appear.
        """
        import prefloop

        result = prefloop.label(by, limit=limit, seed=seed, workspace=workspace, log=log)
        return Answer(result, lambda console: console.print(facts(result)))
