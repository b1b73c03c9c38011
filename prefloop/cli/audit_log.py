"""`prefloop audit-log`: whether what is stored is what happened."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from prefloop.cli.answer import Answer, facts, plain
from prefloop.cli.verb import WorkspaceOption, verb
from prefloop.errors import InputError
from prefloop.settings import check_choice

ACTIONS = ("verify", "head")


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(
        app,
        "audit-log",
        "prefloop audit-log head --out head-2026-01-31.json",
        "prefloop audit-log verify --head head-2026-01-31.json",
    )
    def audit_log(
        action: Annotated[str, typer.Argument(metavar="ACTION", help="verify or head.")],
        head: Annotated[
            Path | None,
            typer.Option(
                "--head", metavar="FILE", help="For verify: a head that was written before.", show_default=False
            ),
        ] = None,
        out: Annotated[
            Path | None,
            typer.Option("--out", metavar="FILE", help="For head: where to write it.", show_default=False),
        ] = None,
        workspace: WorkspaceOption = None,
    ) -> Answer:
        """Verify the audit log, or write its head to a file.

        The audit log is a hash chain over answers, corrections, guidelines, roles, tokens, exports and erasures. Verify
        finds any change that was made past prefloop before the given head was written. Without a head it still finds
        single changes, but a log that was rewritten as a whole cannot be told from the true one. Exit code 1 when
        something was found.
        """
        check_choice("audit-log", action, ACTIONS)
        if (action == "verify" and out is not None) or (action == "head" and head is not None):
            raise InputError("--head FILE goes with verify, --out FILE with head")
        return _verified(head, workspace) if action == "verify" else _head(out, workspace)


def _verified(head: Path | None, workspace: WorkspaceOption) -> Answer:
    import prefloop

    found = prefloop.verify_audit_log(head, workspace=workspace)

    def show(console: Console) -> None:
        console.print(f"{found.events} events, {found.answers} answers, head {found.head.number} {found.head.hash}")
        for problem in found.problems:
            console.print(f"* {problem}", markup=False)
        if found.ok:
            console.print("Nothing was changed past prefloop, as far as can be told.")
        if not found.compared:
            console.print("No exported head was given: a log that was rewritten as a whole cannot be told.")

    error = None if found.ok else f"the audit log does not verify: {found.problems[0]}"
    return Answer(plain(found), show, error=error, exit_code=0 if found.ok else 1)


def _head(out: Path | None, workspace: WorkspaceOption) -> Answer:
    import prefloop

    newest = prefloop.export_head(out, workspace=workspace)
    return Answer(plain(newest), lambda console: console.print(facts(vars(newest))))
