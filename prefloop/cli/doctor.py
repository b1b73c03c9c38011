"""`prefloop doctor`: is everything in order on this machine and in this workspace?"""

from __future__ import annotations

import typer
from rich.console import Console

from prefloop.cli.answer import Answer, table
from prefloop.cli.verb import WorkspaceOption, verb


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(app, "doctor", "prefloop doctor")
    def doctor(workspace: WorkspaceOption = None) -> Answer:
        """Check versions, processor, disk, database and artifacts, and say what to do about what is wrong."""
        import prefloop

        result = prefloop.doctor(workspace)

        def show(console: Console) -> None:
            rows = [
                [check["state"], check["name"], check["found"], check["advice"] or ""] for check in result["checks"]
            ]
            console.print(table("Doctor", ["", "what", "found", "what to do"], rows))

        wrong = [check["name"] for check in result["checks"] if check["state"] == "wrong"]
        return Answer(result, show, f"not in order: {', '.join(wrong)}" if wrong else None, exit_code=1 if wrong else 0)
