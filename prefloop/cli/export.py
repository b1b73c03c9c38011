"""`prefloop export`: a snapshot, or what the store holds, in the formats that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.answer import Answer
from prefloop.cli.verb import WorkspaceOption, verb


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(app, "export", "prefloop export --as trl-preference --out pairs.jsonl")
    def export(
        format: Annotated[
            str,
            typer.Option(
                "--as",
                metavar="FORMAT",
                help="trl-preference, trl-unpaired, trl-prompt-completion, jsonl or parquet.",
            ),
        ],
        out: Annotated[Path, typer.Option("--out", metavar="PATH", help="The file or folder to write.")],
        data: Annotated[
            str | None,
            typer.Option(
                "--data", metavar="NAME|HASH|PATH", help="The snapshot; otherwise the newest.", show_default=False
            ),
        ] = None,
        workspace: WorkspaceOption = None,
    ) -> Answer:
        """Write a snapshot for other tools to read."""
        import prefloop

        result = prefloop.export(format, out, workspace=workspace, data=data)
        value = result.as_dict()
        return Answer(value, lambda console: console.print(f"{value['rows']} rows in {value['out']}", markup=False))
