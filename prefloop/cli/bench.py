"""`prefloop bench`: how fast, beside the libraries that people use."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from prefloop.cli.answer import Answer, table
from prefloop.cli.verb import verb


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(app, "bench", "prefloop bench", "prefloop bench --work sampling_hh --json")
    def bench(
        works: Annotated[
            list[str] | None,
            typer.Option("--work", metavar="W", help="One comparison; may be given often.", show_default="all"),
        ] = None,
    ) -> Answer:
        """Compare speed and memory with TRL and transformers on this machine.

        Both sides get the same model, data and precision and take turns in fresh processes. The peers need environments
        of their own, which make bench makes.
        """
        import prefloop

        result = prefloop.bench(works or [])

        def show(console: Console) -> None:
            lines = [line for row in result["rows"] for line in (row, *({**row, **a} for a in row.get("also", [])))]
            rows = [
                [r["work"], r["unit"], f"{r['ours']:.1f}", f"{r['peer']:.1f}", f"{r['ratio']:.2f}x",
                 f"{r['memory_ratio']:.2f}x", f"{r['peer_name']} {r['peer_version']}"]
                for r in lines
            ]  # fmt: skip
            console.print(table("Bench", ["work", "unit", "ours", "peer", "rate", "memory", "peer's name"], rows))

        return Answer(result, show)
