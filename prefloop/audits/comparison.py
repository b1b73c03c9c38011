"""One self-contained page that puts training runs side by side: a table, and reward against KL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from prefloop.audits import charts
from prefloop.audits.report import environment, write_page
from prefloop.audits.wording import clean, duration, figure, number

MOST_METRICS = 8
"""Columns of metrics in the table; the others are in the JSON."""
FIRST = ("eval_loss", "eval_rewards/accuracies", "objective/scores", "objective/kl", "loss", "rewards/margins")
"""Metrics that come first where there are any."""


def write_comparison(result: Mapping[str, Any], out: Path) -> Path:
    """Write the page about what `prefloop.compare` returns to the file `out`, in one step, and return its path."""
    return write_page(render_comparison(result), out)


def render_comparison(result: Mapping[str, Any]) -> str:
    """The page as text."""
    d = clean(result)
    runs = d["runs"]
    names = _metric_names(runs)
    return (
        environment()
        .get_template("comparison.html")
        .render(
            title="Runs side by side",
            differ=[name for name in d["differ"] if name != "method"],
            metrics=names,
            measured=d.get("reward") is not None,
            reward=d.get("reward"),
            reference=d.get("reference"),
            chart=frontier(runs, d["differ"]),
            rows=[
                {
                    "run": run["run"],
                    "method": run["method"],
                    "settings": [_shown(run["settings"].get(name)) for name in d["differ"] if name != "method"],
                    "steps": number(run["steps"]),
                    "time": duration(run["seconds"]),
                    "reward": _interval(run.get("reward")),
                    "kl": _interval(run.get("kl")),
                    "length": _interval(run.get("length")),
                    "metrics": [number(run["metrics"].get(name)) for name in names],
                }
                for run in runs
            ],
        )
    )


def frontier(runs: Sequence[Mapping[str, Any]], differ: Sequence[str]) -> Markup | None:
    """Mean reward against KL with the intervals of both; None where no run has both."""
    spots = [
        charts.Spot(_name(run, differ), kl, reward)
        for run in runs
        if (kl := figure(run.get("kl"))) is not None and (reward := figure(run.get("reward"))) is not None
    ]
    if not spots:
        return None
    return charts.frontier_chart(
        "frontier",
        "Reward against KL",
        "Each dot is a policy: how far it went from the reference, and what it gained. Up and to the left is better. "
        + "; ".join(f"{s.name}: KL {number(s.x.value)}, reward {number(s.y.value)}" for s in spots),
        spots,
        joined=_one_number_apart(runs, differ),
        x_name="KL from the reference, nats per sequence (by its square root)",
        y_name="mean reward",
    )


def _one_number_apart(runs: Sequence[Mapping[str, Any]], differ: Sequence[str]) -> bool:
    """Whether all runs are of one method and differ in one number: a sweep."""
    return len(differ) == 1 and all(isinstance(run["settings"].get(differ[0]), int | float) for run in runs)


def _name(run: Mapping[str, Any], differ: Sequence[str]) -> str:
    if len(differ) == 1:
        return f"{differ[0]} {_shown(run['settings'].get(differ[0]))}" if differ[0] != "method" else str(run["method"])
    return str(run["run"])


def _metric_names(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Metrics that are numbers, those that several runs share first."""
    counts: dict[str, int] = {}
    for run in runs:
        for name, value in run["metrics"].items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                counts[name] = counts.get(name, 0) + 1
    first = {name: -i for i, name in enumerate(reversed(FIRST))}
    return sorted(counts, key=lambda name: (first.get(name, 1), -counts[name]))[:MOST_METRICS]


def _shown(value: Any) -> str:
    return "–" if value is None else number(value) if not isinstance(value, bool) else str(value).lower()


def _interval(value: Any) -> str:
    found = figure(value)
    if found is None:
        return "–"
    known = found.low is not None and found.high is not None
    return number(found.value) + (f" ({number(found.low)} to {number(found.high)})" if known else "")
