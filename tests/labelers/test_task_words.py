"""The vocabulary: word forms, and functions under other names."""

from __future__ import annotations

from random import Random

import pytest

from prefloop.labelers.task_words import FUNCTIONS, TOPICS, camel, fill, gerund, infinitive, java_source, python_source
from prefloop.rewards.checkers import IDEAS


@pytest.mark.parametrize(
    ("verb", "base", "ing"),
    [
        ("adds two integers", "add two integers", "adding two integers"),
        ("multiplies two numbers", "multiply two numbers", "multiplying two numbers"),
        ("squares a number", "square a number", "squaring a number"),
        ("sums two integers", "sum two integers", "summing two integers"),
        ("computes the factorial of an integer", "compute the factorial of an integer", None),
        ("checks if a number is even", "check if a number is even", "checking if a number is even"),
    ],
)
def test_word_forms(verb: str, base: str, ing: str | None) -> None:
    assert infinitive(verb) == base
    assert gerund(verb) == (ing or "computing the factorial of an integer")


def test_parameters_and_functions_are_renamed_as_whole_words() -> None:
    assert python_source(FUNCTIONS["max"], "larger", ("b", "a")) == ("def larger(b, a):\n    return b if b > a else a")
    assert python_source(FUNCTIONS["factorial"], "fact", ("x",)) == (
        "def fact(x):\n    return 1 if x < 2 else x * fact(x - 1)"
    )
    assert java_source(FUNCTIONS["add"], "add", ("x", "y"), cls="Add") == (
        "class Add {\n    static int add(int x, int y) {\n        return x + y;\n    }\n}"
    )


def test_names_in_java() -> None:
    assert camel("sum_list") == "sumList"
    assert camel("add") == "add"


def test_slots_are_filled() -> None:
    for seed in range(30):
        text = fill("{day} and {day2}: {title_name}, {thing}, {years}, {date}", Random(seed))
        assert "{" not in text
        first, second = text.split(":")[0].split(" and ")
        assert first != second


def test_every_function_has_a_ground_truth() -> None:
    assert set(FUNCTIONS) == set(IDEAS)


def test_topics_have_vocabulary() -> None:
    assert len(TOPICS) == 16
    for topic in TOPICS.values():
        assert len(topic.details) >= 5
        assert all(slot.startswith(" ") for slot in topic.slots)
