"""`prefloop import`: answers, demonstrations and prompts from elsewhere into the store."""

from __future__ import annotations

from typing import Annotated

import typer

from prefloop.cli.answer import Answer, facts
from prefloop.cli.progress import rows_bar
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
            typer.Option("--as", metavar="KIND", help="comparisons, demonstrations, prompts, ...; see docs/import.md."),
        ],
        source_name: Annotated[
            str | None,
            typer.Option("--source", help="What to call where the rows come from; otherwise the file's name."),
        ] = None,
        licence: Annotated[str | None, typer.Option("--licence", help="The licence the rows came under.")] = None,
        criterion: Annotated[
            str | None,
            typer.Option(
                "--criterion",
                metavar="COLUMN",
                help="The column that says what each row is about (helpful, harmless), if it is not called criterion.",
                show_default=False,
            ),
        ] = None,
        workspace: WorkspaceOption = None,
    ) -> Answer:
        """Bring answers from a file or the hub into the store.

        jsonl, json, csv and parquet, also as .gz and .xz. Columns: prompt, chosen, rejected, completion, messages, as
        in TRL, or Anthropic's raw transcripts. Rows that cannot be used are written to a file with their reasons.
        """
        import prefloop

        with rows_bar(f"import {source}") as advance:
            result = prefloop.import_data(
                source,
                kind,
                workspace=workspace,
                source_name=source_name,
                licence=licence,
                criterion=criterion,
                progress=advance,
            )
        value = result.as_dict()
        if result.rejected:
            log(f"prefloop: warning: {result.rejected} rows were not imported; they are in {result.rejects_file}")
        return Answer(value, lambda console: console.print(facts(value)))
