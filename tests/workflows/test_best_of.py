"""The best of n by one reward, told by another: against what can be counted from the samples themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

import prefloop
from prefloop.errors import InputError
from prefloop.evaluation.overoptimization import best_of_n_kl
from prefloop.generation.policy import Policy
from prefloop.generation.sampler import Sampling
from prefloop.records import as_messages

PROMPTS = [f"Which fruit, number {i}?" for i in range(5)]


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long answers, and short ones: whoever picks by the first loses by the second."""
    folder = tmp_path_factory.mktemp("rewards")
    (folder / "long.yaml").write_text("long: {function: 'prefloop.rewards.text:characters'}\n")
    (folder / "short.yaml").write_text("short: {function: 'prefloop.rewards.text:characters', weight: -1.0}\n")
    return folder


def test_the_best_by_length_is_the_longest_and_the_worst_by_brevity(tiny_model: Path, rewards: Path) -> None:
    """n = 1 is the mean of the samples, n = 6 the longest of each prompt's; what is lost is what the other gains."""
    options = {"device": "cpu", "dtype": "float32"}
    found = prefloop.best_of(
        str(tiny_model),
        rewards / "long.yaml",
        rewards / "short.yaml",
        prompts=PROMPTS,
        samples=6,
        max_new_tokens=5,
        seed=3,
        **options,
    )
    asked = [as_messages(prompt) for prompt in PROMPTS]
    groups = Policy(str(tiny_model), **options).answer(asked, 6, Sampling(max_new_tokens=5), seed=3)
    lengths = [[len(answer.text) for answer in group] for group in groups]
    assert [row["n"] for row in found["rows"]] == [1, 2, 4, 6]
    assert [row["kl"] for row in found["rows"]] == [best_of_n_kl(n) for n in (1, 2, 4, 6)]
    one, *_, last = found["rows"]
    assert one["reward"]["value"] == pytest.approx(sum(map(sum, lengths)) / 30)
    assert last["reward"]["value"] == pytest.approx(sum(map(max, lengths)) / 5)
    for row in found["rows"]:
        assert row["held_out"]["value"] == pytest.approx(-row["reward"]["value"])
        assert row["reward"]["n"] == 5
        assert row["reward"]["low"] <= row["reward"]["value"] <= row["reward"]["high"]
    assert found["curve"]["alpha"] < 0
    assert found["peak"] is None


def test_what_is_wrong_is_said(tiny_model: Path, rewards: Path) -> None:
    same = (str(tiny_model), rewards / "long.yaml", rewards / "short.yaml")
    with pytest.raises(InputError, match="samples must be 2 or more, got 1"):
        prefloop.best_of(*same, prompts=PROMPTS, samples=1)
    with pytest.raises(InputError, match="no prompt leaves room for an answer of 4000 tokens"):
        prefloop.best_of(*same, prompts=PROMPTS, max_new_tokens=4000, device="cpu")
