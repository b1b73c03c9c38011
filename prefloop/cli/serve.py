"""`prefloop serve`: the web app."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prefloop.cli.answer import Answer
from prefloop.cli.streams import log
from prefloop.cli.verb import WorkspaceOption, verb


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(app, "serve", "prefloop serve", "prefloop serve --host 0.0.0.0 --https --allow-host feedback.example.org")
    def serve(
        host: Annotated[str, typer.Option("--host", help="The address to listen at; this machine only by default.")] = (
            "127.0.0.1"
        ),
        port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any free one.")] = 8700,
        allow_host: Annotated[
            list[str] | None,
            typer.Option(
                "--allow-host",
                metavar="NAME",
                help="A further name under which people reach the app; may be given often.",
                show_default=False,
            ),
        ] = None,
        https: Annotated[
            bool, typer.Option("--https", help="People reach the app through TLS: cookies are sent over nothing else.")
        ] = False,
        workspace: WorkspaceOption = None,
    ) -> Answer:
        """Serve the web app: pages for annotators and leads, and the API for machines.

        The first start prints a link that makes the first admin. Nobody can register uninvited, and there is no
        default password.
        """
        import prefloop

        known: dict[str, Any] = {}
        prefloop.serve(
            host,
            port,
            allow_hosts=tuple(name.lower() for name in allow_host or ()),
            https=https,
            workspace=workspace,
            log=log,
            started=known.update,
        )
        return Answer(known, lambda console: None)
