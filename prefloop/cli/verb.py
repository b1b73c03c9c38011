"""What every verb has: `--json`, `--debug`, one answer on standard output, and an example in its help."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console

from prefloop.cli.answer import Answer, to_json
from prefloop.cli.streams import log, only_the_answer
from prefloop.errors import RunError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else there.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error came from (the traceback).")]

WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        metavar="DIR",
        help="The workspace. Without it: the nearest one at or above the current folder.",
        show_default=False,
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same result.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
DtypeOption = Annotated[str, typer.Option("--dtype", help="auto, bfloat16 or float32.")]


def verb(app: typer.Typer, name: str, *examples: str) -> Callable[[Callable[..., Answer]], Callable[..., None]]:
    """Make a function that returns an `Answer` a verb of the command line.

    The verb gains `--json` and `--debug`. While the function works, whatever is printed reaches standard error.
    """

    def register(function: Callable[..., Answer]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(*, as_json: bool, debug: bool, **arguments: Any) -> None:
            del debug  # read by prefloop.cli.app, which handles what goes wrong
            with only_the_answer() as out:
                answer = _answer(function, arguments)
                _print(answer, as_json, out)
            if answer.exit_code:
                raise typer.Exit(answer.exit_code)

        _add_options(command, function)
        app.command(name, help=_folded(function.__doc__ or ""), epilog=_epilog(examples))(command)
        return command

    return register


def _answer(function: Callable[..., Answer], arguments: dict[str, Any]) -> Answer:
    try:
        return function(**arguments)
    except EOFError as error:  # Typer would take it for the end of a conversation
        raise RunError(f"a file ends before it should: {error}") from error


def _print(answer: Answer, as_json: bool, out: TextIO) -> None:
    if as_json:
        wrong = {"error": answer.error, "exit_code": answer.exit_code} if answer.error else {}
        print(to_json({**answer.value, **wrong}), file=out)
    else:
        answer.show(Console(file=out, highlight=False, soft_wrap=True))
    if answer.error:
        log(f"prefloop: error: {answer.error}")


def _add_options(command: Callable[..., None], function: Callable[..., Answer]) -> None:
    """Typer reads a command's options from its signature."""
    own = inspect.signature(function, eval_str=True)
    shared = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for key, annotation in (("as_json", Json), ("debug", Debug))
    ]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own.parameters.values()]
    command.__signature__ = inspect.Signature([*parameters, *shared])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in [*parameters, *shared]}


def _epilog(examples: tuple[str, ...]) -> str:
    return "\n\n".join(["Example:" if len(examples) == 1 else "Examples:", *examples])


def _folded(docstring: str) -> str:
    """A docstring with each paragraph on one line, for the terminal to break where it ends."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(docstring).split("\n\n"))
