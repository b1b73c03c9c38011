"""`prefloop restore`: a copy is put back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.answer import Answer, facts
from prefloop.cli.verb import WorkspaceOption, verb


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(app, "restore", "prefloop restore prefloop-2026-01-31.backup")
    def restore(
        path: Annotated[Path, typer.Argument(metavar="PATH", help="A file that prefloop backup wrote.")],
        workspace: WorkspaceOption = None,
    ) -> Answer:
        """Put a backup in the place of the store.

        The present database is kept beside it (SQLite). What was erased since the backup was made is erased again.
        Stop prefloop serve before.
        """
        import prefloop

        result = prefloop.restore(path, workspace=workspace)
        return Answer(result, lambda console: console.print(facts(result)))
