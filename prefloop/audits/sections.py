"""What each section of a report shows, from stored results: None or nothing where nothing is stored."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from prefloop.audits import charts
from prefloop.audits.wording import NOT_MEASURED, Figure, count, duration, figure, measured, number, percent

Data = Mapping[str, Any]

MODELS = {
    "base": ("Base model", "Before: it has only read text."),
    "sft": ("After demonstrations (SFT)", "It has imitated good answers."),
    "policy": ("After practice (PPO)", "It has practised against the learned reward."),
    "dpo": ("With DPO instead", "It has learned from the comparisons without a reward model."),
    "round2": ("After round 2", "Its own new answers were compared, and it has learned again."),
    "average": ("The average of the three", "Its weights are the mean of theirs: what each learned alone falls away."),
}
LOOKS = {"base": "base", "sft": "sft", "policy": "policy", "dpo": "dpo", "round2": "policy", "average": "policy"}


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


def meta(d: Data) -> list[str]:
    """When and with what the page's results were made, as short phrases."""
    known = [words(d.get("created"))]
    if measured(d.get("seconds")) is not None:
        known.append(f"took {duration(d['seconds'])}")
    known += [
        f"{name} {words(d[key])}" for key, name in (("version", "prefloop"), ("seed", "seed")) if words(d.get(key))
    ]
    return [words for words in known if words]


def simulated(d: Data) -> Literal["all", "some", "none"]:
    """Whether the people were simulated: as declared, or as the data sets say themselves. A machine is never hidden."""
    counts: Counter[str] = Counter()
    for entry in map(_mapping, _list(d.get("data"))):
        for who, n in _mapping(entry.get("annotators")).items():
            counts[who] += int(measured(n) or 0)
    if d.get("simulated") is not True and not counts["simulated"]:
        return "none"
    return "some" if sum(counts.values()) > counts["simulated"] else "all"


def is_a_loop(d: Data) -> bool:
    """Whether the page tells of a whole loop and should explain it first."""
    return bool(_list(d.get("shows")) or _mapping(d.get("gold")))


def cards(d: Data) -> list[dict[str, str]]:
    """The few numbers to remember, only those that were stored."""
    cards = []
    gold = {name: figure(value) for name, value in _mapping(d.get("gold")).items()}
    ended = next((name for name in gold if name == d.get("chosen")), "policy")
    after, before, imitation = gold.get(ended), gold.get("base"), gold.get("sft")
    if after:
        middle = f" After demonstrations alone: {imitation.percent}." if imitation else ""
        cards.append(
            {
                "name": "Tasks solved",
                "was": before.percent if before else "",
                "figure": after.percent,
                "words": f"of new tasks pass an automatic check.{middle}",
                "note": after.note,
            }
        )
    rate = _mapping(d.get("win_rate" if ended == "policy" else f"{ended}_win_rate"))
    if won := figure(rate):
        cards.append(
            {
                "name": "Preferred",
                "was": "",
                "figure": won.percent,
                "words": f"of blind comparisons go to the policy against {_against(rate)}."
                " 50% would mean no difference.",
                "note": won.note,
            }
        )
    if right := figure(d.get("reward_model"), "accuracy"):
        cards.append(
            {
                "name": "Reward model",
                "was": "",
                "figure": right.percent,
                "words": "of comparisons it has never seen are predicted as people answered them. Guessing gives 50%.",
                "note": right.note,
            }
        )
    if cards and measured(d.get("seconds")) is not None:
        machine = _mapping(d.get("machine"))
        where = ", ".join(f"{name}: {words(value)}" for name, value in machine.items() if words(value))
        cards.append(
            {
                "name": "Time",
                "was": "",
                "figure": duration(d["seconds"]),
                "words": "for everything on this page.",
                "note": where,
            }
        )
    return cards


def metrics(d: Data) -> list[dict[str, str]]:
    """Any further stored numbers, by name."""
    known = [(name, value, figure(value)) for name, value in _mapping(d.get("metrics")).items()]
    return [
        {
            "name": name,
            "value": number(shown.value),
            "interval": f"{number(shown.low)} to {number(shown.high)}" if shown.low is not None else "",
            "n": "" if shown.n is None else count(shown.n),
        }
        for name, _, shown in known
        if shown is not None
    ]


def notes(d: Data) -> list[str]:
    """What a reader should know about the limits of these results."""
    return [words(note) for note in _list(d.get("notes")) if words(note)]


def facts(d: Data) -> dict[str, str]:
    """What this run stored about each step of the loop, in a few words; "" where nothing is stored."""
    rows = [row for row in map(_mapping, _list(d.get("data"))) if measured(row.get("rows")) is not None]

    def asked(kind: str) -> str:
        counts = [row["rows"] for row in rows if str(row.get("kind", "")).startswith(kind)]
        return f"{count(sum(counts))} {kind}s" if counts else ""

    right = figure(d.get("reward_model"), "accuracy")
    compared = [row for row in rows if row.get("kind") != "demonstrations"]  # those come before the first round
    rounds = {row.get("round") for row in compared if measured(row.get("round")) is not None}
    return {
        "demonstrations": asked("demonstration"),
        "comparisons": asked("comparison"),
        "reward_model": f"right on {right.percent} of unseen comparisons" if right else "",
        "rounds": f"{len(rounds)} rounds in this report" if len(rounds) > 1 else "",
    }


def shows(d: Data) -> list[dict[str, Any]]:
    """Each show prompt with the answers of the models that were asked, before first."""
    found = []
    for show in map(_mapping, _list(d.get("shows"))):
        answers, passed = _mapping(show.get("answers")), _mapping(show.get("passed"))
        known = [
            {
                "key": key,
                "name": name,
                "about": about,
                "pieces": pieces(answers[key]),
                "passed": passed.get(key) if isinstance(passed.get(key), bool) else None,
            }
            for key, (name, about) in MODELS.items()
            if isinstance(answers.get(key), str)
        ]
        if known:
            found.append({"prompt": words(show.get("prompt")), "answers": known})
    return found


def pieces(text: str) -> list[tuple[str, str]]:
    """An answer as ("text" | "code", words) in order: lines between ``` are code. Blank pieces fall away."""
    found: list[tuple[str, str]] = []
    kind, lines = "text", list[str]()
    for line in text.split("\n"):
        if line.lstrip().startswith("```"):
            found.append((kind, "\n".join(lines)))
            kind, lines = ("code" if kind == "text" else "text"), []
        else:
            lines.append(line)
    found.append((kind, "\n".join(lines)))
    return [(k, part.strip("\n")) for k, part in found if part.strip()]


def gold(d: Data) -> list[dict[str, Any]]:
    """Pass rates: one panel for all tasks and one for each family, one row per model."""
    models = {key: _mapping(value) for key, value in _mapping(d.get("gold")).items() if key in MODELS}
    families = list(dict.fromkeys(name for value in models.values() for name in _mapping(value.get("families"))))
    panels = []
    for title, pick in [("All tasks", None), *((name, name) for name in families)]:
        rows = [
            _row(MODELS[key][0], value if pick is None else _mapping(value.get("families")).get(pick), LOOKS[key])
            for key, value in sorted(models.items(), key=lambda item: list(MODELS).index(item[0]))
        ]
        if known := [row for row in rows if row]:
            panels.append({"title": _heading(title), "rows": known})
    return panels


def wins(d: Data) -> dict[str, Any] | None:
    """Win rates with what their intervals allow to say."""
    rows = []
    for key, name, look in (
        ("win_rate", "PPO", "policy"),
        ("dpo_win_rate", "DPO", "dpo"),
        ("round2_win_rate", "Second round", "policy"),
        ("average_win_rate", "The average of the three", "policy"),
    ):
        value = _mapping(d.get(key))
        if row := _row("won", value, look, even=0.5):
            row |= {
                "title": f"{name} against {_against(value)}",
                "ties": measured(value.get("ties")),
                "consistency": measured(value.get("consistency")),
            }
            rows.append(row | {"verdict": _verdict(row["figure"])})
    return {"rows": rows} if rows else None


FLOORS = {"length": "Always the longer one", "tfidf": "Words and length (TF-IDF)"}


def reward_model(d: Data) -> dict[str, Any] | None:
    """Accuracy beside chance, people and floors; calibration beside what chance allows at this n."""
    value = _mapping(d.get("reward_model"))
    right = figure(value, "accuracy")
    if right is None:
        return None
    ceiling, length = _mapping(value.get("human_ceiling")), _mapping(value.get("length"))
    floors = {"length": length.get("longer_wins"), **_mapping(value.get("floors"))}
    compared = [
        _row(
            "Reward model",
            {"value": right.value, "low": right.low, "high": right.high, "n": right.n},
            "policy",
            even=0.5,
        ),
        _row(
            "Two people agree",
            ceiling if "value" in ceiling else {**ceiling, "value": ceiling.get("accuracy")},
            "sft",
            0.5,
        ),
        *(_row(FLOORS.get(name, name), floor, "base", 0.5) for name, floor in floors.items()),
    ]
    ceilings = _mapping(value.get("slice_ceilings"))
    slices = [
        row | {"people": figure(_mapping(ceilings.get(column)).get(name)), "column": _heading(column)}
        for column, shares in _mapping(value.get("slices")).items()
        for name, share in _mapping(shares).items()
        if (row := _row(name, share, "policy", 0.5))
    ]
    bins = [row for row in map(_mapping, _list(value.get("reliability"))) if _is_a_bin(row)]
    ece, expected = measured(value.get("ece")), measured(value.get("expected_ece"))
    return {
        "rows": [row for row in compared if row],
        "ceiling_source": words(ceiling.get("source")),
        "slices": slices,
        "ece": ece,
        "expected": expected,
        "by_chance": _within_chance(ece, measured(value.get("expected_ece_high"))),
        "expected_high": measured(value.get("expected_ece_high")),
        "temperature": measured(value.get("temperature")),
        "stored_temperature": measured(value.get("stored_temperature")),
        "decay": _decay(_mapping(value.get("decay"))),
        "ask_next": [_asked(one) for one in map(_mapping, _list(value.get("ask_next"))[:8]) if one],
        "credit": [_credit(one) for one in map(_mapping, _list(value.get("credit"))) if one],
        "mistakes": [_mistake(one) for one in map(_mapping, _list(value.get("mistakes"))) if one],
        "features": _features(_mapping(value.get("features"))),
        "prefers_longer": measured(length.get("model_prefers_longer")),
        "n": sum(int(row["n"]) for row in bins),
        "chart": charts.reliability_chart(
            "reliability",
            "How sure the reward model was, and how often it was right",
            "; ".join(
                f"{row['confidence']:.0%} sure: {row['accuracy']:.0%} right, n = {int(row['n'])}" for row in bins
            ),
            bins,
        )
        if bins
        else None,
    }


def _decay(found: Data) -> dict[str, Any] | None:
    """Accuracy on the policy's own samples beside that on the test pairs, and the difference in points."""
    here, own, difference = (figure(_mapping(found.get(name))) for name in ("here", "own", "difference"))
    if here is None or own is None or difference is None:
        return None
    return {"here": here, "own": own, "points": _signed(difference)}


def _signed(found: Figure) -> str:
    """A difference of shares in points, "-7 points (-12 to -1)"."""
    low, high = found.low, found.high
    spread = "" if low is None or high is None else f" ({100 * low:+.0f} to {100 * high:+.0f})"
    return f"{100 * found.value:+.0f} points{spread}"


def _asked(one: Data) -> dict[str, Any]:
    turns = [words(_mapping(turn).get("content")) for turn in _list(one.get("prompt"))]
    return {
        "prompt": "\n\n".join(turns)[-1200:],
        "a": words(one.get("a"))[:1200],
        "b": words(one.get("b"))[:1200],
        "probability": percent(measured(one.get("probability"))),
        "information": number(one.get("information")),
    }


def _credit(one: Data) -> dict[str, Any]:
    """The tokens of both texts of a pair, each with what it earned and how strong its colour is, 0 to 9."""
    sides = [_mapping(side) for side in _list(one.get("texts"))]
    pairs = [[pair for pair in map(_list, _list(side.get("tokens"))) if len(pair) == 2] for side in sides]
    tokens = [[(text, measured(value) or 0.0) for text, value in row] for row in pairs]
    most = max((abs(value) for side in tokens for _, value in side), default=0.0) or 1.0
    return {
        "prompt": words(one.get("prompt")),
        "right": one.get("right") is True,
        "texts": [
            {
                "preferred": side.get("preferred") is True,
                "score": number(side.get("score")),
                "more": count(side.get("more")) if measured(side.get("more")) else "",
                "tokens": [
                    {
                        "text": str(text) or "⏹",
                        "earned": f"{value:+.2f}",
                        "look": ("minus" if value < 0 else "plus") + str(round(9 * abs(value) / most)),
                    }
                    for text, value in row
                ],
            }
            for side, row in zip(sides, tokens, strict=True)
        ],
    }


def _mistake(one: Data) -> dict[str, Any]:
    about = _mapping(one.get("columns"))
    return {
        "prompt": words(one.get("prompt")),
        "better": words(one.get("better")),
        "worse": words(one.get("worse")),
        "confidence": percent(measured(one.get("confidence"))),
        "label": percent(measured(one.get("label"))),
        "about": ", ".join(f"{name} {words(v)}" for name, v in about.items() if words(v) and name != "question"),
    }


def _features(found: Data) -> list[dict[str, Any]]:
    """Coefficients of people and of the model, those that people follow most first."""
    rows = []
    for name, who in found.items():
        sides = {key: _coefficient(_mapping(_mapping(who).get(key))) for key in ("people", "model")}
        if all(sides.values()):
            rows.append({"name": name, **sides})
    return sorted(rows, key=lambda row: -abs(row["people"]["value"]))


def _coefficient(one: Data) -> dict[str, Any] | None:
    value, low, high = (measured(one.get(key)) for key in ("value", "low", "high"))
    if value is None:
        return None
    interval = "" if low is None or high is None else f"{low:+.2f} to {high:+.2f}"
    clear = low is not None and high is not None and (low > 0 or high < 0)
    return {"value": value, "shown": f"{value:+.2f}", "interval": interval, "clear": clear}


def guard(d: Data) -> dict[str, Any] | None:
    """What the guard saw at its looks: the reward beside the held-out ones, how answers changed, and its words."""
    found = _mapping(d.get("guard"))
    needed = ("step", "proxy", "held_out", "held_out_low")
    looks = [
        row for row in map(_mapping, _list(found.get("looks"))) if all(measured(row.get(k)) is not None for k in needed)
    ]
    if not looks:
        return None
    kept = next((row for row in looks if row["step"] == found.get("best_step")), None)
    alarm = next((row for row in looks if row.get("alarm") is True), None)
    marks = {row["step"]: name for row, name in ((kept, "kept"), (alarm, "alarm")) if row is not None}
    lines = [
        charts.Line(name, look, [_points(looks, metric)])
        for name, metric, look in (("mean", "held_out", "policy"), ("lower bound", "held_out_low", "base"))
    ]
    shown = [row for place, row in enumerate(looks) if place in (0, len(looks) - 1) or row is kept]
    peak = [measured(value) for value in _list(_mapping(_mapping(found.get("curves")).get("held_out")).get("peak"))]
    return {
        "charts": [
            *_drawn(
                "guard-proxy",
                *GUARDED["proxy"],
                [charts.Line("reward", "policy", [_points(looks, "proxy")])],
                breaks=marks,
            ),
            *_drawn("guard-held-out", *GUARDED["held_out"], lines, breaks=marks),
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
    logged = {
        stage: [r for r in map(_mapping, _list(rows)) if r] for stage, rows in _mapping(d.get("training")).items()
    }
    groups = []
    for stage in logged:
        runs, breaks = _in_one_line(logged[stage])
        drawn = []
        for curve in ONLINE_CURVES:
            line = charts.Line("policy", "policy", [part for rows in runs if (part := _points(rows, curve.metric))])
            key = f"{stage}-{curve.key}"
            drawn += _drawn(key, curve.title, curve.about, [line], from_zero=curve.from_zero, breaks=breaks)
        if drawn:
            name = "PPO" if stage == "ppo" else stage
            groups.append({"title": f"Practising against the reward model ({name})", "charts": drawn})
    drawn = []
    for stage, (title, about) in LOSS_CHARTS.items():
        rows, breaks = _in_one_line(logged.get(stage, []))
        lines = [
            charts.Line(name, look, [part for part in (_points(r, metric) for r in rows) if part])
            for name, metric, look in (("training", "loss", "base"), ("held out", "eval_loss", "policy"))
        ]
        drawn += _drawn(f"{stage}-loss", title, about, lines, from_zero=False, breaks=breaks)
    if drawn:
        groups.append({"title": "The other lessons" if groups else "How the loss fell or rose", "charts": drawn})
    return groups


def data(d: Data) -> dict[str, Any] | None:
    """Each data set with who answered, its source, licence and hash, and the rows that were left out."""
    rows: list[dict[str, Any]] = []
    totals: dict[str, int] = {}
    for entry in map(_mapping, _list(d.get("data"))):
        if not entry:
            continue
        who = {name: int(n) for name, n in _mapping(entry.get("annotators")).items() if measured(n) is not None}
        for name, n in who.items():
            totals[name] = totals.get(name, 0) + n
        rows.append(
            {
                "round": words(entry.get("round")),
                "kind": words(entry.get("kind")) or NOT_MEASURED,
                "rows": count(entry.get("rows")),
                "who": ", ".join(f"{count(n)} {name}" for name, n in who.items()) or NOT_MEASURED,
                "source": words(entry.get("source")),
                "licence": words(entry.get("licence")),
                "hash": words(entry.get("hash")),
                **_ledger(_mapping(entry.get("ledger"))),
            }
        )
    if not rows:
        return None
    shown = sorted(((name, n) for name, n in totals.items() if n > 0), key=lambda item: -item[1])
    whole = sum(n for _, n in shown)
    looks = {"simulated": "simulated", "person": "person", "imported": "imported"}
    return {
        "rows": rows,
        "total": count(whole),
        "who": [(name, count(n), percent(n / whole), looks.get(name, "other")) for name, n in shown],
        "bar": charts.share_bar([(looks.get(name, "other"), n) for name, n in shown]) if shown else None,
    }


def _ledger(ledger: Data) -> dict[str, Any]:
    """Rows that were left out and rows that were changed, each with its reason; None where no ledger is stored."""
    dropped = ledger.get("dropped") if isinstance(ledger.get("dropped"), Mapping) else None
    if dropped is None:
        dropped = {k: n for k, n in ledger.items() if k not in ("rows", "used", "notes", "dropped")}
    notes = _mapping(ledger.get("notes"))
    return {
        "dropped": [(k, count(n)) for k, n in dropped.items() if measured(n)] if ledger else None,
        "noted": [(k, count(n)) for k, n in notes.items() if measured(n)],
    }


def people(d: Data) -> list[dict[str, Any]]:
    """The profiles of those who answered."""
    shares = ("skill", "position_bias", "length_bias", "mistake", "tie", "skip")
    rows = [row for row in map(_mapping, _list(d.get("people"))) if words(row.get("profile"))]
    columns = [name for name in shares if any(measured(row.get(name)) is not None for row in rows)]
    return [
        {
            "name": words(row.get("profile")),
            "about": words(row.get("description")),
            "values": [(name.replace("_", " "), number(row.get(name))) for name in columns],
            "answers": count(row.get("answers")),
        }
        for row in rows
    ]


def lineage(d: Data) -> list[dict[str, Any]]:
    """Artifacts with their parents first; a parent that is not listed is shown by its hash."""
    nodes = {words(n.get("hash")): n for n in map(_mapping, _list(d.get("lineage"))) if words(n.get("hash"))}
    order: dict[str, None] = {}
    for start in nodes:
        stack = [start]
        while stack:
            parents = [p for p in map(words, _list(nodes[stack[-1]].get("parents"))) if p in nodes]
            waiting = [p for p in parents if p not in order and p not in stack]  # the latter would be a circle
            if waiting:
                stack.append(waiting[0])
            else:
                order.setdefault(stack.pop())
    number_of = {h: i + 1 for i, h in enumerate(order)}
    rows = []
    for h in order:
        node, parents = nodes[h], [p for p in map(words, _list(nodes[h].get("parents"))) if p]
        listed = sorted((number_of[p], words(nodes[p].get("name")) or p[:8]) for p in parents if p in number_of)
        rows.append(
            {
                "number": number_of[h],
                "kind": words(node.get("kind")).replace("_", " "),
                "name": words(node.get("name")) or h[:8],
                "hash": h,
                "parents": listed,
                "others": [p[:12] for p in parents if p not in number_of],
            }
        )
    return rows


def settings(d: Data) -> list[dict[str, Any]]:
    """Everything needed to repeat the run, in groups of (name, value)."""
    groups = []
    timings = {k: duration(v) for k, v in _mapping(d.get("timings")).items()}
    named = (
        ("Time", timings),
        ("Machine", d.get("machine")),
        ("Seeds", d.get("seeds")),
        ("Versions", d.get("versions")),
    )
    for title, value in named:
        if rows := _flat(_mapping(value)):
            groups.append({"title": title, "rows": rows})
    chosen = _mapping(d.get("settings"))
    loose = {k: v for k, v in chosen.items() if not isinstance(v, Mapping)}
    for title, value in [("General", loose), *((k, v) for k, v in chosen.items() if isinstance(v, Mapping))]:
        if rows := _flat(value):
            groups.append({"title": _heading(title), "rows": rows})
    return groups


def _row(name: str, value: Any, look: str, even: float | None = None) -> dict[str, Any] | None:
    shown = figure(value)
    if shown is None or not 0 <= shown.value <= 1:
        return None
    return {"name": name, "figure": shown, "look": look, "track": charts.track(shown, look, even=even)}


def _verdict(won: Figure) -> str:
    if won.low is None or won.high is None:
        return "No interval is stored, so chance cannot be ruled out."
    if won.low > 0.5:
        return "Its answers are preferred, and chance alone does not explain it: the interval lies above 50%."
    if won.high < 0.5:
        return "Its answers are preferred less often: the interval lies below 50%."
    return "No clear difference: the interval includes 50%."


def _within_chance(ece: float | None, high: float | None) -> str:
    if ece is None or high is None:
        return ""
    return "within what chance alone would show" if ece <= high else "more than chance alone would show"


def _against(value: Any) -> str:
    name = words(_mapping(value).get("against")) or "the other model"
    return {"sft": "the SFT model", "base": "the base model", "policy": "the PPO policy"}.get(name, name)


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


def _points(rows: Iterable[Data], metric: str) -> list[charts.Point]:
    known = ((measured(row.get("step")), measured(row.get(metric))) for row in rows)
    return [(step, value) for step, value in known if step is not None and value is not None]


def _drawn(
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


def _is_a_bin(row: Data) -> bool:
    sure, right, n = (measured(row.get(k)) for k in ("confidence", "accuracy", "n"))
    if sure is None or right is None or n is None:
        return False
    return 0.5 <= sure <= 1 and 0 <= right <= 1 and n >= 1


def _flat(value: Data, prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, Mapping):
            rows += _flat(inner, f"{name}.")
        elif isinstance(inner, list):
            rows.append((name, ", ".join(_plain(item) for item in inner)))
        else:
            rows.append((name, _plain(inner)))
    return rows


def _plain(value: Any) -> str:
    """A setting as it was given: never rounded."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value == math.floor(value) and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def words(value: Any) -> str:
    """Something short and readable, or nothing."""
    return "" if value is None or isinstance(value, (Mapping, list)) else str(value).strip()


def _heading(name: str) -> str:
    """A key as a heading: "reward_model" is Reward model, "ppo" is PPO."""
    if name in ("sft", "ppo", "dpo"):
        return name.upper()
    return (name[:1].upper() + name[1:]).replace("_", " ")


def _mapping(value: Any) -> Data:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
