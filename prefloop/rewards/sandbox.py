"""Runs code that a model wrote. Treat it as hostile: it loops for ever, eats memory, forks, exits, prints, snoops.

Python: one process per batch (`harness.py`, isolated mode, empty environment, an empty directory), one fork each.

* Everywhere: 1 s of processor time, 4 s of wall time, 256 MiB of memory, no file can grow (FSIZE 0), no new file
  descriptors, no core file, 64 KiB of output and of result; an audit hook refuses to open files, sockets, processes,
  signals and native code.
* Where the kernel allows it: a network namespace of its own (root, or unprivileged user namespaces).
* When started by root: an empty root directory and the user `nobody`. RLIMIT_NPROC, set everywhere, then binds too.

An audit hook alone is no wall against code that corrupts the interpreter: as an ordinary user such code could read
what that user can read. Nothing that it computes is believed either way: it gets arguments and returns plain values,
and the expected values stay outside.

Java: one virtual machine per batch (`Harness.java`), each snippet compiled in memory and called in a thread: 2 s of
wall time, -Xmx256m, processor time and file size limited for the machine as a whole, network and user as above. A
class loader with a short list of allowed classes keeps files, threads, processes, reflection and network out. There
is no limit on address space (the machine reserves gigabytes that it never touches). A snippet that brings the machine
down is run again alone, and the others go on without it.

Needs a POSIX system (fork, rlimits).
"""

from __future__ import annotations

import base64
import functools
import json
import os
import shutil
import subprocess  # isolates what it starts; never a shell
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefloop.errors import RunError

Argument = int | str | list[int]
HERE = Path(__file__).parent
STAGE = (sys.executable, "-I", "-S", str(HERE / "harness.py"))
ISOLATED = (*STAGE, "isolate")
STOPPED = -2
JAVA_LIMITS = ("-Xmx256m", "-Xss1m", "-XX:MaxMetaspaceSize=128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
JAVA_QUIET = ("-XX:-UsePerfData", "-Xshare:auto", "-Dfile.encoding=UTF-8", "-Djava.awt.headless=true")


@dataclass(frozen=True)
class Snippet:
    """Source code, and the argument lists that its function is called with. All lists have the same length."""

    source: str
    cases: tuple[tuple[Argument, ...], ...]


@dataclass(frozen=True)
class Outcome:
    """What a snippet did."""

    results: tuple[object, ...] | None = None
    """One plain value (bool, int, float, str; None for anything else) per case, when there was a function to call."""
    printed: str | None = None
    """What a program without such a function printed (its end)."""
    operators: tuple[str, ...] = ()
    """Python programs without a function: names of `ast` operators between two different operands."""
    error: str = ""
    """Why there is no result: the exception's name, timeout, died, compile, none, refused."""


def run_python(snippets: Sequence[Snippet]) -> list[Outcome]:
    """The outcome of each snippet, in order. Raises RunError when the sandbox itself does not work on this machine."""
    if not snippets:
        return []
    jobs = [_PYTHON_PROBE, *snippets]
    lines = _python_batch(jobs)
    for number in range(1, len(jobs)):
        if number not in lines:  # a snippet that killed the harness: whichever it was, each gets its own process
            lines[number] = _python_batch([jobs[number]]).get(0, {"error": "died"})
    if lines.get(0, {}).get("results") != [5]:
        raise RunError(f"the Python sandbox does not work here: 2 + 3 gave {lines.get(0)}")
    return [_outcome(lines[number]) for number in range(1, len(jobs))]


def _python_batch(jobs: Sequence[Snippet]) -> dict[int, dict[str, object]]:
    given = json.dumps([{"source": job.source, "cases": job.cases} for job in jobs])
    command = [*ISOLATED, *STAGE, "python"]
    results: dict[int, dict[str, object]] = {}
    for line in _run(command, given.encode("utf-8", "backslashreplace"), seconds=20 + 5 * len(jobs)):
        row = json.loads(line)
        results[row["job"]] = row["outcome"]
    return results


def _outcome(line: dict[str, object]) -> Outcome:
    results, operators, printed = line.get("results"), line.get("operators"), line.get("printed")
    return Outcome(
        results=tuple(results) if isinstance(results, list) else None,
        printed=printed if isinstance(printed, str) else None,
        operators=tuple(map(str, operators)) if isinstance(operators, list) else (),
        error=str(line.get("error", "")),
    )


def run_java(snippets: Sequence[Snippet]) -> list[Outcome] | None:
    """The outcome of each snippet, in order, or None when there is no JDK (11 or newer) that works here."""
    home = java_harness()
    if home is None:
        return None
    outcomes: dict[int, Outcome] = {}
    waiting = list(range(len(snippets)))
    while waiting:
        done = _java_batch(home, [snippets[i] for i in waiting])
        if done is None:
            return None
        stopped = done.pop(STOPPED, None) is not None
        outcomes |= {waiting[k]: outcome for k, outcome in done.items()}
        waiting = [i for i in waiting if i not in outcomes]
        if waiting and not stopped:  # the machine died, most likely by the first one without a result
            suspect = waiting.pop(0)
            alone = _java_batch(home, [snippets[suspect]]) or {}
            outcomes[suspect] = alone.get(0, Outcome(error="died"))
    return [outcomes[i] for i in range(len(snippets))]


def _java_batch(home: JavaHarness, snippets: Sequence[Snippet]) -> dict[int, Outcome] | None:
    """Outcomes by place, without those that the machine did not live to report; None when not even the probe ran.

    An entry STOPPED says that the machine ended by itself, because endless loops held its processors.
    """
    jobs = [_JAVA_PROBE, *snippets]
    lines = "".join(
        "\t".join([str(i), _base64(job.source), *(" ".join(map(_encode, case)) for case in job.cases)]) + "\n"
        for i, job in enumerate(jobs)
    )
    seconds = 30 + 3 * len(jobs)
    java = [home.java, *JAVA_LIMITS, *JAVA_QUIET, "-cp", str(home.classes), "Harness"]
    command = [*ISOLATED, *STAGE, "limit", str(seconds), *java]
    results: dict[int, Outcome] = {}
    for line in _run(command, lines.encode("ascii"), seconds=seconds):
        number, *said = line.split("\t")
        results[STOPPED + 1 if number == "stopped" else int(number)] = _java_outcome(*said)
    if results.pop(0, Outcome()).results != (5,):
        return None
    return {number - 1: outcome for number, outcome in results.items()}


def _java_outcome(status: str = "", *values: str) -> Outcome:
    if status == "ok":
        return Outcome(results=tuple(_decode(value) for value in values))
    if status == "printed":
        return Outcome(printed=str(_decode(values[0]))[-200:])
    return Outcome(error=status)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "replace")).decode("ascii")


def _encode(argument: Argument) -> str:
    if isinstance(argument, int):
        return f"i{argument}"
    return f"s{_base64(argument)}" if isinstance(argument, str) else f"l{','.join(map(str, argument))}"


def _decode(value: str) -> object:
    kind, text = value[:1], value[1:]
    if kind == "i":
        return int(text)
    if kind == "f":
        return float(text)
    if kind == "b":
        return text == "true"
    return base64.b64decode(text).decode("utf-8", "replace") if kind == "s" else None


@dataclass(frozen=True)
class JavaHarness:
    """A Java machine, and the folder with our compiled harness."""

    java: str
    classes: Path
    folder: tempfile.TemporaryDirectory[str]
    """Keeps the folder alive as long as the program."""


@functools.cache
def java_harness() -> JavaHarness | None:
    """Finds `java` and `javac` in JAVA_HOME or on the PATH; compiles the harness once per process (about a second)."""
    path = os.pathsep.join([str(Path(os.environ.get("JAVA_HOME", "/nowhere")) / "bin"), os.environ.get("PATH", "")])
    java, javac = shutil.which("java", path=path), shutil.which("javac", path=path)
    if java is None or javac is None:
        return None
    folder = tempfile.TemporaryDirectory(prefix="prefloop-java-")
    classes = Path(folder.name)
    classes.chmod(0o755)  # the machine may run as another user
    command = [javac, "-d", str(classes), "-encoding", "UTF-8", "-proc:none", "-nowarn", str(HERE / "Harness.java")]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=120, env={}, cwd=classes)
    except (OSError, subprocess.SubprocessError):
        return None  # a JDK that cannot compile the harness (too old, broken) counts as none: checks say "structure"
    return JavaHarness(java=str(Path(java).resolve()), classes=classes, folder=folder)


def _run(command: list[str], given: bytes, *, seconds: float) -> list[str]:
    """The whole lines that `command` wrote until it ended or was stopped. Empty environment and directory."""
    with tempfile.TemporaryDirectory(prefix="prefloop-sandbox-") as folder:
        os.chmod(folder, 0o755)  # noqa: S103 -- empty, read-only for the user `nobody`
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd=folder,
            start_new_session=True,
        )
        try:
            written = process.communicate(given, timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            written = process.communicate()[0]
    return written.decode("ascii", "replace").split("\n")[:-1]  # a line without its end was cut off


_PYTHON_PROBE = Snippet("def add(a, b):\n    return a + b", ((2, 3),))
_JAVA_PROBE = Snippet("static int add(int a, int b) { return a + b; }", ((2, 3),))
