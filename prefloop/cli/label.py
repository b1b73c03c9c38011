"""`prefloop label`: questions answered by a machine, marked as such."""

from __future__ import annotations

from typing import Annotated

import typer

from prefloop.cli.answer import Answer, facts
from prefloop.cli.progress import rows_bar
from prefloop.cli.verb import SeedOption, WorkspaceOption, verb


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(app, "label", "prefloop label --by simulated:panel", "prefloop label --by simulated:careful --limit 500")
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
        """Let simulated people answer the waiting questions.

        Their answers go through the same queue as people's, and are marked as simulated wherever they appear.
        """
        import prefloop

        with rows_bar(f"answers by {by}") as advance:
            result = prefloop.label(
                by, limit=limit, seed=seed, workspace=workspace, progress=lambda done: advance(done, None)
            )
        return Answer(result, lambda console: console.print(facts(result)))
