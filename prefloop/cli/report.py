"""`prefloop report`: one page for people to read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.answer import Answer
from prefloop.cli.verb import WorkspaceOption, verb


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(app, "report", "prefloop report my-policy --out report.html")
    def report(
        artifact: Annotated[
            str | None,
            typer.Argument(
                metavar="ARTIFACT", help="What it is about; otherwise the newest policy.", show_default=False
            ),
        ] = None,
        out: Annotated[
            Path | None, typer.Option("--out", metavar="FILE", help="The HTML file to write.", show_default=False)
        ] = None,
        workspace: WorkspaceOption = None,
    ) -> Answer:
        """Write a self-contained HTML report: figures, charts, and where the data came from."""
        import prefloop

        path = prefloop.report(artifact, workspace=workspace, out=out)
        return Answer({"report": path}, lambda console: console.print(f"The report is {path}", markup=False))
