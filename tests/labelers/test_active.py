"""What an answer would teach: zero where all members agree, and the largest where they are sure of opposite things."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from prefloop.labelers.active import information, worth_asking
from prefloop.records import Message, Messages


def h(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_disagreement_by_hand() -> None:
    """H(mean) - mean of H: nothing for members that agree, however unsure; log 2 - H(0.9) for 0.9 against 0.1."""
    found = information(np.array([[0.7, 0.7], [0.9, 0.1], [0.5, 0.5], [0.9, 0.5]]))
    assert found.tolist() == pytest.approx([0.0, math.log(2) - h(0.9), 0.0, h(0.7) - (h(0.9) + h(0.5)) / 2], abs=1e-9)


def test_of_one_model_it_is_the_entropy() -> None:
    assert information(np.array([[0.5], [0.9], [1.0]])).tolist() == pytest.approx([math.log(2), h(0.9), 0.0], abs=1e-9)


class Fixed:
    """Members' scores by the text."""

    temperature = 2.0

    def __init__(self, scores: dict[str, list[float]]) -> None:
        self.scores = scores

    def members(self, prompts: Sequence[Messages], completions: Sequence[str]) -> torch.Tensor:
        return torch.tensor([self.scores[text] for text in completions])


def test_pairs_of_one_prompt_the_most_contested_first() -> None:
    """Members say 4 and -4 of x over y (P = 0.88 and 0.12 at temperature 2), and agree about the others."""
    groups: list[tuple[list[Message], list[str]]] = [
        ([{"role": "user", "content": "one"}], ["x", "y", "z"]),
        ([{"role": "user", "content": "two"}], ["u", "v"]),
    ]
    reward = Fixed({"x": [4.0, -4.0], "y": [0.0, 0.0], "z": [4.0, -4.0], "u": [9.0, 9.0], "v": [0.0, 0.0]})
    found = worth_asking(reward, groups, most=3)
    assert [(one["a"], one["b"]) for one in found] == [("x", "y"), ("y", "z"), ("x", "z")]
    sure = 1 / (1 + math.exp(-2))
    assert found[0]["information"] == pytest.approx(math.log(2) - h(sure))
    assert found[0]["probability"] == pytest.approx(0.5)
    assert found[2]["information"] == pytest.approx(0.0, abs=1e-9)
    assert [one["members"] for one in found] == [2, 2, 2]
    assert found[0]["prompt"] == groups[0][0]
