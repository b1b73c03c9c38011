"""The tasks of the field: their rewards by hand, and what counts as the same task in the races of online methods."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import increasing, sentiment
from benchmarks.peers import online


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 2 3", 0.3),  # fewer than ten words count as ten
        ("5 4 9", 0.1),
        ("5 5 9", 0.1),
        (" ".join(map(str, range(12))), 1.0),
        (" ".join(map(str, [*range(12), 3, 4, 5, 6])), 12 / 16),
        ("one 1 two 2", 0.2),
        ("none at all", 0.0),
        ("", 0.0),
    ],
)
def test_increasing_numbers(text: str, expected: float) -> None:
    assert increasing.reward([text]) == [pytest.approx(expected)]


def test_a_review_is_begun_with_eight_words() -> None:
    words = [f"w{i}" for i in range(60)]
    rows = sentiment.begun([" ".join(words), " ".join(words[:10])])
    assert rows == [{"prompt": " ".join(words[:8]), "completion": " " + " ".join(words[8:40])}]


def test_the_classifier_says_the_same_after_it_was_stored(tmp_path: Path) -> None:
    """Good and bad words of its own making: it is right about all that it has not seen, from the files alone."""
    stream = np.random.default_rng(0)
    rows = []
    for i in range(400):
        good = i % 2 == 0
        mood = stream.choice(["good", "great", "fine"] if good else ["bad", "awful", "dull"], 4)
        text = " ".join([*mood, *stream.choice(["the", "film", "was", "it"], 8)])
        rows.append({"id": i, "label": "pos" if good else "neg", "text": text})
    found = sentiment.learn_classifier(tmp_path / "classifier", rows, 100)
    assert found["accuracy"]["value"] == 1.0
    truth = sentiment.Sentiment(str(tmp_path / "classifier"))
    prompts = [[{"role": "user", "content": "the film was"}]] * 2
    better, worse = truth(prompts, ["great", "awful"])
    assert better > 1 > -1 > worse


def test_sides_that_disagree_are_not_the_same_task() -> None:
    here = {"reward": 0.5, "advantage": 0.2, "loss": 1e-5}
    assert online.agreement("rloo", here, {**here, "loss": -1e-5}, 1e-3)["reward"] == (0.5, 0.5)
    with pytest.raises(RuntimeError, match="rloo: of the same completions prefloop's loss is 1e-05, TRL's 0.001"):
        online.agreement("rloo", here, {**here, "loss": 1e-3}, 1e-3)
    with pytest.raises(RuntimeError, match="prefloop's reward is 0.5"):
        online.agreement("rloo", here, {**here, "reward": 0.51}, 1e-3)
