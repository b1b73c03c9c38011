"""`prefloop evaluate`: how good a reward model or a policy is, each figure with n and an interval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.answer import Answer, facts
from prefloop.cli.streams import log
from prefloop.cli.verb import DeviceOption, DtypeOption, SeedOption, WorkspaceOption, verb
from prefloop.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(
        app,
        "evaluate",
        "prefloop evaluate my-reward-model",
        "prefloop evaluate my-reward-model --comparisons test.jsonl",
        "prefloop evaluate my-policy --against sft --prompts prompts.jsonl --json",
    )
    def evaluate(
        model: Annotated[
            str,
            typer.Argument(
                metavar="MODEL", help="A reward model or a policy: name, hash or folder; or a YAML of reward parts."
            ),
        ],
        comparisons: Annotated[
            str | None,
            typer.Option(
                "--comparisons",
                metavar="FILE",
                help="A reward model's test: pairs, or a snapshot.",
                show_default="the snapshot it was trained on",
            ),
        ] = None,
        own: Annotated[
            str | None,
            typer.Option(
                "--own",
                metavar="FILE",
                help="Comparisons of the current policy's own answers: how far the accuracy falls there.",
                show_default=False,
            ),
        ] = None,
        samples: Annotated[
            str | None,
            typer.Option(
                "--samples",
                metavar="FILE",
                help="Answers that nobody has judged: which pairs of them are worth asking people about.",
                show_default=False,
            ),
        ] = None,
        against: Annotated[
            str | None,
            typer.Option(
                "--against", metavar="POLICY", help="The policy to compare a policy with.", show_default=False
            ),
        ] = None,
        prompts: Annotated[
            str | None,
            typer.Option(
                "--prompts",
                metavar="FILE|NAME",
                help="What both are asked: a file, or a snapshot's held-out prompts; otherwise fresh tasks.",
                show_default=False,
            ),
        ] = None,
        judged_by: Annotated[
            str | None,
            typer.Option(
                "--judge",
                metavar="simulated|MODEL",
                help="Who judges: simulated people (they know the demo's tasks only) or a reward model.",
                show_default="simulated",
            ),
        ] = None,
        criterion: Annotated[
            str | None,
            typer.Option(
                "--criterion",
                help="With --judge MODEL, which of its criteria counts; otherwise its score itself.",
                show_default=False,
            ),
        ] = None,
        max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest completion.")] = 128,
        temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="Of both policies.")] = 1.0,
        report: Annotated[
            Path | None,
            typer.Option(
                "--report",
                metavar="FILE",
                help="Where the page about a reward model goes.",
                show_default="in a workspace beside the result, else MODEL-report.html",
            ),
        ] = None,
        limit: Annotated[
            int | None, typer.Option("--limit", min=1, help="Only the first so many prompts.", show_default=False)
        ] = None,
        seed: SeedOption = 0,
        device: DeviceOption = "auto",
        dtype: DtypeOption = "auto",
        workspace: WorkspaceOption = None,
    ) -> Answer:
        """Measure a reward model on pairs, or a policy against another policy.

        Intervals are 95 % bootstraps over prompts. Win rates are judged blind, in both orders.
        """
        import prefloop

        if comparisons is not None and against is not None:
            raise InputError("evaluate takes --comparisons FILE (of a reward model) or --against POLICY, and not both")
        from prefloop.workflows.places import workspace_or_none

        if report is None and against is None and workspace_or_none(workspace) is None:
            report = Path(f"{Path(model).name}-report.html")
        result = prefloop.evaluate(
            model,
            comparisons=comparisons,
            own=own,
            samples=samples,
            against=against,
            prompts=prompts,
            judged_by=judged_by,
            criterion=criterion,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            limit=limit,
            seed=seed,
            device=device,
            dtype=dtype,
            workspace=workspace,
            report=report,
            log=log,
        )
        long = ("reliability", "slices", "slice_ceilings", "mistakes", "features", "credit", "ask_next")
        short = {name: value for name, value in result.items() if name not in long}
        return Answer(result, lambda console: console.print(facts(short)))
