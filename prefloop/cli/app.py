"""The program: its verbs, and what a user sees when something goes wrong.

Exit code 0 is success, 1 a failure, 2 wrong input or usage, 130 an interruption. With `--json` an error is
one object too: `{"error": message, "exit_code": code}`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from prefloop.cli import (
    audit_log,
    backup,
    bench,
    chat,
    compare,
    demo,
    doctor,
    erase,
    evaluate,
    export,
    import_,
    init,
    label,
    lineage,
    loop,
    quality,
    report,
    restore,
    runs,
    sample,
    serve,
    snapshot,
    token,
    train,
)
from prefloop.cli.answer import to_json
from prefloop.cli.streams import log
from prefloop.errors import PrefloopError
from prefloop.version import __version__

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""The base of what Typer raises for a wrong command line; Typer exports no name for it."""

INTERRUPTED = 130
"""What a shell gives a process that Ctrl-C ended, and what Typer returns for it."""

VERBS = (
    init, demo, import_, export, sample, label, serve, quality, snapshot, train, evaluate, compare, report, lineage,
    chat, runs, doctor, bench, loop, token, audit_log, erase, backup, restore,
)  # fmt: skip

app = typer.Typer(
    name="prefloop",
    help="RLHF as one closed loop: people's answers, data, reward, policy, evaluation, and round again.",
    epilog="Start with:  prefloop demo     Each verb has its own help:  prefloop train --help",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@app.callback(invoke_without_command=True)
def prefloop(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """RLHF as one closed loop: people's answers, data, reward, policy, evaluation, and round again."""
    if version:
        typer.echo(f"prefloop {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


for module in VERBS:
    module.register(app)


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command line and leave with its exit code. `arguments` defaults to the process's own."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill ends as Ctrl-C does
    try:
        code = app(given, prog_name="prefloop", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        leave_quietly()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        message, code = explain(error)
        fail(given, message, code, error)
    if code == INTERRUPTED:
        fail(given, f"stopped before the end. {how_to_go_on(given)}", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def explain(error: Exception) -> tuple[str, int]:
    """What to tell the user, and the exit code."""
    if isinstance(error, PrefloopError):
        return str(error), error.exit_code
    if isinstance(error, USAGE_ERROR):
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "prefloop"
        return f"{error.format_message()} See: {path} --help", 2  # type: ignore[attr-defined]
    if isinstance(error, OSError):
        return explain_os_error(error), 1
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory; a smaller batch, a shorter max_length, or --dtype bfloat16 needs less", 1
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("prefloop"):
        return f"the package {error.name!r} is not installed; prefloop doctor shows how to install what is missing", 1
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0] if first else 'no message'} (run it again with --debug to see where)", 1


def explain_os_error(error: OSError) -> str:
    """Which file, and what the system said; a full disk by its name."""
    what = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = "the disk is full"
    return f"{error.filename}: {what}" if error.filename else what


def how_to_go_on(given: Sequence[str]) -> str:
    """The command that continues what was interrupted."""
    if given[:1] == ["demo"] and "--dir" not in given:
        return "Go on in the folder that was named above, with:  prefloop demo --dir FOLDER"
    if given[:1] != ["train"]:
        return "What was finished is kept, nothing is half-written; run the same command again"
    again = [*given] if "--resume" in given else [*given, "--resume"]
    return f"Go on from the last checkpoint with:  {shlex.join(['prefloop', *again])}"


def fail(given: Sequence[str], message: str, code: int, error: Exception | None = None) -> NoReturn:
    """Say what went wrong on standard error (with `--json` also as an object on standard output), and leave."""
    if error is not None and "--debug" in given:
        traceback.print_exception(error)
    log(f"prefloop: {message}" if code == INTERRUPTED else f"prefloop: error: {message}")
    if "--json" in given:
        with contextlib.suppress(BrokenPipeError):
            print(to_json({"error": message, "exit_code": code}), flush=True)
    sys.exit(code)


def leave_quietly() -> NoReturn:
    """The reader of our output has gone (`prefloop runs | head -1`): nothing to say, and no one to say it to."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # so that Python's own flush at exit does not fail again
    os._exit(1)
