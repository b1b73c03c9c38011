"""The program as a user meets it: a process with two streams and an exit code."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

VERBS = (
    "init", "demo", "import", "export", "sample", "label", "snapshot", "train", "evaluate", "report", "lineage", "chat",
    "runs", "doctor", "loop",
)  # fmt: skip


def prefloop(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "prefloop", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=240,
        env={**os.environ, "COLUMNS": "200", **environment},
        check=False,
    )


def with_verb(body: str, *arguments: str, after: str = "") -> subprocess.CompletedProcess[str]:
    """Run the program with one more verb, `probe`, whose body is given."""
    script = f"""
import sys, subprocess, os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
from prefloop.cli import app as program
from prefloop.cli.answer import Answer
from prefloop.cli.verb import verb
from prefloop.errors import InputError, RunError

@verb(program.app, "probe", "prefloop probe")
def probe() -> Answer:
    "A verb for this test."
{textwrap.indent(textwrap.dedent(body), "    ")}

program.run(["probe", *{list(arguments)!r}])
"""
    return subprocess.run(
        ["sh", "-c", f'"$0" "$@" {after}', sys.executable, "-c", script] if after else [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_the_help_lists_every_verb_of_the_contract() -> None:
    shown = prefloop("--help")
    assert shown.returncode == 0
    assert shown.stderr == ""
    listed = {line.split()[1] for line in shown.stdout.splitlines() if line.startswith("│ ") and len(line.split()) > 2}
    assert set(VERBS) <= listed


def test_no_verb_at_all_shows_the_help() -> None:
    shown = prefloop()
    assert shown.returncode == 0
    assert "Usage: prefloop" in shown.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_json_and_debug(verb: str) -> None:
    from typer.testing import CliRunner

    from prefloop.cli.app import app

    shown = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200"}, prog_name="prefloop")
    assert shown.exit_code == 0
    assert "Example" in shown.stdout
    assert f"prefloop {verb}" in shown.stdout.split("Example")[1]
    assert "--json" in shown.stdout
    assert "--debug" in shown.stdout


def test_the_program_starts_fast_because_it_loads_no_torch() -> None:
    heavy = "{'torch', 'transformers', 'sqlalchemy', 'jinja2', 'numpy'}"
    script = f"import sys, prefloop.cli.app; print(sorted({heavy} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=True)
    assert shown.stdout.strip() == "[]"
    fastest = min(_seconds("--help") for _ in range(5))
    assert fastest < 0.7


def _seconds(*arguments: str) -> float:
    """Of the processor, which do not grow when something else runs beside."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert prefloop(*arguments).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def test_the_version() -> None:
    from prefloop.version import __version__

    assert prefloop("--version").stdout == f"prefloop {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train", "sft", "--polcy", "x"], "--policy"),
        (["sample"], "--policy"),
        (["sample", "--policy", "builtin", "--per-prompt", "0"], "--per-prompt"),
        (["loop"], "RUN.yaml"),
        (["demo", "--seed", "one"], "--seed"),
    ],
)
def test_wrong_usage_exits_2_with_one_message_that_names_what_is_right(arguments: list[str], words: str) -> None:
    ended = prefloop(*arguments)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1
    as_json = prefloop(*arguments, "--json")
    assert as_json.returncode == 2
    answer = json.loads(as_json.stdout)
    assert answer["exit_code"] == 2
    assert words in answer["error"]


def test_json_is_the_only_thing_on_standard_output_whoever_else_prints() -> None:
    ended = with_verb(
        """
        print("from python")
        sys.__stdout__.write("from the original stream\\n")
        os.write(1, b"from C\\n")
        subprocess.run(["echo", "from a subprocess"], check=True)
        return Answer({"n": 1, "share": float("nan"), "text": "naïve\\n\\ud800"}, lambda console: None)
        """,
        "--json",
    )
    assert ended.returncode == 0
    assert ended.stdout.count("\n") == 1
    assert json.loads(ended.stdout) == {"n": 1, "share": None, "text": "naïve\n\ud800"}
    for said in ("from python", "from the original stream", "from C", "from a subprocess"):
        assert said in ended.stderr


def test_without_json_the_words_for_people_are_on_standard_output() -> None:
    ended = with_verb("print('noise'); return Answer({}, lambda console: console.print('the result'))")
    assert (ended.stdout, ended.stderr) == ("the result\n", "noise\n")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        ("InputError('no such file: x; give one that is there')", 2, "no such file: x; give one that is there"),
        ("RunError('loss became nan at step 3')", 1, "loss became nan at step 3"),
        ("OSError(28, 'No space left on device', 'out.jsonl')", 1, "out.jsonl: the disk is full"),
        ("PermissionError(13, 'Permission denied', 'out.jsonl')", 1, "out.jsonl: Permission denied"),
        ("KeyError('x')", 1, "KeyError: 'x' (run it again with --debug to see where)"),
    ],
)
def test_an_error_is_one_message_and_an_exit_code_and_no_traceback(error: str, code: int, message: str) -> None:
    ended = with_verb(f"raise {error}", "--json")
    assert ended.returncode == code
    assert json.loads(ended.stdout) == {"error": message, "exit_code": code}
    assert ended.stderr == f"prefloop: error: {message}\n"


def test_debug_shows_the_traceback() -> None:
    ended = with_verb("raise InputError('wrong')", "--debug")
    assert ended.returncode == 2
    assert "Traceback" in ended.stderr
    assert ended.stderr.endswith("prefloop: error: wrong\n")


def test_a_result_may_carry_an_error_of_its_own() -> None:
    ended = with_verb("return Answer({'imported': 0}, lambda c: None, 'no good row', exit_code=2)", "--json")
    assert ended.returncode == 2
    assert json.loads(ended.stdout) == {"imported": 0, "error": "no good row", "exit_code": 2}


def test_a_reader_that_goes_away_is_no_error() -> None:
    ended = with_verb(
        "return Answer({}, lambda console: [console.print('x' * 80) for _ in range(5000)])", after="| head -n 1"
    )
    assert ended.stdout == "x" * 80 + "\n"
    assert ended.stderr == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_exits_130_and_says_how_to_go_on(number: signal.Signals) -> None:
    ended = with_verb(f"os.kill(os.getpid(), {number.value}); import time; time.sleep(30)")
    assert ended.returncode == 130
    assert ended.stderr == (
        "prefloop: stopped before the end. What was finished is kept, nothing is half-written; "
        "run the same command again\n"
    )


def test_an_interrupted_training_is_told_to_resume() -> None:
    from prefloop.cli.app import how_to_go_on

    assert how_to_go_on(["train", "sft", "my run.yaml"]).endswith("prefloop train sft 'my run.yaml' --resume")
    assert how_to_go_on(["demo", "--seed", "1"]).endswith("prefloop demo --dir FOLDER")
    assert how_to_go_on(["train", "sft", "--resume"]).endswith("prefloop train sft --resume")
