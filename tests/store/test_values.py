"""What an answer may say. Each refusal is checked for what it tells the sender to do instead."""

from __future__ import annotations

from typing import Any

import pytest

from prefloop.errors import InputError
from prefloop.store.values import canonical, check_storable, validate_value

IDS = {"comparison": ["c1", "c2"], "ranking": ["c1", "c2", "c3"], "demonstration": []}

GOOD: list[tuple[str, dict[str, Any]]] = [
    ("comparison", {"choice": "a", "strength": 1}),
    ("comparison", {"choice": "b"}),
    ("comparison", {"choice": "both_bad", "note": "neither stops"}),
    ("ranking", {"order": [["c1"], ["c3", "c2"]]}),
    ("ranking", {"order": [["c3", "c2", "c1"]]}),
    ("rating", {"scores": {"helpful": 1, "harmless": 5}}),
    ("approval", {"approved": False}),
    ("edit", {"text": "mended"}),
    ("edit", {"spans": [{"start": 0, "end": 3, "text": "The"}]}),
    ("flags", {"flags": []}),
    ("flags", {"flags": ["hallucination", "opinion"]}),
    ("demonstration", {"text": "10"}),
]


@pytest.mark.parametrize(("kind", "value"), GOOD)
def test_values_that_fit(kind: str, value: dict[str, Any]) -> None:
    assert validate_value(kind, value, IDS.get(kind, ["c1"])) is None


@pytest.mark.parametrize("kind", ["comparison", "ranking", "rating", "approval", "edit", "flags", "demonstration"])
def test_every_kind_may_be_skipped_for_a_reason(kind: str) -> None:
    assert validate_value(kind, {"skip": "I do not know this field"}, IDS.get(kind, ["c1"])) is None
    with pytest.raises(InputError, match="skip must give a reason"):
        validate_value(kind, {"skip": " "}, IDS.get(kind, ["c1"]))
    with pytest.raises(InputError, match="it has no "):
        validate_value(kind, {"skip": "tired", "choice": "a", "order": []}, IDS.get(kind, ["c1"]))


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("comparison", {}, "choice must be one of a, b, tie, both_bad, unsure, got None"),
        ("comparison", {"choice": "A"}, "got 'A'"),
        ("comparison", {"choice": ["a"]}, r"got \['a'\]"),
        ("comparison", {"choice": "a", "strength": 0}, "strength must be 1 .* got 0"),
        ("comparison", {"choice": "a", "strength": 4}, "got 4"),
        ("comparison", {"choice": "a", "strength": True}, "got True"),
        ("comparison", {"choice": "a", "strength": 2.0}, "got 2.0"),
        ("comparison", {"choice": "a", "stength": 2}, "it has no 'stength'"),
        ("comparison", {"choice": "a", "note": 3}, "note must be text"),
        ("comparison", ["a"], "must be an object such as"),
        ("ranking", {"order": ["c1", "c2", "c3"]}, "list of non-empty lists"),
        ("ranking", {"order": [["c1"], [], ["c2", "c3"]]}, "list of non-empty lists"),
        ("ranking", {"order": [["c1"], ["c2"]]}, "each of c1, c2, c3 exactly once, got c1, c2"),
        ("ranking", {"order": [["c1"], ["c2", "c3", "c1"]]}, "exactly once"),
        ("ranking", {"order": [["c1"], ["c2", "c4"]]}, "exactly once"),
        ("rating", {"scores": {}}, 'scores must be an object such as {"helpful": 4}'),
        ("rating", {"scores": {"helpful": 6}}, "the score of helpful must be a whole number from 1 to 5, got 6"),
        ("rating", {"scores": {"helpful": True}}, "got True"),
        ("rating", {"scores": {"helpful": 3.5}}, "got 3.5"),
        ("rating", {"scores": {" ": 3}}, "name of 1 to 64"),
        ("approval", {"approved": 1}, "approved must be true or false, got 1"),
        ("approval", {}, "got None"),
        ("edit", {}, "an edit needs the new text, spans, or both"),
        ("edit", {"text": " "}, "text must hold what was written"),
        ("edit", {"spans": [{"start": 4, "end": 3}]}, "0 <= start <= end"),
        ("edit", {"spans": ["x"]}, r"spans\[0\]"),
        ("flags", {"flags": "unsafe"}, "flags must be a list of names"),
        ("flags", {"flags": ["a", "a"]}, "each finding once"),
        ("demonstration", {"text": ""}, "text must hold"),
        ("demonstration", {"text": 10}, "text must hold"),
        ("demonstration", {"text": "a\x00b"}, "value.text: the text holds a NUL"),
        ("demonstration", {"text": "a\udfffb"}, r"lone surrogate \(U\+DFFF at character 1\)"),
        ("comparison", {"choice": "a", "strength": 2**63}, "63 bits"),
        ("rating", {"scores": {"helpful": float("nan")}}, "must be finite, got nan"),
        ("opinion", {"text": "x"}, "must be one of comparison, ranking"),
    ],
)
def test_values_that_are_refused(kind: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        validate_value(kind, value, IDS.get(kind, ["c1"]))


def test_depth_is_bounded_without_recursion() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InputError, match="nested deeper than 32 levels"):
        check_storable(deep, "body")
    while deep:  # take it apart by hand: the interpreter's own clean-up of such a list may recurse
        deep = deep[0]


def test_the_choice_is_turned_to_the_stored_order() -> None:
    # Shown as c2, c1: the annotator's "a" is c2, which is kept second, so it is "b".
    assert canonical("comparison", {"choice": "a", "strength": 3}, ["c2", "c1"], ["c1", "c2"]) == {
        "choice": "b",
        "strength": 3,
    }
    assert canonical("comparison", {"choice": "b"}, ["c2", "c1"], ["c1", "c2"]) == {"choice": "a"}
    assert canonical("comparison", {"choice": "b"}, ["c1", "c2"], ["c1", "c2"]) == {"choice": "b"}
    for same_either_way in ({"choice": "tie"}, {"choice": "both_bad"}, {"choice": "unsure"}, {"skip": "tired"}):
        assert canonical("comparison", same_either_way, ["c2", "c1"], ["c1", "c2"]) == same_either_way
    assert canonical("ranking", {"order": [["c2"], ["c1"]]}, ["c2", "c1"], ["c1", "c2"]) == {"order": [["c2"], ["c1"]]}
