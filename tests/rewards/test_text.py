"""Rewards by rule, on texts whose scores can be counted."""

from __future__ import annotations

from typing import Any

import pytest

from prefloop.errors import InputError
from prefloop.rewards import text


def test_lengths() -> None:
    assert text.words(["one two  three", ""]) == [3.0, 0.0]
    assert text.characters(["abc", ""]) == [3.0, 0.0]
    assert text.length_between(2, 4)(["a", "a b", "a b c d", "a b c d e f"]) == [-0.5, 0.0, 0.0, -0.5]
    with pytest.raises(InputError, match="needs 0 <= at_least <= at_most, got 5 and 4"):
        text.length_between(5, 4)


def test_repetition_is_the_share_of_ngrams_said_before() -> None:
    """`a b a b a b` has four 3-grams, two of them different; distinct-2 over both texts: ab ba ab | ab -> 2 of 4."""
    assert text.repetition(3)(["a b a b a b", "a b c d", "a b"]) == [0.5, 0.0, 0.0]
    assert text.distinct(["a b a b", "A b"], 2) == 0.5
    assert text.distinct(["a"], 2) == 1.0


def test_patterns_and_phrases() -> None:
    assert text.pattern(r"\d+")(["x 12", "x"]) == [1.0, 0.0]
    assert text.pattern(r"\d+", whole=True)(["x 12", "12"]) == [0.0, 1.0]
    assert text.phrases(["thank you", "please"])(["Please, please thank  you", "THANK YOU", "pleased"]) == [
        2.0,
        1.0,
        0.0,
    ]
    with pytest.raises(InputError, match="is no regular expression"):
        text.pattern("(")
    with pytest.raises(InputError, match="at least one phrase"):
        text.phrases([])


def test_the_last_number_is_the_answer() -> None:
    said = ["3 + 4 = 7", "It is seven.", "7, no: 8", "none", "x", "7.5"]
    assert text.exact_number()(said, answer=[7, "7", 7, 7, None, 7.5]) == [1.0, 1.0, 0.0, 0.0, None, 1.0]
    with pytest.raises(InputError, match="reads the column 'answer'; the data have subset"):
        text.exact_number()(["1"], subset=["a"])


def test_json_that_fits_its_schema() -> None:
    schema = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    score = text.json_schema(schema)
    said = ['{"name": "a"}', 'Here:\n```json\n{"name": "b"}\n```', '{"name": 3}', "[" * 100_000, "name"]
    assert score(said) == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert text.json_schema(column="schema")(['"x"', "3"], schema=['{"type": "string"}', None]) == [1.0, None]
    with pytest.raises(InputError, match="either a schema or the column"):
        text.json_schema()


def test_code_is_run_against_its_cases() -> None:
    double = "Sure:\n```python\ndef f(x):\n    return 2 * x\n```\nIt doubles."
    cases: Any = [[[2], 4], [[3], 6], [[4], 16]]
    evil = "import os\ndef f(x):\n    os.remove('/etc/passwd')"
    scores = text.code_cases()([double, "def f(x):\n    return x", evil, "no code", double], cases=[cases] * 4 + [None])
    assert scores == [pytest.approx(2 / 3), 0.0, 0.0, 0.0, None]


def test_the_task_worlds_checker_is_a_reward() -> None:
    spec = {"a": 2, "b": 3, "answer": 5}
    scores = text.task(
        ["It is 5.", "It is 6.", "x"], family=["arithmetic", "arithmetic", None], spec=[spec, spec, None]
    )
    assert scores == [1.0, 0.1, None]
