"""`prefloop quality`: what the answers are worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console

from prefloop.cli.answer import Answer, table
from prefloop.cli.streams import log
from prefloop.cli.verb import SeedOption, WorkspaceOption, verb
from prefloop.errors import InputError

RULED = {"keep": ["kept by a lead"], "exclude": ["excluded by a lead"]}
SHOWN = 40
"""Annotators listed for a person; `--json` has all."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(app, "quality", "prefloop quality", "prefloop quality --exclude person:4be2f10c9a7d3e58")
    def quality(
        round: Annotated[
            int | None, typer.Option("--round", min=0, help="Only the answers of this round.", show_default=False)
        ] = None,
        slices: Annotated[
            list[str] | None,
            typer.Option(
                "--slice",
                metavar="COLUMN",
                help="Agreement for each value of this column; may be given often.",
                show_default="subset and source",
            ),
        ] = None,
        keep: Annotated[
            list[str] | None,
            typer.Option(
                "--keep",
                metavar="ANNOTATOR",
                help="Findings seen: keep this annotator's answers at full weight. May be given often.",
                show_default=False,
            ),
        ] = None,
        exclude: Annotated[
            list[str] | None,
            typer.Option(
                "--exclude",
                metavar="ANNOTATOR",
                help="Let this annotator's answers count nowhere. May be given often.",
                show_default=False,
            ),
        ] = None,
        as_found: Annotated[
            list[str] | None,
            typer.Option(
                "--as-found",
                metavar="ANNOTATOR",
                help="Take an earlier --keep or --exclude back. May be given often.",
                show_default=False,
            ),
        ] = None,
        seed: SeedOption = 0,
        workspace: WorkspaceOption = None,
    ) -> Answer:
        """Show how far people agree, how reliable each annotator is, and how certain the consensus is.

        A finding lowers the weight of somebody's answers in the next snapshot and asks you to look; it deletes nothing.
        What you then decide (--keep, --exclude) holds from the next snapshot on, and the audit log tells of it.
        """
        import prefloop

        for decision, chosen in (("keep", keep), ("exclude", exclude), ("as_found", as_found)):
            for annotator in chosen or ():
                prefloop.rule_on(annotator, decision, workspace=workspace)
        columns = slices or ("subset", "source")
        if not all(columns):
            raise InputError("--slice needs the name of a column, such as --slice topic")
        result = prefloop.measure_quality(workspace=workspace, round=round, slices=columns, seed=seed)
        for warning in result["warnings"]:
            log(f"prefloop: warning: {warning}")
        return Answer(result, lambda console: _show(result, console))


def _show(result: Mapping[str, Any], console: Console) -> None:
    agreement, consensus = result["agreement"], result["consensus"]
    rows = [_agreement_row(kind, both) for kind, both in agreement["kinds"].items()]
    for group in ("guidelines", *agreement["slices"]):
        values = agreement["guidelines"] if group == "guidelines" else agreement["slices"][group]
        named = "guideline " if group == "guidelines" else f"{group} "
        rows += [
            _agreement_row(f"{named}{value}, {kind}", b) for value, kinds in values.items() for kind, b in kinds.items()
        ]
    who = "simulated and AI annotators" if agreement["simulated"] else "people"
    console.print(table(f"Agreement between two {who}", ["", "same answer", "Krippendorff's alpha", "questions"], rows))
    ceiling = agreement["ceiling"]["all"]
    console.print(f"\nCeiling for reward models (two people, ties left out): {_figure(ceiling)}")
    for column, values in agreement["ceiling"]["slices"].items():
        for value, figure in values.items():
            console.print(f"  {column} {value}: {_figure(figure)}", markup=False)
    console.print(f"\nConsensus: {consensus['questions']} questions, {consensus['uncertain']} of them uncertain\n")
    listed = sorted(result["annotators"], key=lambda one: (not one["flags"], -one["n"]))
    people = [
        [
            one["id"],
            one["n"],
            f"{one['reliability']:.2f} ({one['low']:.2f} to {one['high']:.2f})",
            f"{one['gold']['right']}/{one['gold']['n']}" if one["gold"]["n"] else "-",
            "-" if one["seconds"] is None else f"{one['seconds']:.0f} s",
            f"{one['weight']:.2f}",
            ", ".join([*one["flags"], *RULED.get(one["ruling"], ())]) or "-",
        ]
        for one in listed[:SHOWN]
    ]
    columns = ["annotator", "answers", "reliability", "gold", "time", "weight", "findings"]
    console.print(table("Annotators, those with findings first", columns, people))
    if len(listed) > SHOWN:
        console.print(f"and {len(listed) - SHOWN} more; --json has all")


def _agreement_row(name: str, both: Mapping[str, Any]) -> list[Any]:
    return [name, _figure(both["percent"]), _figure(both["alpha"]), both["percent"]["questions"]]


def _figure(one: Mapping[str, Any]) -> str:
    if one["value"] is None:
        return f"undefined: {one['why']}"
    interval = "" if one["low"] is None else f" ({one['low']:.3f} to {one['high']:.3f})"
    return f"{one['value']:.3f}{interval}, n {one['n']}"
