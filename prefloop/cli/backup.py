"""`prefloop backup`: a copy of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.answer import Answer, facts
from prefloop.cli.verb import WorkspaceOption, verb


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(app, "backup", "prefloop backup prefloop-2026-01-31.backup")
    def backup(
        path: Annotated[Path, typer.Argument(metavar="PATH", help="The file to write; it must not exist.")],
        workspace: WorkspaceOption = None,
    ) -> Answer:
        """Copy the store to a file, also while people answer.

        The copy is one state of the database and is checked before it appears. PostgreSQL is copied by pg_dump.
        """
        import prefloop

        result = prefloop.backup(path, workspace=workspace)
        return Answer(result, lambda console: console.print(facts(result)))
