"""Parts are weighted, multiplied, gated, thresholded and constrained as written; numbers worked by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from prefloop.errors import InputError, RunError
from prefloop.records import as_messages, prompt_id
from prefloop.rewards.composition import Function, compose, imported, scored

PROMPTS = [as_messages("one"), as_messages("two"), as_messages("three")]
TEXTS = ["a", "bb", "cccc"]
"""Lengths 1, 2 and 4."""


def length(completions: list[str], **columns: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def no_models(ref: str) -> Any:
    raise AssertionError(f"nothing here asks for a reward model, got {ref}")


def made(**spec: Any) -> Any:
    return compose(spec, no_models)


def test_a_weighted_sum() -> None:
    reward = made(
        long={"function": "prefloop.rewards.text:characters", "weight": 2.0},
        b={"function": "prefloop.rewards.text:pattern", "arguments": {"pattern": "b"}, "weight": -0.5},
    )
    found = reward.score(PROMPTS, TEXTS)
    assert found.total == [2.0, 3.5, 8.0]
    assert found.parts == {"long": [1.0, 2.0, 4.0], "b": [0.0, 1.0, 0.0]}
    assert reward(PROMPTS, TEXTS) == found.total


def test_a_product_a_threshold_and_a_clip() -> None:
    long = {"function": "prefloop.rewards.text:characters"}
    reward = made(
        both={"product": {"square": long, "again": long}},
        enough={**long, "threshold": 2.0, "weight": 10.0},
        little={**long, "clip": [1.5, 3.0], "weight": 100.0},
    )
    assert reward(PROMPTS, TEXTS) == [1 + 0 + 150, 4 + 10 + 200, 16 + 10 + 300]
    assert reward.score(PROMPTS, TEXTS).parts["both.square"] == [1.0, 2.0, 4.0]


def test_a_gate_decides_the_whole_reward() -> None:
    gate = {"function": "prefloop.rewards.text:characters", "at_least": 2, "otherwise": -7.0, "weight": 0.0}
    assert made(gate=gate, always=lambda completions: [5.0] * 3)(PROMPTS, TEXTS) == [-7.0, 5.0, 5.0]


def test_a_sum_inside_a_sum() -> None:
    long = {"function": "prefloop.rewards.text:characters"}
    assert made(style={"sum": {"a": long, "b": {**long, "weight": 3.0}}, "weight": 0.5})(PROMPTS, TEXTS) == [2, 4, 8]


def test_a_constraint_is_priced_as_in_safe_rlhf() -> None:
    """(r - l c) / (1 + l) with l = 3; then the mean cost 7/3 is 1/3 above its limit: ln l rises by 0.1 * 3 / 3."""
    reward = made(
        good=lambda completions: [8.0] * 3,
        cost={"function": "prefloop.rewards.text:characters", "limit": 2.0, "multiplier": 3.0, "multiplier_lr": 0.1},
    )
    found = reward.score(PROMPTS, TEXTS)
    assert found.total == [(8 - 3) / 4, (8 - 6) / 4, (8 - 12) / 4]
    assert reward.state() == {"rewards/cost/multiplier": 3.0}
    reward.adapt(found.parts)
    assert reward.multipliers["cost"] == pytest.approx(3 * math.exp(0.1))
    reward.load_state({"rewards/cost/multiplier": 0.25})
    assert reward.multipliers == {"cost": 0.25}


def test_none_does_not_apply_and_is_not_counted() -> None:
    some = {"sometimes": lambda completions: [None, 2.0, None], "always": lambda completions: [1.0, 1.0, 1.0]}
    found = made(**some).score(PROMPTS, TEXTS)
    assert found.total == [1.0, 3.0, 1.0]
    assert [math.isnan(value) for value in found.parts["sometimes"]] == [True, False, True]
    with pytest.raises(RunError, match="no part of the reward applies to the completion 'a'"):
        made(sometimes=lambda completions: [None, 2.0, None])(PROMPTS, TEXTS)


def test_columns_come_by_the_prompt() -> None:
    table = {prompt_id(PROMPTS[0]): {"answer": "x"}, prompt_id(PROMPTS[2]): {"answer": "y", "more": 1}}
    seen: dict[str, Any] = {}

    def look(completions: list[str], answer: list[Any], **columns: Any) -> list[float]:
        seen.update(columns, answer=answer)
        return [0.0] * len(completions)

    compose({"look": look}, no_models, columns=table)(PROMPTS, TEXTS)
    assert seen["answer"] == ["x", None, "y"]
    assert seen["more"] == [None, None, 1]
    assert seen["prompts"] == PROMPTS


def test_functions_are_called_as_trl_calls_them() -> None:
    """By keyword, with the columns they name; as messages where asked; by position where they use other names."""

    def chat(prompts: Any, completions: Any, **kwargs: Any) -> list[float]:
        return [float(len(c[0]["content"])) for c in completions if c[0]["role"] == "assistant"]

    assert Function("chat", chat, messages=True).score(PROMPTS, TEXTS, other=[1, 2, 3]).total == [1.0, 2.0, 4.0]
    assert scored(
        lambda asked, said: [len(a) + len(s) for a, s in zip(asked, said, strict=True)], PROMPTS, TEXTS
    ).total == [2, 3, 5]
    assert scored(length, PROMPTS, TEXTS).total == [1.0, 2.0, 4.0]
    with pytest.raises(InputError, match="'r' reads 'answer', which is no column of the data; there are: completions"):
        Function("r", lambda completions, answer: answer).score(PROMPTS, TEXTS)
    with pytest.raises(RunError, match="'short' gave 1 scores for 3 completions"):
        Function("short", lambda completions: [1.0]).score(PROMPTS, TEXTS)


def test_a_module_beside_the_run_file(tmp_path: Path) -> None:
    (tmp_path / "mine_for_this_test.py").write_text(
        "def score(completions, **kwargs):\n    return [3.0] * len(completions)\n"
    )
    reward = compose({"mine": {"function": "mine_for_this_test:score"}}, no_models, base=tmp_path)
    assert reward(PROMPTS, TEXTS) == [3.0, 3.0, 3.0]


def test_learned_parts_are_loaded_by_their_name() -> None:
    reward = compose({"rm": {"learned": "my-rm"}}, lambda ref: lambda completions: [float(len(ref))] * 3)
    assert reward(PROMPTS, TEXTS) == [5.0, 5.0, 5.0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "must name its parts"),
        ({"a": 3}, "reward: a must be a mapping such as"),
        ({"a": {"weight": 2}}, "needs one of learned, function, sum and product; it has none"),
        ({"a": {"learned": "x", "function": "y:z"}}, "it has learned and function"),
        ({"a": {"function": "math:sqrt", "wieght": 2}}, "unknown setting 'wieght'; did you mean 'weight'?"),
        ({"a": {"function": "no_such_module_here:f"}}, "no function at 'no_such_module_here:f'"),
        ({"a": {"function": "math:pi"}}, "'math:pi' is a float, not a function"),
        ({"a": {"function": "math"}}, "a function is given as module:name, got 'math'"),
        ({"a": {"function": "math:sqrt", "clip": [1, 1]}}, r"clip must be \[low, high\] with low < high"),
        ({"a": {"function": "math:sqrt", "criterion": "brief"}}, "only a reward model has criteria"),
        ({"a": {"learned": ["x"], "trunk": "shared", "criterion": "brief"}}, "one score each; leave `criterion` out"),
        ({"a": {"function": "math:sqrt", "limit": 1}}, "has constraints only"),
        (
            {"a": {"sum": {"b": length, "c": {"function": "math:sqrt", "limit": 1}}}},
            "constraints stand at the top level",
        ),
    ],
)
def test_what_is_wrong_is_said(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compose(spec, no_models)


def test_imported_gives_the_function_itself() -> None:
    assert imported("math:sqrt") is math.sqrt
