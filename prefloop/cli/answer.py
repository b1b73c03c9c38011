"""What a verb gives back: one value for machines (`--json`), and the same in words for people."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from prefloop.cli.streams import printable


@dataclass(frozen=True)
class Answer:
    """`value` is the JSON object that `--json` prints; `show` prints the same for a person."""

    value: Mapping[str, Any]
    show: Callable[[Console], None]
    error: str | None = None
    """Set when there is a result to print and yet something is wrong, as for an import without one good row."""
    exit_code: int = 0


def to_json(value: Mapping[str, Any]) -> str:
    """One line of JSON. What JSON has no word for (NaN, infinity) becomes null; paths become strings."""
    return json.dumps(plain(value), allow_nan=False)


def plain(value: Any) -> Any:
    """`value` in JSON's own types."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):  # a number from numpy or torch
        return plain(value.item())
    return str(value)


def table(title: str, columns: list[str], rows: list[list[Any]]) -> Table:
    """A plain table; cells are shown as they are, without rich's markup."""
    made = Table(title=title, title_justify="left", show_edge=False, box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    return made


def facts(value: Mapping[str, Any]) -> Table:
    """Two columns, name and value, for the results that are a handful of figures."""
    made = Table.grid(padding=(0, 3, 0, 0))
    for key, inner in value.items():
        made.add_row(str(key), _cell(inner))
    return made


def _cell(value: Any) -> str:
    from rich.markup import escape

    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "-"
    if value is None:
        return "-"
    if isinstance(value, Mapping) and {"value", "low", "high", "n"} <= value.keys():
        return f"{_cell(value['value'])} ({_cell(value['low'])} to {_cell(value['high'])}, n {_cell(value['n'])})"
    if isinstance(value, Mapping):
        return "  ".join(f"{escape(str(key))} {_cell(inner)}" for key, inner in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(inner) for inner in value) or "-"
    return escape(printable(str(value)))
