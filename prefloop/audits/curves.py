"""What went on during training, in charts: the logged metrics, and what the guard saw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prefloop.audits import charts
from prefloop.audits.wording import Data, count, listed, mapping, measured, number, words


@dataclass(frozen=True)
class Curve:
    """One chart of the PPO run: the logged metric, and what it means to someone who has never seen one."""

    key: str
    metric: str
    title: str
    about: str
    from_zero: bool = True


ONLINE_CURVES = (
    Curve("reward", "objective/scores", "Reward", "What the reward model gives its answers. It should rise.", False),
    Curve(
        "kl",
        "objective/kl",
        "Distance from where it started",
        "KL to the model it started from, in nats per answer. A penalty keeps it moderate, so that it does not drift"
        " into tricks that only please the reward model.",
    ),
    Curve(
        "length",
        "length",
        "Length of its answers",
        "In tokens. If the reward simply liked long answers, this would climb without end.",
    ),
    Curve(
        "entropy",
        "objective/entropy",
        "Variety",
        "Entropy: how open the choice of words still is. At zero the model would always say the same.",
    ),
    Curve(
        "distinct",
        "diversity/distinct_2",
        "Variety among answers",
        "Share of all pairs of neighbouring tokens in a batch of answers that are no repetition (distinct-2). It falls"
        " when the answers grow alike.",
    ),
)
GUARDED = {
    "proxy": ("The reward that it practises on", "It rises, or practice would be in vain."),
    "held_out": (
        "Rewards that it does not practise on",
        "Their mean, and its lower bound (95%). Where these fall while the other rises, the reward is being fooled.",
    ),
}
LOOKED_AT = {
    "proxy": "Reward",
    "held_out": "Held-out reward",
    "kl": "KL from the start, in nats an answer",
    "length": "Tokens of an answer",
    "length_share": "Share of the gain that length explains",
    "entropy": "Entropy, in nats a token",
    "distinct_2": "Different word pairs (distinct-2)",
    "repetition": "Word triples that repeat",
    "eos": "Answers that end by themselves",
    "spread": "How far the held-out rewards disagree",
    "outliers": "Answers unlike any at first",
}
LOSS_CHARTS = {
    "sft": ("Learning to imitate", "How surprised the model is by good answers (loss). The held-out line counts."),
    "reward_model": ("Learning what people prefer", "Loss of the reward model on comparisons."),
    "dpo": ("Learning from comparisons directly", "Loss of DPO on the same comparisons."),
}


def guard(d: Data) -> dict[str, Any] | None:
    """What the guard saw at its looks: the reward beside the held-out ones, how answers changed, and its words."""
    found = mapping(d.get("guard"))
    needed = ("step", "proxy", "held_out", "held_out_low")
    looks = [
        row for row in map(mapping, listed(found.get("looks"))) if all(measured(row.get(k)) is not None for k in needed)
    ]
    if not looks:
        return None
    kept = next((row for row in looks if row["step"] == found.get("best_step")), None)
    alarm = next((row for row in looks if row.get("alarm") is True), None)
    marks = {row["step"]: name for row, name in ((kept, "kept"), (alarm, "alarm")) if row is not None}
    lines = [
        charts.Line(name, look, [_points_of(looks, metric)])
        for name, metric, look in (("mean", "held_out", "policy"), ("lower bound", "held_out_low", "base"))
    ]
    shown = [row for place, row in enumerate(looks) if place in (0, len(looks) - 1) or row is kept]
    peak = [measured(value) for value in listed(mapping(mapping(found.get("curves")).get("held_out")).get("peak"))]
    return {
        "charts": [
            *_line_panels(
                "guard-proxy",
                *GUARDED["proxy"],
                [charts.Line("reward", "policy", [_points_of(looks, "proxy")])],
                breaks=marks,
            ),
            *_line_panels("guard-held-out", *GUARDED["held_out"], lines, breaks=marks),
        ],
        "looks": count(len(looks)),
        "kept": "" if kept is None else count(kept["step"]),
        "alarm": "" if alarm is None else count(alarm["step"]),
        "peak": number(peak[0] ** 2) if len(peak) == 2 and peak[0] is not None else "",
        "said": [words(row.get("words")) for row in looks if row.get("warning") is True and words(row.get("words"))],
        "steps": [count(row["step"]) for row in shown],
        "rows": [
            {"name": name, "values": [number(measured(row.get(key))) for row in shown]}
            for key, name in LOOKED_AT.items()
            if any(measured(row.get(key)) is not None for row in shown)
        ],
    }


def training(d: Data) -> list[dict[str, Any]]:
    """Groups of charts, one for each logged metric with at least two points."""
    logged = {stage: [r for r in map(mapping, listed(rows)) if r] for stage, rows in mapping(d.get("training")).items()}
    groups = []
    for stage in logged:
        runs, breaks = _in_one_line(logged[stage])
        drawn = []
        for curve in ONLINE_CURVES:
            line = charts.Line("policy", "policy", [part for rows in runs if (part := _points_of(rows, curve.metric))])
            key = f"{stage}-{curve.key}"
            drawn += _line_panels(key, curve.title, curve.about, [line], from_zero=curve.from_zero, breaks=breaks)
        if drawn:
            name = "PPO" if stage == "ppo" else stage
            groups.append({"title": f"Practising against the reward model ({name})", "charts": drawn})
    drawn = []
    for stage, (title, about) in LOSS_CHARTS.items():
        rows, breaks = _in_one_line(logged.get(stage, []))
        lines = [
            charts.Line(name, look, [part for part in (_points_of(r, metric) for r in rows) if part])
            for name, metric, look in (("training", "loss", "base"), ("held out", "eval_loss", "policy"))
        ]
        drawn += _line_panels(f"{stage}-loss", title, about, lines, from_zero=False, breaks=breaks)
    if drawn:
        groups.append({"title": "The other lessons" if groups else "How the loss fell or rose", "charts": drawn})
    return groups


def _in_one_line(rows: Sequence[Data]) -> tuple[list[list[Data]], dict[float, str]]:
    """Rounds one after another on one axis of steps: rows per round with their steps moved, and where each begins."""
    rounds: dict[str, list[Data]] = {}
    for row in rows:
        rounds.setdefault(words(row.get("round")), []).append(row)
    parts: list[list[Data]] = []
    breaks: dict[float, str] = {}
    end = 0.0
    for name, part in rounds.items():
        steps = [s for s in (measured(row.get("step")) for row in part) if s is not None]
        if not steps:
            continue
        move = end if parts and min(steps) <= end else 0.0
        if parts:
            breaks[end] = f"round {name}"
        parts.append([{**row, "step": row["step"] + move} for row in part if measured(row.get("step")) is not None])
        end = max(steps) + move
    return parts, breaks


def _points_of(rows: Iterable[Data], metric: str) -> list[charts.Point]:
    """(step, value) of the rows that have both."""
    known = ((measured(row.get("step")), measured(row.get(metric))) for row in rows)
    return [(step, value) for step, value in known if step is not None and value is not None]


def _line_panels(
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
