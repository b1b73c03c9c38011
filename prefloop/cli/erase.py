"""`prefloop erase`: what somebody said, or a text, is removed for good."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from prefloop.cli.answer import Answer, table
from prefloop.cli.verb import WorkspaceOption, verb


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(app, "erase", "prefloop erase person:4be2f10c9a7d3e58 --reason 'asked on 3 March'")
    def erase(
        subject: Annotated[
            str, typer.Argument(metavar="SUBJECT", help="The id of an annotator, answer, prompt or completion.")
        ],
        reason: Annotated[str, typer.Option("--reason", help="Kept with the tombstone.")] = "erased on request",
        workspace: WorkspaceOption = None,
    ) -> Answer:
        """Erase an annotator, an answer, a prompt or a completion, and what follows from it.

        The text goes from the database, from snapshots, from exported files and from reports; ids and hashes stay as
        tombstones, so that the audit log still verifies. Models that learnt from it are listed and flagged: train them
        again. This cannot be undone.
        """
        import prefloop

        result = prefloop.erase(subject, reason=reason, workspace=workspace)
        return Answer(result, lambda console: _show(console, result))


def _show(console: Console, result: dict[str, Any]) -> None:
    told = f"Erased {result['kind']} {result['subject']}: {result['answers']} answers"
    console.print(f"{told}, {result['prompts']} prompts, {result['completions']} completions.", markup=False)
    for name, what in (
        ("snapshots", "Snapshots that were emptied"),
        ("artifacts", "Other artifacts that were emptied"),
        ("exports", "Exported files that were removed"),
        ("remaining", "Files that still hold it: remove or clean them"),
        ("backups", "Backups that still hold it: remove them, or erase again after restoring one"),
    ):
        if result[name]:
            console.print(f"{what}:")
            for path in result[name]:
                console.print(f"  {path}", markup=False)
    if result["models"]:
        rows = [[one["kind"], one["name"], one["hash"][:8]] for one in result["models"]]
        console.print(table("Made from it: train or make these again", ["kind", "name", "hash"], rows))
    console.print(f"Beyond reach: {result['beyond']}.", markup=False)
