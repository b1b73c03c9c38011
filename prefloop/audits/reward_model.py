"""What a report says of the reward model: how often it is right, how sure it is, and what it has learned."""

from __future__ import annotations

from typing import Any

from prefloop.audits import charts
from prefloop.audits.wording import (
    Data,
    Figure,
    count,
    figure,
    heading,
    listed,
    mapping,
    measured,
    number,
    percent,
    words,
)

FLOORS = {"length": "Always the longer one", "tfidf": "Words and length (TF-IDF)"}


def reward_model(d: Data) -> dict[str, Any] | None:
    """Accuracy beside chance, people and floors; calibration beside what chance allows at this n."""
    value = mapping(d.get("reward_model"))
    right = figure(value, "accuracy")
    if right is None:
        return None
    ceiling, length = mapping(value.get("human_ceiling")), mapping(value.get("length"))
    floors = {"length": length.get("longer_wins"), **mapping(value.get("floors"))}
    compared = [
        charts.share_row(
            "Reward model",
            {"value": right.value, "low": right.low, "high": right.high, "n": right.n},
            "policy",
            even=0.5,
        ),
        charts.share_row(
            "Two people agree",
            ceiling if "value" in ceiling else {**ceiling, "value": ceiling.get("accuracy")},
            "sft",
            0.5,
        ),
        *(charts.share_row(FLOORS.get(name, name), floor, "base", 0.5) for name, floor in floors.items()),
    ]
    ceilings = mapping(value.get("slice_ceilings"))
    slices = [
        row | {"people": figure(mapping(ceilings.get(column)).get(name)), "column": heading(column)}
        for column, shares in mapping(value.get("slices")).items()
        for name, share in mapping(shares).items()
        if (row := charts.share_row(name, share, "policy", 0.5))
    ]
    bins = [row for row in map(mapping, listed(value.get("reliability"))) if _is_a_bin(row)]
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
        "decay": _decay(mapping(value.get("decay"))),
        "ask_next": [_asked(one) for one in map(mapping, listed(value.get("ask_next"))[:8]) if one],
        "credit": [_credit(one) for one in map(mapping, listed(value.get("credit"))) if one],
        "mistakes": [_mistake(one) for one in map(mapping, listed(value.get("mistakes"))) if one],
        "features": _features(mapping(value.get("features"))),
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


def _is_a_bin(row: Data) -> bool:
    sure, right, n = (measured(row.get(k)) for k in ("confidence", "accuracy", "n"))
    if sure is None or right is None or n is None:
        return False
    return 0.5 <= sure <= 1 and 0 <= right <= 1 and n >= 1


def _within_chance(ece: float | None, high: float | None) -> str:
    if ece is None or high is None:
        return ""
    return "within what chance alone would show" if ece <= high else "more than chance alone would show"


def _decay(found: Data) -> dict[str, Any] | None:
    """Accuracy on the policy's own samples beside that on the test pairs, and the difference in points."""
    here, own, difference = (figure(mapping(found.get(name))) for name in ("here", "own", "difference"))
    if here is None or own is None or difference is None:
        return None
    return {"here": here, "own": own, "points": _signed(difference)}


def _signed(found: Figure) -> str:
    """A difference of shares in points, "-7 points (-12 to -1)"."""
    low, high = found.low, found.high
    spread = "" if low is None or high is None else f" ({100 * low:+.0f} to {100 * high:+.0f})"
    return f"{100 * found.value:+.0f} points{spread}"


def _asked(one: Data) -> dict[str, Any]:
    turns = [words(mapping(turn).get("content")) for turn in listed(one.get("prompt"))]
    return {
        "prompt": "\n\n".join(turns)[-1200:],
        "a": words(one.get("a"))[:1200],
        "b": words(one.get("b"))[:1200],
        "probability": percent(measured(one.get("probability"))),
        "information": number(one.get("information")),
    }


def _credit(one: Data) -> dict[str, Any]:
    """The tokens of both texts of a pair, each with what it earned and how strong its colour is, 0 to 9."""
    sides = [mapping(side) for side in listed(one.get("texts"))]
    pairs = [[pair for pair in map(listed, listed(side.get("tokens"))) if len(pair) == 2] for side in sides]
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
    about = mapping(one.get("columns"))
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
        sides = {key: _coefficient(mapping(mapping(who).get(key))) for key in ("people", "model")}
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
