"""Model-written code is hostile: everything here ends as a failure, within the limits, and harms nobody else."""

from __future__ import annotations

import time

import pytest

from prefloop.rewards import sandbox
from prefloop.rewards.sandbox import Outcome, Snippet, java_harness, run_java, run_python

CASES = ((2, 3), (40, 2))
GOOD = "def add(a, b):\n    return a + b"
HOSTILE = {
    "endless loop": "def f(a, b):\n    while True: pass",
    "endless loop while loading": "while True: pass",
    "sleep": "import time\ntime.sleep(1000)",
    "memory bomb": "x = [1]\nwhile True: x = x + x",
    "big number": "def f(a, b):\n    return 9 ** 9 ** 9",
    "fork bomb": "import os\nwhile True: os.fork()",
    "fork once": "def f(a, b):\n    import os\n    os.fork()\n    return a + b",
    "sys.exit": "import sys\nsys.exit(0)",
    "os._exit": "import os\nos._exit(0)",
    "exit in the function": "def f(a, b):\n    raise SystemExit(0)",
    "megabytes of output": "while True: print('x' * 1000)",
    "megabytes of result": "def f(a, b):\n    return 'x' * 10_000_000",
    "deep recursion": "def f(a, b):\n    return f(a, b)",
    "deep nesting": "x = " + "(" * 3000 + "1" + ")" * 3000,
    "reads a file": "def f(a, b):\n    open('/etc/passwd').read()\n    return a + b",
    "writes a file": "def f(a, b):\n    open('/tmp/prefloop-was-here', 'w').write('x')\n    return a + b",
    "lists a folder": "def f(a, b):\n    import os\n    os.listdir('/')\n    return a + b",
    "network": "def f(a, b):\n    import socket\n    socket.create_connection(('127.0.0.1', 1))\n    return a + b",
    "subprocess": "def f(a, b):\n    import subprocess\n    subprocess.run(['true'])\n    return a + b",
    "os.system": "def f(a, b):\n    import os\n    os.system('true')\n    return a + b",
    "kills its parent": "import os\nos.kill(os.getppid(), 9)",
    "native code": "import ctypes\nctypes.string_at(0)\ndef f(a, b): return a + b",
    "disarms the hook": "import __main__\n__main__.refuse.__defaults__ = ()\nopen('/etc/passwd')",
    "does not parse": "def f(:",
    "NUL": "def f(a, b):\n    return '\x00",
}


@pytest.fixture(scope="module")
def hostile() -> tuple[dict[str, Outcome], Outcome, float]:
    """All of it in one batch, with a good snippet at the end; and the seconds that took."""
    started = time.monotonic()
    *outcomes, good = run_python([Snippet(source, CASES) for source in [*HOSTILE.values(), GOOD]])
    return dict(zip(HOSTILE, outcomes, strict=True)), good, time.monotonic() - started


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_python_fails(hostile: tuple[dict[str, Outcome], Outcome, float], name: str) -> None:
    outcome = hostile[0][name]
    assert outcome.results is None
    assert outcome.error


def test_a_hostile_batch_ends_in_time_and_spares_the_others(
    hostile: tuple[dict[str, Outcome], Outcome, float],
) -> None:
    _, good, seconds = hostile
    assert good == Outcome(results=(5, 42))
    # Three loops of 1 s and one sleep of 4 s, three at once: about 5 s on an idle machine.
    assert seconds < 30


def test_results_are_plain_values() -> None:
    liar = "class E(int):\n    def __eq__(self, other): return True\ndef f(a, b): return E(a)"
    forger = "def f(a, b):\n    return {'results': [5, 42]}"
    kinds = "def f(a, b):\n    return True if a == 2 else 1.5"
    assert [o.results for o in run_python([Snippet(s, CASES) for s in (liar, forger, kinds)])] == [
        (None, None),
        (None, None),
        (True, 1.5),
    ]


def test_the_first_function_with_the_right_arity_is_called() -> None:
    source = "def one(a): return 0\ndef two(a, b=1): return a * b\ndef three(a, b): return -1"
    assert run_python([Snippet(source, CASES)])[0].results == (6, 80)


def test_imports_of_plain_modules_work() -> None:
    source = (
        "import math\nfrom functools import reduce\ndef f(a, b): return reduce(lambda x, y: x + y, [math.floor(a), b])"
    )
    assert run_python([Snippet(source, CASES)])[0].results == (5, 42)


def test_a_program_without_a_function_says_what_it_printed() -> None:
    outcome = run_python([Snippet("a = int(input())\nb = int(input())\nprint(a + b)", CASES)])[0]
    assert outcome == Outcome(printed="12\n", operators=("Add",))  # standard input is 7 and 5


def test_one_snippet_after_another_shares_nothing() -> None:
    first = "import builtins, math\nbuiltins.pow = None\nmath.floor = None\ndef f(a, b): return 0"
    second = "import math\ndef f(a, b): return math.floor(a) + pow(3, 1)"
    assert [o.results for o in run_python([Snippet(first, CASES), Snippet(second, CASES)])] == [(0, 0), (5, 43)]


def test_a_batch_that_dies_is_repeated_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sandbox._python_batch

    def dying(jobs: list[Snippet]) -> dict[int, dict[str, object]]:
        done = whole(jobs)
        return {number: row for number, row in done.items() if number < 2}  # as if it had died at the third

    monkeypatch.setattr(sandbox, "_python_batch", dying)
    assert [o.results for o in run_python([Snippet(GOOD, CASES)] * 4)] == [(5, 42)] * 4


def test_nothing_to_run() -> None:
    assert run_python([]) == []


# --- Java --------------------------------------------------------------------------------------------------------

JAVA_GOOD = "static int add(int a, int b) { return a + b; }"
JAVA = {
    "bare method": (JAVA_GOOD, (5, 42)),
    "class with main": (
        (
            "public class Sum {\n  public static void main(String[] x) { System.out.println(add(1, 2)); }\n"
            "  public static int add(int a, int b) { return a + b; }\n}"
        ),
        (5, 42),
    ),
    "object method": ("class A { long add(long a, long b) { return a + b; } }", (5, 42)),
    "lambda": (
        "static int f(int a, int b) { return java.util.stream.IntStream.of(a, b).map(x -> x).sum(); }",
        (5, 42),
    ),
    "first in the source": (
        "class A { static int zz(int a, int b) { return 1; }\n static int aa(int a, int b) { return 2; } }",
        (1, 1),
    ),
}
JAVA_HOSTILE = {
    "endless loop": "static int f(int a, int b) { while (true) { } }",
    "System.exit": "static int f(int a, int b) { System.exit(0); return a + b; }",
    "Runtime": "static int f(int a, int b) { Runtime.getRuntime().halt(0); return a + b; }",
    "process": 'static int f(int a, int b) throws Exception { new ProcessBuilder("true").start(); return a + b; }',
    "thread": "static int f(int a, int b) { new Thread(() -> { }).start(); return a + b; }",
    "deletes a file": 'static int f(int a, int b) { new java.io.File("/tmp/x").delete(); return a + b; }',
    "reads a file": "static int f(int a, int b) throws Exception { java.nio.file.Files.list(null); return a + b; }",
    "network": 'static int f(int a, int b) throws Exception { new java.net.Socket("127.0.0.1", 1); return a + b; }',
    "reflection": 'static int f(int a, int b) throws Exception { Class.forName("java.lang.Runtime"); return a + b; }',
    "unicode escape": "static int f(int a, int b) { \\u0053ystem.exit(0); return a + b; }",
    "memory bomb": (
        "static int f(int a, int b) { int[][] x = new int[100000][]; for (int i = 0; ; i++) x[i] = new int[10000000]; }"
    ),
    "deep recursion": "static int f(int a, int b) { return f(a, b) + 1; }",
    "megabytes of output": 'static int f(int a, int b) { for (;;) System.out.println("xxxxxxxxxxxxxxxxxxxxxxxx"); }',
    "does not compile": "static int f(int a, int b) { return a + }",
    "no such method": "static int f(String a) { return 1; }",
}
# A comment hides System.exit from the reader, so this one really ends the machine.
JAVA_DEADLY = "static int f(int a, int b) { System/* */.exit(0); return a + b; }"


@pytest.fixture(scope="module")
def java() -> dict[str, Outcome]:
    if java_harness() is None:
        pytest.skip("no JDK (java and javac, 11 or newer) on the PATH or in JAVA_HOME")
    sources = {name: source for name, (source, _) in JAVA.items()} | JAVA_HOSTILE
    half = len(sources) // 2
    listed = [*list(sources.values())[:half], JAVA_DEADLY, *list(sources.values())[half:]]
    outcomes = run_java([Snippet(source, CASES) for source in listed])
    assert outcomes is not None
    names = [*list(sources)[:half], "deadly", *list(sources)[half:]]
    return dict(zip(names, outcomes, strict=True))


@pytest.mark.parametrize("name", JAVA)
def test_java_runs(java: dict[str, Outcome], name: str) -> None:
    assert java[name].results == JAVA[name][1]


@pytest.mark.parametrize("name", [*JAVA_HOSTILE, "deadly"])
def test_hostile_java_fails(java: dict[str, Outcome], name: str) -> None:
    assert java[name].results is None
    assert java[name].error


def test_java_takes_lists_and_texts() -> None:
    if java_harness() is None:
        pytest.skip("no JDK (java and javac, 11 or newer) on the PATH or in JAVA_HOME")
    array = "static int f(int[] x) { int t = 0; for (int n : x) t += n; return t; }"
    lists = "import java.util.List;\nstatic int f(List<Integer> x) { return x.stream().mapToInt(n -> n).sum(); }"
    text = "static String f(String s) { return new StringBuilder(s).reverse().toString(); }"
    outcomes = run_java(
        [Snippet(array, (([1, 2],), ([],))), Snippet(lists, (([1, 2],), ([],))), Snippet(text, (("aé",), ("",)))]
    )
    assert outcomes is not None
    assert [o.results for o in outcomes] == [(3, 0), (3, 0), ("éa", "")]


def test_endless_loops_do_not_starve_the_rest() -> None:
    if java_harness() is None:
        pytest.skip("no JDK (java and javac, 11 or newer) on the PATH or in JAVA_HOME")
    loop = Snippet(JAVA_HOSTILE["endless loop"], CASES)
    outcomes = run_java([loop, loop, Snippet(JAVA_GOOD, CASES)])
    assert outcomes == [Outcome(error="timeout"), Outcome(error="timeout"), Outcome(results=(5, 42))]


def test_without_a_jdk_java_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(sandbox, "java_harness", sandbox.java_harness.__wrapped__)
    assert run_java([Snippet(JAVA_GOOD, CASES)]) is None
