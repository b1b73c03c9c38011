"""Finds tests that cannot fail, stubs that look finished, and unsafe calls. Prints each and exits 1 when there is one.

usage: python tools/honesty.py [TREE]

A line that is right as it stands says why in a comment on it or above it: `# honest: reason`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("prefloop", "tests", "tools", "benchmarks")
WIDEST_TOLERANCE = 0.05
"""A test that accepts more than this difference has to say why."""
CHECKING_CALL = re.compile(r"^(assert\w*|raises|warns|fail|check_\w+|verify_\w+)$")
UNSAFE_LOAD = re.compile(
    r"^((c?pickle|dill|joblib|cloudpickle|marshal|shelve)\.(load|loads|open)|yaml\.(load|unsafe_load))$"
)
UNFINISHED = re.compile(r"#\s*(TODO|FIXME|XXX|HACK)\b")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Finding = tuple[int, str]


def python_files(root: Path) -> list[Path]:
    """The project's own sources; environments and caches are not below these folders."""
    return sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py"))


def functions(tree: ast.AST) -> Iterator[Function]:
    yield from (node for node in ast.walk(tree) if isinstance(node, Function))


def called(node: ast.AST) -> set[str]:
    """The last part of every name that is called: `pytest.raises(...)` gives `raises`."""
    return {ast.unparse(call.func).rsplit(".", 1)[-1] for call in ast.walk(node) if isinstance(call, ast.Call)}


def can_fail(function: Function) -> bool:
    """True when an assertion in it depends on something, or it calls something that asserts."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            if any(isinstance(part, ast.Name | ast.Call | ast.Attribute) for part in ast.walk(node.test)):
                return True
        elif isinstance(node, ast.Raise) and node.exc is not None and "AssertionError" in ast.unparse(node.exc):
            return True
    return any(CHECKING_CALL.match(name) for name in called(function))


def is_stub(function: Function) -> bool:
    """True when there is nothing in it but `pass`, `...` or NotImplementedError."""
    body = [
        line
        for line in function.body
        if not (
            isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)
        )
    ]
    if len(body) != 1:
        return False
    (line,) = body
    if isinstance(line, ast.Raise):
        return line.exc is not None and "NotImplementedError" in ast.unparse(line.exc)
    return isinstance(line, ast.Pass) or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))


def interfaces(tree: ast.AST) -> set[int]:
    """Functions that are rightly empty: members of protocols and abstract classes."""
    return {
        id(function)
        for cls in ast.walk(tree)
        if isinstance(cls, ast.ClassDef) and any(re.search("Protocol|ABC", ast.unparse(base)) for base in cls.bases)
        for function in functions(cls)
    }


def test_findings(tree: ast.AST, helpers: set[str]) -> Iterator[Finding]:
    for function in functions(tree):
        if function.name.startswith("test_") and not can_fail(function) and not called(function) & helpers:
            yield function.lineno, f"{function.name} asserts nothing"
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in {"rtol", "atol", "rel", "abs"}:
            value = node.value.value if isinstance(node.value, ast.Constant) else None
            if isinstance(value, int | float) and value > WIDEST_TOLERANCE:
                yield node.value.lineno, f"a tolerance of {value} without a reason"
        elif isinstance(node, ast.Call) and re.search(r"mark\.(skip|xfail)$", ast.unparse(node.func)):
            if "reason" not in {word.arg for word in node.keywords}:
                yield node.lineno, "skipped without a reason"


def source_findings(tree: ast.AST) -> Iterator[Finding]:
    empty = interfaces(tree)
    for function in functions(tree):
        decorators = " ".join(ast.unparse(decorator) for decorator in function.decorator_list)
        if is_stub(function) and id(function) not in empty and not re.search("overload|abstract", decorators):
            yield function.lineno, f"{function.name} is a stub"


def call_findings(tree: ast.AST) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and all(isinstance(line, ast.Pass | ast.Continue) for line in node.body):
            if node.type is None or re.search(r"\b(Base)?Exception\b", ast.unparse(node.type)):
                yield node.lineno, "swallows every exception"
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name == "torch.load" or UNSAFE_LOAD.match(name):
                yield node.lineno, f"{name} runs what it reads"
            if words.get("trust_remote_code") == "True":
                yield node.lineno, "runs code from a model's folder"
            if words.get("shell") == "True" or name == "os.system":
                yield node.lineno, "goes through a shell"


def findings(path: Path, text: str, helpers: set[str]) -> Iterator[Finding]:
    tree = ast.parse(text, str(path))
    yield from call_findings(tree)
    yield from test_findings(tree, helpers) if "tests" in path.parts else source_findings(tree)
    yield from ((n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if UNFINISHED.search(line))


def look(root: Path) -> list[str]:
    """One line per finding in the tree at `root`: path, line number, what it is."""
    texts = {path: path.read_text(encoding="utf-8") for path in python_files(root)}
    helpers = {
        function.name
        for path, text in texts.items()
        if "tests" in path.relative_to(root).parts
        for function in functions(ast.parse(text))
        if not function.name.startswith("test_") and can_fail(function)
    }
    found = []
    for path, text in texts.items():
        lines = text.splitlines()
        for number, what in findings(path.relative_to(root), text, helpers):
            if "# honest:" not in " ".join(lines[max(0, number - 2) : number]):
                found.append(f"{path.relative_to(root)}:{number}: {what}")
    return sorted(found)


def main(arguments: list[str]) -> int:
    root = Path(arguments[0] if arguments else ".").resolve()
    found = look(root)
    print("\n".join([*found, f"{len(found)} findings in {len(python_files(root))} files"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
