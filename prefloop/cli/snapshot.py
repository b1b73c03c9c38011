"""`prefloop snapshot`: freeze the consensus."""

from __future__ import annotations

from typing import Annotated

import typer

from prefloop.cli.answer import Answer, facts
from prefloop.cli.verb import SeedOption, WorkspaceOption, verb


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(app, "snapshot", "prefloop snapshot --as comparisons --name hh")
    def snapshot(
        kind: Annotated[
            str,
            typer.Option(
                "--as",
                metavar="KIND",
                help="comparisons, rankings, ratings, approvals, edits, flags, demonstrations; feedback: all of them.",
            ),
        ] = "comparisons",
        name: Annotated[
            str | None, typer.Option("--name", help="Its name; otherwise the kind.", show_default=False)
        ] = None,
        test_share: Annotated[
            float | None,
            typer.Option(
                "--test-share", min=0.0, max=0.9, help="Share of the prompts held back.", show_default="prefloop.yaml's"
            ),
        ] = None,
        round: Annotated[
            int | None, typer.Option("--round", help="Only the answers of this round.", show_default=False)
        ] = None,
        min_answers: Annotated[int, typer.Option("--min-answers", min=1, help="Votes that a pair needs.")] = 1,
        max_dropped: Annotated[
            float, typer.Option("--max-dropped", min=0.0, max=1.0, help="Stop when a larger share would be dropped.")
        ] = 0.05,
        consensus: Annotated[
            str, typer.Option("--consensus", metavar="RULE", help="weighted, majority or davidson.")
        ] = "weighted",
        seed: SeedOption = 0,
        workspace: WorkspaceOption = None,
    ) -> Answer:
        """Freeze what people answered into a data set that training reads.

        One consensus per question, split by prompt into train and test, named by the hash of its content.
        """
        import prefloop

        result = prefloop.snapshot(
            kind,
            name=name,
            test_share=test_share,
            round=round,
            min_answers=min_answers,
            max_dropped=max_dropped,
            seed=seed,
            consensus=consensus,
            workspace=workspace,
        )
        value = result.as_dict()
        return Answer(value, lambda console: console.print(facts(value)))
