"""`prefloop chat`: talk to a policy."""

from __future__ import annotations

from typing import Annotated

import typer

from prefloop.cli.answer import Answer
from prefloop.cli.streams import say
from prefloop.cli.verb import DeviceOption, DtypeOption, SeedOption, WorkspaceOption, verb


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""

    @verb(app, "chat", "prefloop chat builtin", "echo 'What is 5 + 5?' | prefloop chat my-policy --json")
    def chat(
        policy: Annotated[
            str, typer.Argument(metavar="POLICY", help="builtin, a name, a hash, a Hugging Face folder or hub id.")
        ],
        temperature: Annotated[
            float, typer.Option("--temperature", min=0.0, help="0 takes the likeliest token.")
        ] = 0.7,
        top_k: Annotated[int, typer.Option("--top-k", min=0, help="Draw from so many tokens; 0 keeps every one.")] = 0,
        top_p: Annotated[float, typer.Option("--top-p", min=0.0, max=1.0, help="1 keeps every token.")] = 1.0,
        min_p: Annotated[
            float,
            typer.Option("--min-p", min=0.0, max=1.0, help="Share of the likeliest token's probability; 0: none."),
        ] = 0.0,
        stop: Annotated[
            list[str] | None,
            typer.Option(
                "--stop", metavar="TEXT", help="Ends an answer before it; may be given often.", show_default=False
            ),
        ] = None,
        max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest completion.")] = 256,
        seed: SeedOption = 0,
        device: DeviceOption = "auto",
        dtype: DtypeOption = "auto",
        workspace: WorkspaceOption = None,
    ) -> Answer:
        """Talk to a policy, one line at a time. An empty line or Ctrl-D ends it.

        The conversation appears on standard error, so that --json leaves it out of standard output.
        """
        import prefloop

        messages = prefloop.chat(
            policy,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            stop=stop or [],
            max_new_tokens=max_new_tokens,
            seed=seed,
            device=device,
            dtype=dtype,
            workspace=workspace,
            say=say,
        )
        return Answer({"messages": messages}, lambda console: None)
