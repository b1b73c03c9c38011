"""`prefloop runs`: the training jobs of a workspace."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from prefloop.cli.answer import Answer, table
from prefloop.cli.verb import WorkspaceOption, verb


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(
        app,
        "runs",
        "prefloop runs",
        "prefloop runs --stop hh_ppo",
        "prefloop runs --steer hh_ppo --set beta=0.1 --set lr=1e-6",
    )
    def runs(
        stop: Annotated[
            str | None, typer.Option("--stop", metavar="RUN", help="Ask a running job to stop.", show_default=False)
        ] = None,
        steer: Annotated[
            str | None,
            typer.Option("--steer", metavar="RUN", help="Change a job from its next step on.", show_default=False),
        ] = None,
        changes: Annotated[
            list[str] | None,
            typer.Option("--set", metavar="KEY=VALUE", help="With --steer: lr, beta or kl_target.", show_default=False),
        ] = None,
        prune: Annotated[
            bool,
            typer.Option("--prune", help="Remove the checkpoints of jobs that were cut off and will not be resumed."),
        ] = False,
        workspace: WorkspaceOption = None,
    ) -> Answer:
        """List training jobs; stop one; steer one; remove what was left by those that were cut off."""
        import prefloop

        found = prefloop.runs(workspace, stop=stop, steer=steer, changes=changes or (), prune=prune)

        def show(console: Console) -> None:
            if not found:
                console.print("No runs yet. Start one with: prefloop train sft")
                return
            columns = ["run", "method", "state", "step"]
            console.print(table("Runs", columns, [[run.get(column) for column in columns] for run in found]))

        return Answer({"runs": found}, show)
