"""The tasks of the field: their rewards by hand, and what counts as the same task in the races of online methods."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import increasing, sentiment
from benchmarks.peers import online
from prefloop.algorithms import METHODS
from prefloop.settings import build_together, read_yaml


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


@pytest.mark.parametrize(("table", "run"), [("DIRECT", "pairs"), ("LOGGED", "log"), ("ONLINE", "online")])
def test_every_run_of_the_frontier_has_settings_that_its_method_knows(table: str, run: str) -> None:
    names = []
    for method, several in getattr(sentiment, table).items():
        for own in several:
            way = METHODS[method]
            values = {**way.defaults, **read_yaml(sentiment.RUNS / f"sentiment_{run}.yaml"), **own}
            build_together(way.settings, values)
            names.append((method, own.get("beta")))
    assert len(names) == len(set(names))


def seed_of(folder: Path, seed: int, rows: dict[str, tuple[float, float]], tiny: bool = False) -> Path:
    found = [{"run": run, "reward": {"value": r}, "kl": {"value": k}} for run, (k, r) in rows.items()]
    folder.mkdir()
    (folder / "frontier.json").write_text(json.dumps({"seed": seed, "tiny": tiny, "rows": found}))
    return folder


def test_seeds_are_joined_in_one_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1, 2 and 3 have mean 2 and standard deviation 1; what only two seeds have is left out."""
    rows = [{"sft": (0.0, -1.0), "ppo-0.1": (k, r)} for k, r in ((1.0, 4.0), (2.0, 4.5), (3.0, 5.0))]
    folders = [
        seed_of(tmp_path / f"{i}", i, {**row, **({"dpo": (1.0, 1.0)} if i else {})}) for i, row in enumerate(rows)
    ]
    found = sentiment.joined(folders, tmp_path)
    sft, ppo = found["rows"]
    assert (sft["kl"], sft["reward"]["value"]) == ({"value": 0.0, "low": 0.0, "high": 0.0}, -1.0)
    assert ppo["kl"] == {"value": 2.0, "low": 1.0, "high": 3.0}
    assert ppo["reward"] == {"value": 4.5, "low": 4.0, "high": 5.0}
    assert ppo["reward of each seed"] == [4.0, 4.5, 5.0]
    assert "ppo-0.1: KL 2.000 ± 1.000, reward 4.500 ± 0.500" in capsys.readouterr().out
    assert json.loads((tmp_path / "seeds.json").read_text()) == found
    assert "ppo-0.1" in (tmp_path / "seeds.html").read_text()
    with pytest.raises(SystemExit, match="were tried with --tiny"):
        sentiment.joined([folders[0], seed_of(tmp_path / "tiny", 7, rows[0], tiny=True)], tmp_path)


def test_sides_that_disagree_are_not_the_same_task() -> None:
    here = {"reward": 0.5, "advantage": 0.2, "loss": 1e-5}
    assert online.agreement("rloo", here, {**here, "loss": -1e-5}, 1e-3)["reward"] == (0.5, 0.5)
    with pytest.raises(RuntimeError, match="rloo: of the same completions prefloop's loss is 1e-05, TRL's 0.001"):
        online.agreement("rloo", here, {**here, "loss": 1e-3}, 1e-3)
    with pytest.raises(RuntimeError, match="prefloop's reward is 0.5"):
        online.agreement("rloo", here, {**here, "reward": 0.51}, 1e-3)


def test_increasing_numbers_goes_on_where_it_was_cut_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = increasing.main(1, 2, ["reinforce"], tmp_path, 32)
    kept = (tmp_path / "reinforce-0" / "manifest.json").read_bytes()
    both = increasing.main(1, 2, ["reinforce", "rft"], tmp_path, 32)
    assert (tmp_path / "reinforce-0" / "manifest.json").read_bytes() == kept
    assert both["methods"]["reinforce"] == first["methods"]["reinforce"]
    assert len(both["methods"]["rft"]["curve"]) == 2
    assert json.loads((tmp_path / "increasing.json").read_text()) == both
    assert ">rft</text>" in (tmp_path / "increasing.svg").read_text()
    with pytest.raises(SystemExit, match="was trained for 2 rollouts, not 3"):
        increasing.main(1, 3, ["rft"], tmp_path, 32)
