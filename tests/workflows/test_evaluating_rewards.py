"""`evaluate` of a reward model, from files to figures and to the page: decay, what to ask next, tokens, features."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import prefloop
from prefloop.errors import InputError
from prefloop.rewards.composition import compose
from prefloop.rewards.learned import LearnedReward
from prefloop.workflows.training import train
from tests.small import FRUITS, settings_of, write_inputs, write_pairs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = write_inputs(tmp_path_factory.mktemp("inputs"))
    settings = settings_of("reward_model", folder, epochs=12, lr=3e-3, members=2)
    train("reward_model", out=folder / "taste", overrides=settings, log=lambda words: None)
    write_pairs(folder / "test.jsonl", 16)
    return folder


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_everything_is_measured_and_shown(folder: Path, tmp_path: Path) -> None:
    """The policy's own answers are judged the other way round: the accuracy there is what is left."""
    pairs = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in pairs]
    own = write(tmp_path / "own.jsonl", turned)
    asked = [{"prompt": f"Which fruit, number {i}?", "completions": FRUITS[i : i + 3]} for i in range(4)]
    result = prefloop.evaluate(
        str(folder / "taste"),
        comparisons=folder / "test.jsonl",
        own=own,
        samples=write(tmp_path / "samples.jsonl", asked),
        report=tmp_path / "page.html",
        device="cpu",
        dtype="float32",
    )
    assert result["accuracy"] > 0.8
    decay = result["decay"]
    assert decay["here"]["value"] == pytest.approx(result["accuracy"])
    assert decay["own"]["value"] == pytest.approx(1 - result["accuracy"])
    assert decay["difference"]["high"] < 0
    gains = [one["information"] for one in result["ask_next"]]
    assert len(gains) == 12  # three pairs of each of four prompts
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 0
    assert {one["members"] for one in result["ask_next"]} == {2}
    assert len(result["credit"]) >= 2
    for one in result["credit"]:
        for side in one["texts"]:
            assert sum(value for _, value in side["tokens"]) == pytest.approx(side["score"], abs=1e-4)
        better, worse = sorted(one["texts"], key=lambda side: not side["preferred"])
        assert (better["score"] > worse["score"]) == one["right"]
    page = (tmp_path / "page.html").read_text()
    for words in ("What preferences follow", "Worth asking next", "own answers", "Which tokens earned the score"):
        assert words in page


def test_a_model_without_a_snapshot_or_that_learned_from_the_test_needs_other_pairs(
    folder: Path, tmp_path: Path
) -> None:
    prefloop.init(tmp_path)
    with pytest.raises(InputError, match="trained on 0 snapshots that are in this workspace.*--comparisons"):
        prefloop.evaluate(str(folder / "taste"), workspace=tmp_path)
    watcher = settings_of("reward_model", folder, learn_from="held_out", test_share=0.3)
    prefloop.train("reward_model", out=tmp_path / "watcher", overrides=watcher, log=lambda words: None)
    with pytest.raises(InputError, match="learned from what was held out"):
        prefloop.evaluate(str(tmp_path / "watcher"), workspace=tmp_path)


def test_own_and_samples_need_a_reward_model_to_look_through(folder: Path) -> None:
    with pytest.raises(InputError, match="looked at through a reward model"):
        prefloop.evaluate(str(folder / "policy"), against=str(folder / "policy"), own=folder / "test.jsonl")


def test_a_reward_of_parts_is_measured_like_a_model(folder: Path, tmp_path: Path) -> None:
    """The mean of the model and itself is the model; a part may read a column; all heads are asked."""
    (tmp_path / "mine.yaml").write_text(
        f"reward:\n  taste: {{learned: ['{folder / 'taste'}', '{folder / 'taste'}'], weight: 0.5}}\n"
        "  right: {function: 'prefloop.rewards.text:exact_number', arguments: {column: answer}, weight: 100}\n"
    )
    pairs = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    numbered = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "answer": 4}
    test = write(tmp_path / "test.jsonl", [*pairs, numbered])
    options: dict[str, Any] = {"device": "cpu", "dtype": "float32"}
    model = prefloop.evaluate(str(folder / "taste"), comparisons=folder / "test.jsonl", **options)
    asked = write(tmp_path / "samples.jsonl", [{"prompt": "Which fruit?", "completions": FRUITS[:3]}])
    parts = prefloop.evaluate(
        str(tmp_path / "mine.yaml"), comparisons=test, samples=asked, report=tmp_path / "page.html", **options
    )
    assert [one["members"] for one in parts["ask_next"]] == [4, 4, 4]  # two heads of each of two models
    assert parts["n"] == model["n"] + 1
    assert parts["accuracy"] == pytest.approx((model["accuracy"] * model["n"] + 1) / parts["n"])
    assert parts["stored_temperature"] == 1.0
    assert parts["credit"] == []
    assert "Reward model mine.yaml" in (tmp_path / "page.html").read_text()
    (tmp_path / "plain.yaml").write_text("long: {function: 'prefloop.rewards.text:characters'}\n")
    with pytest.raises(InputError, match="has no reward model among its parts"):
        prefloop.evaluate(str(tmp_path / "plain.yaml"), comparisons=test, samples=test, **options)


def test_what_groups_of_annotators_say_is_measured_apart(folder: Path, tmp_path: Path) -> None:
    """Two people of unlike taste about the same pairs: neither is a repeat of the other."""
    pairs = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    rows = [
        {**row, **sides, "annotator": who, "annotator_group": group}
        for row in pairs
        for who, group, sides in (
            ("ann", "like us", {}),
            ("bob", "unlike us", {"chosen": row["rejected"], "rejected": row["chosen"]}),
        )
    ]
    found = prefloop.evaluate(
        str(folder / "taste"), comparisons=write(tmp_path / "t.jsonl", rows), device="cpu", dtype="float32"
    )
    groups = found["slices"]["annotator_group"]
    assert found["n"] == 2 * len(pairs)
    assert groups["like us"]["value"] == pytest.approx(1 - groups["unlike us"]["value"])
    assert groups["like us"]["value"] > 0.8


def test_a_policy_is_judged_by_one_criterion(folder: Path, tmp_path: Path) -> None:
    """Two criteria that people answer in opposite ways: who wins by the one loses by the other."""
    pairs = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    rows = [{**row, "criterion": "sweet"} for row in pairs]
    rows += [{**row, "chosen": row["rejected"], "rejected": row["chosen"], "criterion": "sour"} for row in pairs]
    file = write(tmp_path / "pairs.jsonl", rows)
    changes = {"data": str(file), "freeze": True, "reads": "answer", "criteria": ["sweet", "sour"], "test_share": 0.0}
    train(
        "reward_model",
        out=tmp_path / "two",
        overrides=settings_of("reward_model", folder, **changes),
        log=lambda words: None,
    )
    asked = {"against": str(folder / "policy"), "prompts": [f"Which fruit, number {i}?" for i in range(6)]}
    given = {**asked, "max_new_tokens": 8, "device": "cpu", "dtype": "float32"}
    judge, policy = str(tmp_path / "two"), str(folder / "policy")
    sweet, sour = (
        prefloop.evaluate(policy, judged_by=judge, criterion=one, temperature=2.0, **given) for one in ("sweet", "sour")
    )
    assert sweet["criterion"] == "sweet"
    assert sweet["win_rate"]["value"] + sour["win_rate"]["value"] == pytest.approx(1.0)
    assert sweet["win_rate"]["ties"] < 6
    with pytest.raises(
        InputError, match="learned nothing, as all of its rows were about criteria; name one as the crit"
    ):
        prefloop.evaluate(policy, judged_by=judge, **given)
    with pytest.raises(InputError, match="criterion: unknown .bitter.; known: sour, sweet"):
        prefloop.evaluate(policy, judged_by=judge, criterion="bitter", **given)
    for asked_of in (given, {"comparisons": file}):
        with pytest.raises(InputError, match="criterion 'sweet' is that of a judge of policies that is a reward model"):
            prefloop.evaluate(policy, criterion="sweet", **asked_of)
    model = LearnedReward(tmp_path / "two", torch.float32, torch.device("cpu"))
    with pytest.raises(InputError, match="taste: the score itself of .* learned nothing"):
        compose({"taste": {"learned": "two"}}, lambda ref: model)
    assert compose({"taste": {"learned": "two", "criterion": "sour"}}, lambda ref: model).parts
