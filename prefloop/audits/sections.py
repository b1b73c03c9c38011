"""What each section of a report shows, from stored results: None or nothing where nothing is stored."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from prefloop.audits import charts
from prefloop.audits.wording import (
    NOT_MEASURED,
    Data,
    Figure,
    count,
    duration,
    figure,
    heading,
    listed,
    mapping,
    measured,
    number,
    percent,
    words,
)

MODELS = {
    "base": ("Base model", "Before: it has only read text."),
    "sft": ("After demonstrations (SFT)", "It has imitated good answers."),
    "policy": ("After practice (PPO)", "It has practised against the learned reward."),
    "dpo": ("With DPO instead", "It has learned from the comparisons without a reward model."),
    "round2": ("After round 2", "Its own new answers were compared, and it has learned again."),
    "average": ("The average of the three", "Its weights are the mean of theirs: what each learned alone falls away."),
}
LOOKS = {"base": "base", "sft": "sft", "policy": "policy", "dpo": "dpo", "round2": "policy", "average": "policy"}


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
    for entry in map(mapping, listed(d.get("data"))):
        for who, n in mapping(entry.get("annotators")).items():
            counts[who] += int(measured(n) or 0)
    if d.get("simulated") is not True and not counts["simulated"]:
        return "none"
    return "some" if sum(counts.values()) > counts["simulated"] else "all"


def is_a_loop(d: Data) -> bool:
    """Whether the page tells of a whole loop and should explain it first."""
    return bool(listed(d.get("shows")) or mapping(d.get("gold")))


def cards(d: Data) -> list[dict[str, str]]:
    """The few numbers to remember, only those that were stored."""
    cards = []
    gold = {name: figure(value) for name, value in mapping(d.get("gold")).items()}
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
    rate = mapping(d.get("win_rate" if ended == "policy" else f"{ended}_win_rate"))
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
        machine = mapping(d.get("machine"))
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
    known = [(name, value, figure(value)) for name, value in mapping(d.get("metrics")).items()]
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
    return [words(note) for note in listed(d.get("notes")) if words(note)]


def facts(d: Data) -> dict[str, str]:
    """What this run stored about each step of the loop, in a few words; "" where nothing is stored."""
    rows = [row for row in map(mapping, listed(d.get("data"))) if measured(row.get("rows")) is not None]

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
    for show in map(mapping, listed(d.get("shows"))):
        answers, passed = mapping(show.get("answers")), mapping(show.get("passed"))
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
    models = {key: mapping(value) for key, value in mapping(d.get("gold")).items() if key in MODELS}
    families = list(dict.fromkeys(name for value in models.values() for name in mapping(value.get("families"))))
    panels = []
    for title, pick in [("All tasks", None), *((name, name) for name in families)]:
        rows = [
            charts.share_row(
                MODELS[key][0], value if pick is None else mapping(value.get("families")).get(pick), LOOKS[key]
            )
            for key, value in sorted(models.items(), key=lambda item: list(MODELS).index(item[0]))
        ]
        if known := [row for row in rows if row]:
            panels.append({"title": heading(title), "rows": known})
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
        value = mapping(d.get(key))
        if row := charts.share_row("won", value, look, even=0.5):
            row |= {
                "title": f"{name} against {_against(value)}",
                "ties": measured(value.get("ties")),
                "consistency": measured(value.get("consistency")),
            }
            rows.append(row | {"verdict": _verdict(row["figure"])})
    return {"rows": rows} if rows else None


def data(d: Data) -> dict[str, Any] | None:
    """Each data set with who answered, its source, licence and hash, and the rows that were left out."""
    rows: list[dict[str, Any]] = []
    totals: dict[str, int] = {}
    for entry in map(mapping, listed(d.get("data"))):
        if not entry:
            continue
        who = {name: int(n) for name, n in mapping(entry.get("annotators")).items() if measured(n) is not None}
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
                **_ledger(mapping(entry.get("ledger"))),
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
    notes = mapping(ledger.get("notes"))
    return {
        "dropped": [(k, count(n)) for k, n in dropped.items() if measured(n)] if ledger else None,
        "noted": [(k, count(n)) for k, n in notes.items() if measured(n)],
    }


def people(d: Data) -> list[dict[str, Any]]:
    """The profiles of those who answered."""
    shares = ("skill", "position_bias", "length_bias", "mistake", "tie", "skip")
    rows = [row for row in map(mapping, listed(d.get("people"))) if words(row.get("profile"))]
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
    nodes = {words(n.get("hash")): n for n in map(mapping, listed(d.get("lineage"))) if words(n.get("hash"))}
    order: dict[str, None] = {}
    for start in nodes:
        stack = [start]
        while stack:
            parents = [p for p in map(words, listed(nodes[stack[-1]].get("parents"))) if p in nodes]
            waiting = [p for p in parents if p not in order and p not in stack]  # the latter would be a circle
            if waiting:
                stack.append(waiting[0])
            else:
                order.setdefault(stack.pop())
    number_of = {h: i + 1 for i, h in enumerate(order)}
    rows = []
    for h in order:
        node, parents = nodes[h], [p for p in map(words, listed(nodes[h].get("parents"))) if p]
        within = sorted((number_of[p], words(nodes[p].get("name")) or p[:8]) for p in parents if p in number_of)
        rows.append(
            {
                "number": number_of[h],
                "kind": words(node.get("kind")).replace("_", " "),
                "name": words(node.get("name")) or h[:8],
                "hash": h,
                "parents": within,
                "others": [p[:12] for p in parents if p not in number_of],
            }
        )
    return rows


def settings(d: Data) -> list[dict[str, Any]]:
    """Everything needed to repeat the run, in groups of (name, value)."""
    groups = []
    timings = {k: duration(v) for k, v in mapping(d.get("timings")).items()}
    named = (
        ("Time", timings),
        ("Machine", d.get("machine")),
        ("Seeds", d.get("seeds")),
        ("Versions", d.get("versions")),
    )
    for title, value in named:
        if rows := _flat(mapping(value)):
            groups.append({"title": title, "rows": rows})
    chosen = mapping(d.get("settings"))
    loose = {k: v for k, v in chosen.items() if not isinstance(v, Mapping)}
    for title, value in [("General", loose), *((k, v) for k, v in chosen.items() if isinstance(v, Mapping))]:
        if rows := _flat(value):
            groups.append({"title": heading(title), "rows": rows})
    return groups


def _verdict(won: Figure) -> str:
    if won.low is None or won.high is None:
        return "No interval is stored, so chance cannot be ruled out."
    if won.low > 0.5:
        return "Its answers are preferred, and chance alone does not explain it: the interval lies above 50%."
    if won.high < 0.5:
        return "Its answers are preferred less often: the interval lies below 50%."
    return "No clear difference: the interval includes 50%."


def _against(value: Any) -> str:
    name = words(mapping(value).get("against")) or "the other model"
    return {"sft": "the SFT model", "base": "the base model", "policy": "the PPO policy"}.get(name, name)


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
