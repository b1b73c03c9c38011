"""`prefloop init`: a workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.answer import Answer
from prefloop.cli.verb import verb


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(app, "init", "prefloop init my-project")
    def init(
        directory: Annotated[
            Path, typer.Argument(metavar="DIR", help="The folder; it is made if it is not there.")
        ] = Path(),
    ) -> Answer:
        """Make a workspace: prefloop.yaml, prefloop.db and artifacts/.

        A workspace that is already there is left as it is.
        """
        import prefloop

        workspace = prefloop.init(directory)
        value = {"workspace": workspace.root, "artifacts": workspace.artifacts}
        return Answer(value, lambda console: console.print(f"A workspace is ready in {workspace.root}"))
