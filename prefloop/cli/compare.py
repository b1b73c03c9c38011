"""`prefloop compare`: training runs side by side, and reward against KL."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from prefloop.cli.answer import Answer, table
from prefloop.cli.streams import log
from prefloop.cli.verb import DeviceOption, DtypeOption, SeedOption, WorkspaceOption, verb

MOST_BESIDE = 2
"""Settings that differ and stand beside what was measured, as in a sweep; more have a table of their own."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(
        app,
        "compare",
        "prefloop compare my-dpo my-ipo my-ppo",
        "prefloop compare my-dpo my-ipo --reward my-reward-model --prompts prompts.jsonl --out comparison.html",
    )
    def compare(
        runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="What runs made: names, hashes or folders.")],
        reward: Annotated[
            str | None,
            typer.Option(
                "--reward",
                metavar="MODEL|FILE.yaml",
                help="Measure the policies: a reward model, or a YAML of the parts of a reward.",
                show_default=False,
            ),
        ] = None,
        prompts: Annotated[
            str | None,
            typer.Option(
                "--prompts",
                metavar="FILE|NAME",
                help="What they are asked: a file, or a snapshot's held-out prompts; otherwise fresh tasks.",
                show_default=False,
            ),
        ] = None,
        reference: Annotated[
            str | None,
            typer.Option(
                "--reference",
                metavar="POLICY",
                help="What the KL is measured from; otherwise what the first run started from.",
                show_default=False,
            ),
        ] = None,
        max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest completion.")] = 128,
        temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="Of all policies.")] = 1.0,
        limit: Annotated[
            int | None, typer.Option("--limit", min=1, help="Only the first so many prompts.", show_default=False)
        ] = None,
        out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The HTML file to write.")] = Path(
            "comparison.html"
        ),
        seed: SeedOption = 0,
        device: DeviceOption = "auto",
        dtype: DtypeOption = "auto",
        workspace: WorkspaceOption = None,
    ) -> Answer:
        """Put training runs side by side in a table and on a page.

        With --reward each policy answers the same prompts, and its mean reward is drawn against its KL, both with 95 %
        bootstrap intervals over prompts.
        """
        import prefloop

        result = prefloop.compare(
            runs,
            reward=reward,
            prompts=prompts,
            reference=reference,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            limit=limit,
            seed=seed,
            device=device,
            dtype=dtype,
            out=out,
            workspace=workspace,
            log=log,
        )
        return comparison(result)


def comparison(result: dict[str, Any]) -> Answer:
    """What `prefloop.compare` returns, for machines and for people."""
    measured = ["reward", "kl", "length"] if result["reward"] is not None else []
    runs, settings = result["runs"], [name for name in result["differ"] if name != "method"]
    beside = settings if len(settings) <= MOST_BESIDE else []
    columns = ["run", "method", *beside, *measured, "steps", "seconds"]

    def cell(run: dict[str, Any], column: str) -> Any:
        return run["settings"].get(column) if column in settings else run.get(column)

    def show(console: Console) -> None:
        console.print(table("Runs", columns, [[cell(run, column) for column in columns] for run in runs]))
        if settings != beside:
            rows = [[name, *(cell(run, name) for run in runs)] for name in settings]
            console.print(table("Settings that differ", ["", *(str(run["run"]) for run in runs)], rows))
        console.print(f"The page is {result['page']}", markup=False)

    return Answer(result, show)
