"""Rows and charts that several sections of a report are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from prefloop.audits import charts
from prefloop.audits.wording import Data, figure, measured, number


def share_row(name: str, value: Any, look: str, even: float | None = None) -> dict[str, Any] | None:
    """A share with its bar, which is marked at `even`; None where no share from 0 to 1 is stored."""
    shown = figure(value)
    if shown is None or not 0 <= shown.value <= 1:
        return None
    return {"name": name, "figure": shown, "look": look, "track": charts.track(shown, look, even=even)}


def points_of(rows: Iterable[Data], metric: str) -> list[charts.Point]:
    """(step, value) of the rows that have both."""
    known = ((measured(row.get("step")), measured(row.get(metric))) for row in rows)
    return [(step, value) for step, value in known if step is not None and value is not None]


def line_panels(
    key: str,
    title: str,
    about: str,
    lines: Sequence[charts.Line],
    *,
    from_zero: bool = False,
    breaks: Mapping[float, str],
) -> list[dict[str, Any]]:
    """The chart of the lines that have at least two points, with its first and last stored values in words; or none."""
    lines = [line for line in lines if sum(map(len, line.parts)) >= 2]
    if not lines:
        return []
    if len(lines) == 1:
        lines = [replace(lines[0], look="policy")]
    ends = "; ".join(
        f"{line.name + ': ' if len(lines) > 1 else ''}{number(line.parts[0][0][1])} at first, "
        f"{number(line.parts[-1][-1][1])} at last"
        for line in lines
    )
    chart = charts.line_chart(key, title, f"{about} {ends}.", lines, from_zero=from_zero, breaks=breaks)
    legend = [(line.name, line.look) for line in lines] if len(lines) > 1 else []
    return [{"title": title, "about": about, "ends": ends, "chart": chart, "legend": legend}]
