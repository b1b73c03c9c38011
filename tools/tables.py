"""Writes the tables of docs/ that repeat what the code says: settings of a dataclass, options of a verb.

usage: python tools/tables.py [--check]

Between `<!-- settings: module.Class -->`, `<!-- defaults: method -->` or `<!-- options: verb -->` and `<!-- end -->`
stands a table that this program makes; `--check` only names the pages that are behind the code, and exits 1 then.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"
BLOCK = re.compile(r"(<!-- (settings|options|defaults): (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def settings_table(path: str) -> str:
    """One row per field of a dataclass: its default, and the sentence that stands below it in the source."""
    module, _, name = path.rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    words = dict(meanings(cls))
    rows = [(f"`{field.name}`", default_of(field), words.get(field.name, "")) for field in dataclasses.fields(cls)]
    return table(("setting", "default", "meaning"), rows)


def meanings(cls: type[Any]) -> Iterator[tuple[str, str]]:
    """Field -> the string below it."""
    (body,) = (
        node for node in ast.parse(textwrap.dedent(inspect.getsource(cls))).body if isinstance(node, ast.ClassDef)
    )
    for line, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(below, ast.Expr):
            if isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
                yield line.target.id, " ".join(below.value.value.split())


def default_of(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    if dataclasses.is_dataclass(value):
        return "see below"
    return "none" if value is None else f"`{shown(value)}`"


def shown(value: Any) -> str:
    """A value as YAML would have it."""
    return json.dumps(value) if isinstance(value, bool | list | dict) else str(value)


def defaults_table(method: str) -> str:
    """What a method chooses otherwise than RunSettings does."""
    from prefloop.algorithms import METHODS

    rows = [(f"`{name}`", f"`{shown(value)}`") for name, value in METHODS[method].defaults.items()]
    return table(("setting", f"default of {method}"), rows)


def options_table(verb: str) -> str:
    """One row per argument and option of a verb."""
    from typer.main import get_command

    from prefloop.cli.app import app

    command = get_command(app).commands[verb]  # type: ignore[attr-defined]
    rows = []
    for parameter in command.params:
        if parameter.name in ("help", "as_json", "debug"):  # every verb has them
            continue
        option = parameter.param_type_name == "option"
        flag = option and getattr(parameter, "is_flag", False)
        shown = ", ".join(parameter.opts) if option else (parameter.metavar or parameter.name.upper())
        value = "" if flag or not option else f" {parameter.metavar or parameter.name.upper()}"
        none = parameter.default is None or parameter.default is False or callable(parameter.default)
        default = "required" if parameter.required else "" if none else f"`{parameter.default}`"
        rows.append((f"`{shown}{value}`", default, parameter.help or ""))
    return table(("option", "default", "meaning"), rows)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    cells = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {line} |" for line in cells)]
    return "\n".join(lines) + "\n"


def renewed(text: str) -> str:
    """A page with every table made anew."""
    make = {"settings": settings_table, "options": options_table, "defaults": defaults_table}
    return BLOCK.sub(lambda found: found[1] + make[found[2]](found[3]) + found[5], text)


def main(arguments: list[str]) -> int:
    behind = []
    for page in sorted(DOCS.glob("**/*.md")):
        text = page.read_text(encoding="utf-8")
        new = renewed(text)
        if new != text:
            behind.append(page)
            if "--check" not in arguments:
                page.write_text(new, encoding="utf-8")
    for page in behind:
        print(f"{page.name} {'is behind the code' if '--check' in arguments else 'written'}")
    return 1 if behind and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
