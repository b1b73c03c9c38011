"""`prefloop lineage`: from a model back to the people whose answers made it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from prefloop.cli.answer import Answer, facts, table
from prefloop.cli.verb import WorkspaceOption, verb


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(app, "lineage", "prefloop lineage my-policy --json")
    def lineage(
        artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="A name, a hash or a folder.")],
        workspace: WorkspaceOption = None,
    ) -> Answer:
        """Show the chain of artifacts behind one, back to the snapshot, its answers and annotators."""
        import prefloop

        result = prefloop.lineage(artifact, workspace=workspace)

        def show(console: Console) -> None:
            rows = [
                [link.get("kind", "missing"), link.get("name", ""), link["hash"][:8], [p[:8] for p in link["parents"]]]
                for link in result["chain"]
            ]
            console.print(table("Made from, nearest first", ["kind", "name", "hash", "parents"], rows))
            console.print()
            machines = sum(1 for annotator in result["annotators"] if annotator["kind"] in ("simulated", "ai"))
            who = f"{len(result['annotators'])}, {machines} of them machines"
            console.print(facts({"answers": len(result["answers"]), "annotators": who}))

        return Answer(result, show)
