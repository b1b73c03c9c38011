"""`prefloop export`: a snapshot, or what the store holds, in the formats that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

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
        purpose: Annotated[
            str,
            typer.Option(
                "--purpose", help="What it is for: rows of people who have not agreed to that purpose stay out."
            ),
        ] = "training",
        redact: Annotated[
            bool,
            typer.Option(
                "--redact", help="Replace e-mail addresses, telephone numbers, cards, IBANs and IP addresses."
            ),
        ] = False,
        workspace: WorkspaceOption = None,
    ) -> Answer:
        """Write a snapshot for other tools to read.

        Personal data that has a checkable form is counted; names and postal addresses are not found.
        """
        import prefloop

        result = prefloop.export(format, out, workspace=workspace, data=data, purpose=purpose, redacted=redact)
        value = result.as_dict()
        return Answer(value, lambda console: _show(console, value, redact))


def _show(console: Console, value: dict[str, Any], redacted: bool) -> None:
    console.print(f"{value['rows']} rows in {value['out']}", markup=False)
    barred = value["ledger"]["dropped"].get("no consent", 0)
    if barred:
        console.print(f"{barred} rows stayed out: somebody who answered has not agreed to this purpose", markup=False)
    if value["personal_data"]:
        found = ", ".join(f"{kind} in {n} rows" for kind, n in value["personal_data"].items())
        what = "Replaced" if redacted else "Personal data (--redact replaces it)"
        console.print(f"{what}: {found}. Names and postal addresses are not found.", markup=False)
