"""Runs inside the sandbox's own processes, never imported by the program: see `prefloop.rewards.sandbox`.

    python -I -S harness.py isolate COMMAND...      takes the network away, then becomes the command
    python -I -S harness.py python                  jobs as JSON on stdin, one JSON line per result on stdout
    python -I -S harness.py limit SECONDS COMMAND...   limits, an ordinary user, then the command (the Java machine)

`isolate` is a stage of its own because it needs ctypes, which no snippet may find in its process. Standard
library only, and as little of it as possible.
"""

import ast
import io
import json
import os
import resource
import select
import signal
import sys
import time

CPU_SECONDS = 1
WALL_SECONDS = 4.0
MEMORY_BYTES = 256 * 1024 * 1024
OUTPUT_BYTES = 64 * 1024
RESULT_BYTES = 64 * 1024
AT_ONCE = 3
NOBODY = 65534
CLONE_NEWUSER, CLONE_NEWNET, PR_SET_NO_NEW_PRIVS = 0x10000000, 0x40000000, 38  # <linux/sched.h>, <linux/prctl.h>

# Snippets can use what is imported before the file system is taken away.
PRELOADED = (
    "bisect", "collections", "copy", "dataclasses", "decimal", "enum", "fractions", "functools", "itertools", "math",
    "operator", "random", "re", "typing",
)  # fmt: skip

# The audit events that plain computing raises. Everything else (open, socket, subprocess, os.*, ...) is refused.
HARMLESS = {
    "compile", "exec", "import", "marshal.loads", "object.__getattr__", "sys._getframe", "builtins.id",
    "builtins.input", "builtins.input/result", "sys.excepthook", "sys.unraisablehook", "time.sleep", "array.__new__",
}  # fmt: skip
REFUSED_MODULES = {"ctypes", "_ctypes", "_posixsubprocess", "_socket", "_posixshmem", "mmap", "_testcapi"}


def isolate() -> None:
    """An empty network namespace where the kernel allows one, and no new privileges by setuid programs."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        libc.unshare(CLONE_NEWUSER | CLONE_NEWNET)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def limit(cpu_seconds: int, *, root: str | None) -> None:
    """Limits of resources; for the superuser also an empty root directory when given, and an ordinary user's rights."""
    for name, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CPU, cpu_seconds),
    ):
        resource.setrlimit(name, (value, value))
    if os.geteuid() == 0:
        if root is not None:
            os.chroot(root)
            os.chdir("/")
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


class Bounded(io.StringIO):
    """Standard output of a snippet: printing more than OUTPUT_BYTES is an error."""

    def write(self, text: str) -> int:
        if self.tell() + len(text) > OUTPUT_BYTES:
            raise MemoryError("too much output")
        return super().write(text)


def refuse(
    event: str,
    args: tuple[object, ...],
    harmless: frozenset[str] = frozenset(HARMLESS),
    modules: frozenset[str] = frozenset(REFUSED_MODULES),
) -> None:
    """The audit hook. Its lists are bound here as constants, so that no snippet can add to them by name."""
    if event not in harmless or (event == "import" and args[0] in modules):
        raise PermissionError(f"not allowed here: {event}")


def find_function(namespace: dict[str, object], arity: int) -> object | None:
    """The first function of the snippet that can be called with `arity` positional arguments."""
    for value in namespace.values():
        code = getattr(value, "__code__", None)
        if code is not None and code.co_filename == "<snippet>":
            required = code.co_argcount - len(getattr(value, "__defaults__", None) or ())
            if required <= arity <= code.co_argcount and getattr(code, "co_kwonlyargcount", 0) == 0:
                return value
    return None


def plain(value: object) -> object:
    """What may go back: exact bool, int, float and str, and nothing whose `==` the snippet could have written."""
    if type(value) in (bool, str):
        return value
    if isinstance(value, (int, float)) and type(value) in (int, float):
        return value if abs(value) < 1e15 else None
    return None


def operators_of(tree: ast.AST) -> list[str]:
    """Binary operators between two different operands, for programs that only print: `a + b` but not `a + a`."""
    return [
        type(node.op).__name__
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp) and ast.dump(node.left) != ast.dump(node.right)
    ]


def run_snippet(job: dict[str, object]) -> dict[str, object]:
    """Execute the source, call its function with each case. Keys: error | results | printed, operators."""
    source, cases = str(job["source"]), job["cases"]
    if not isinstance(cases, list):
        raise TypeError("cases must be a list of argument lists")
    namespace: dict[str, object] = {"__name__": "snippet"}
    output = Bounded()
    sys.stdout = sys.stderr = output
    sys.stdin = io.StringIO("7\n5\n")
    try:
        tree = ast.parse(source)
        exec(compile(tree, "<snippet>", "exec"), namespace)  # noqa: S102 -- what this process is for
        function = find_function(namespace, len(cases[0]))
        if function is None:
            return {"printed": output.getvalue()[-200:], "operators": operators_of(tree)}
        return {"results": [plain(function(*case)) for case in cases]}  # type: ignore[operator]
    except BaseException as error:  # hostile code may raise anything, SystemExit included
        return {"error": type(error).__name__}


def child(job: dict[str, object], pipe: int) -> None:
    """In the forked process: no files, no processes, then the snippet."""
    null = os.open("/dev/null", os.O_RDWR) if os.path.exists("/dev/null") else -1
    for fd in (0, 1, 2):
        if null >= 0:
            os.dup2(null, fd)
        else:
            os.close(fd)
    os.closerange(3, pipe)
    os.closerange(pipe + 1, 256)
    for name, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, pipe + 1),
    ):
        resource.setrlimit(name, (value, value))
    sys.setrecursionlimit(500)
    sys.addaudithook(refuse)
    text = json.dumps(run_snippet(job))[:RESULT_BYTES].encode()
    while text:
        text = text[os.write(pipe, text) :]


def run_python(jobs: list[dict[str, object]]) -> None:
    """Fork once per snippet, a few at a time; kill what outlives WALL_SECONDS."""
    waiting = list(enumerate(jobs))[::-1]
    running: dict[int, tuple[int, int, float, bytearray]] = {}  # read end -> (job, pid, deadline, text)
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            number, job = waiting.pop()
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    child(job, write)
                finally:
                    os._exit(0)
            os.close(write)
            running[read] = (number, pid, time.monotonic() + WALL_SECONDS, bytearray())
        ready, _, _ = select.select(list(running), [], [], 0.05)
        now = time.monotonic()
        for read in list(running):
            number, pid, deadline, text = running[read]
            if read in ready:
                piece = os.read(read, 65536)
                text += piece
                if piece and len(text) <= RESULT_BYTES:
                    continue
            elif now < deadline:
                continue
            # The end of the pipe, too much text, or too late: in every case the process has to be gone.
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(read)
            del running[read]
            outcome = decode(bytes(text), late=now >= deadline)
            sys.stdout.write(json.dumps({"job": number, "outcome": outcome}) + "\n")
            sys.stdout.flush()


def decode(text: bytes, *, late: bool) -> dict[str, object]:
    """What a child sent, or why it sent nothing."""
    try:
        outcome = json.loads(text)
    except ValueError:
        outcome = None
    if isinstance(outcome, dict):
        return outcome
    return {"error": "timeout" if late else "died"}


def main() -> None:
    """The three stages of the module's docstring."""
    stage = sys.argv[1]
    if stage == "isolate":
        isolate()
        os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 -- replaces this process, no shell
    elif stage == "limit":
        limit(int(sys.argv[2]), root=None)
        os.execv(sys.argv[3], sys.argv[3:])  # noqa: S606
    else:
        jobs = json.load(sys.stdin)
        for name in PRELOADED:
            __import__(name)
        limit(CPU_SECONDS * len(jobs) + 10, root=os.getcwd())
        run_python(jobs)


if __name__ == "__main__":
    main()
