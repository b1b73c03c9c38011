"""`prefloop import`: answers, demonstrations and prompts from elsewhere into the store."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from prefloop.cli.answer import Answer, facts
from prefloop.cli.streams import log
from prefloop.cli.verb import WorkspaceOption, verb


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(
        app,
        "import",
        "prefloop import pairs.jsonl.gz --as comparisons --source my-survey --licence CC-BY-4.0",
        "prefloop import Anthropic/hh-rlhf --as comparisons",
    )
    def import_(
        source: Annotated[str, typer.Argument(metavar="SOURCE", help="A file or the id of a data set on the hub.")],
        kind: Annotated[
            str,
            typer.Option("--as", metavar="KIND", help="comparisons, demonstrations or prompts."),
        ],
        source_name: Annotated[
            str | None,
            typer.Option("--source", help="What to call where the rows come from; otherwise the file's name."),
        ] = None,
        licence: Annotated[str | None, typer.Option("--licence", help="The licence the rows came under.")] = None,
        workspace: WorkspaceOption = None,
    ) -> Answer:
        """Bring answers from a file or the hub into the store.

        jsonl, json, csv and parquet, also as .gz and .xz. Columns: prompt, chosen, rejected, completion, messages, as
        in TRL, or Anthropic's raw transcripts. Rows that cannot be used are written to a file with their reasons.
        """
        import prefloop

        result = prefloop.import_data(source, kind, workspace=workspace, source_name=source_name, licence=licence)
        value: dict[str, Any] = {
            "imported": result.imported,
            "rejected": result.rejected,
            "reasons": dict(result.reasons),
            "rejects_file": result.rejects_file,
            "ledger": result.ledger.as_dict(),
        }
        if result.rejected:
            log(f"prefloop: warning: {result.rejected} rows were not imported; they are in {result.rejects_file}")
        error = None
        if not result.imported and result.rejected:
            error = f"{source}: none of the {result.rejected} rows can be imported as {kind} ({result.ledger.words()})"

        def show(console: Console) -> None:
            console.print(facts({k: v for k, v in value.items() if k != "ledger"}))

        return Answer(value, show, error, exit_code=2 if error else 0)
