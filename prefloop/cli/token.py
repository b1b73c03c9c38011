"""`prefloop token`: ways in for programs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from prefloop.cli.answer import Answer, facts, table
from prefloop.cli.verb import WorkspaceOption, verb
from prefloop.errors import InputError
from prefloop.settings import check_choice

ACTIONS = ("create", "list", "revoke")


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(
        app,
        "token",
        "prefloop token create --name judge --role annotator --json",
        "prefloop token list",
        "prefloop token revoke --id 8c1d0e5b7a924f36",
    )
    def token(
        action: Annotated[str, typer.Argument(metavar="ACTION", help="create, list or revoke.")],
        name: Annotated[
            str | None,
            typer.Option(
                "--name", help="For create: whom the token acts as; somebody new is added.", show_default=False
            ),
        ] = None,
        role: Annotated[
            str | None,
            typer.Option(
                "--role", help="For create: admin, lead, adjudicator, annotator or viewer.", show_default=False
            ),
        ] = None,
        days: Annotated[
            float | None,
            typer.Option("--days", help="For create: how long it holds; otherwise until revoked.", show_default=False),
        ] = None,
        id: Annotated[
            str | None, typer.Option("--id", help="For revoke: the id that list shows.", show_default=False)
        ] = None,
        workspace: WorkspaceOption = None,
    ) -> Answer:
        """Make, list and end tokens for the HTTP API.

        A token carries one role. It is shown once, when it is made; the store keeps its hash. A name that begins with
        simulated: or ai: is a machine's, and its answers are marked as such.
        """
        check_choice("token", action, ACTIONS)
        if action == "list" and any(given is not None for given in (name, role, days, id)):
            raise InputError("token list shows every token; --name, --role and --days go with create, --id with revoke")
        if action == "create":
            if name is None or role is None:
                raise InputError("token create needs --name and --role, for example: --name judge --role annotator")
            return _created(name, role, days, workspace)
        if action == "revoke":
            if id is None:
                raise InputError("token revoke needs --id; prefloop token list shows the ids")
            return _revoked(id, workspace)
        return _listed(workspace)


def _created(name: str, role: str, days: float | None, workspace: WorkspaceOption) -> Answer:
    import prefloop

    made = prefloop.create_token(name, role, days=days, workspace=workspace)

    def show(console: Console) -> None:
        console.print(facts(made))
        console.print("\nThe token is not shown again: keep it now.")

    return Answer(made, show)


def _revoked(id: str, workspace: WorkspaceOption) -> Answer:
    import prefloop

    done = prefloop.revoke_token(id, workspace=workspace)
    return Answer(done, lambda console: console.print(f"Token {id} is revoked.", markup=False))


def _listed(workspace: WorkspaceOption) -> Answer:
    import prefloop

    found = prefloop.list_tokens(workspace=workspace)
    columns = ["id", "name", "role", "created_at", "expires_at", "revoked_at"]
    rows = [[token[column] for column in columns] for token in found]
    return Answer({"tokens": found}, lambda console: console.print(table("Tokens", columns, rows)))
