"""Which features preferences follow: planted coefficients are found, and only those; features of known texts."""

import numpy as np
import pytest

from prefloop.errors import InputError
from prefloop.evaluation.preferences import FEATURES, features, followed, logistic


def test_features_of_known_texts():
    told = dict(
        zip(FEATURES, features("Which fruit is best?", "Perhaps an apple is best! Please try it."), strict=True)
    )
    assert told["length"] == pytest.approx(np.log1p(40))
    assert told["hedging"] == pytest.approx(1 / 8)
    assert told["politeness"] == pytest.approx(1 / 8)
    assert told["exclamation"] == pytest.approx(1 / 8)
    assert told["overlap with the prompt"] == pytest.approx(1 / 4)  # best; of perhaps, apple, best, please
    assert told["format"] == told["question back"] == told["refusal"] == told["numbers"] == 0


def test_features_of_lists_and_refusals():
    told = dict(zip(FEATURES, features("x", "- one\n- two\n**three**"), strict=True))
    assert told["format"] == pytest.approx(np.log1p(4))
    assert dict(zip(FEATURES, features("x", "I'm sorry, but I can't. Why?"), strict=True))["refusal"] == 1.0


def test_logistic_is_at_the_maximum():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 3))
    y = (rng.random(500) < 1 / (1 + np.exp(-x @ np.array([1.0, -0.5, 0.0])))).astype(float)
    b = logistic(x, y, np.ones(500))
    p = 1 / (1 + np.exp(-x @ b))
    assert x.T @ (y - p) - b == pytest.approx(np.zeros(3), abs=1e-4)


def test_planted_coefficients_are_found_within_their_intervals():
    """People follow the first feature with 1 per standard deviation and not the second; the model the other way."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4000, 3)) * np.array([2.0, 0.5, 0.0])
    by_first, by_second = (1 / (1 + np.exp(-z)) for z in (x[:, 0] / 2, x[:, 1] / 0.5))
    people = (rng.random(4000) < by_first).astype(float)
    groups = [i // 2 for i in range(4000)]
    found = followed(x, {"people": people, "model": by_second}, groups, names=("a", "b", "c"))
    for feature, who, truth in (("a", "people", 1.0), ("b", "people", 0.0), ("a", "model", 0.0), ("b", "model", 1.0)):
        one = found[feature][who]
        assert one["low"] - 0.02 <= truth <= one["high"] + 0.02
        assert one["high"] - one["low"] < 0.2
    assert found["c"] == {"people": None, "model": None}


def test_bad_shapes_are_named():
    with pytest.raises(InputError, match="need 1 names"):
        followed(np.zeros((2, 3)), {"people": np.zeros(2)}, [0, 1], names=("a",))
