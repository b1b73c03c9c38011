"""Averages of reward models, and labels of what one is sure of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import prefloop
from prefloop.errors import InputError
from prefloop.rewards.learned import LearnedReward
from prefloop.workflows import rewards
from tests.small import write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def copy_of(inputs: Path, folder: Path, change: float) -> str:
    """The reward model of `inputs` with every weight moved by `change` times itself, and a bias of `change`."""
    import shutil

    shutil.copytree(inputs / "rm", folder)
    weights = {
        name: (w.float() * (1 + change)).to(w.dtype) for name, w in load_file(folder / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "prefloop_reward_bias": change}))
    return str(folder)


def test_the_average_of_copies_is_the_copy(inputs: Path, tmp_path: Path) -> None:
    models = [copy_of(inputs, tmp_path / f"{i}", 0.0) for i in range(3)]
    prefloop.average(models, out=tmp_path / "mean")
    ours, theirs = (load_file(Path(f) / "model.safetensors") for f in (tmp_path / "mean", models[0]))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    prompts = [[{"role": "user", "content": "Hello?"}]]
    device = torch.device("cpu")
    scores = [LearnedReward(f, torch.float32, device)(prompts, ["hi"]) for f in (tmp_path / "mean", models[0])]
    assert scores[0] == scores[1]


def test_the_average_is_of_weights_and_of_biases(inputs: Path, tmp_path: Path) -> None:
    models = [copy_of(inputs, tmp_path / "a", -0.25), copy_of(inputs, tmp_path / "b", 0.25)]
    prefloop.average(models, out=tmp_path / "mean")
    mean, stored = load_file(tmp_path / "mean" / "model.safetensors"), load_file(inputs / "rm" / "model.safetensors")
    for name, weight in stored.items():
        # honest: 0.75 w and 1.25 w were each rounded to bfloat16, eight bits
        torch.testing.assert_close(mean[name].float(), weight.float(), rtol=0.01, atol=1e-4)
    assert json.loads((tmp_path / "mean" / "config.json").read_text())["prefloop_reward_bias"] == 0.0


def test_an_average_needs_two_models_of_one_shape(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least two models, got 1"):
        prefloop.average([str(inputs / "rm")], out=tmp_path / "mean")
    other = copy_of(inputs, tmp_path / "other", 0.0)
    weights = load_file(Path(other) / "model.safetensors")
    weights["score.weight"] = torch.zeros(1, 8)
    save_file(weights, Path(other) / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"differ in score\.weight"):
        prefloop.average([str(inputs / "rm"), other], out=tmp_path / "mean")


def test_what_a_model_is_sure_of_becomes_a_file_to_train_on(inputs: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}?", "completion": text} for i in range(5) for text in ("yes", "no way", "perhaps so")]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    all_of_them = prefloop.label_what_is_sure(
        str(inputs / "rm"), tmp_path / "samples.jsonl", tmp_path / "sure.jsonl", confidence=0.5, device="cpu"
    )
    assert (all_of_them["pairs"], all_of_them["kept"]) == (10, 10)
    row = json.loads((tmp_path / "sure.jsonl").read_text().splitlines()[0])
    assert row["annotators"] == ["ai:rm"]
    none = prefloop.label_what_is_sure(
        str(inputs / "rm"), tmp_path / "samples.jsonl", tmp_path / "none.jsonl", confidence=1.0, device="cpu"
    )
    assert none["kept"] == 0


def test_policies_are_averaged_too(inputs: Path, tmp_path: Path) -> None:
    import shutil

    for name, factor in (("a", 0.5), ("b", 1.5)):
        shutil.copytree(inputs / "policy", tmp_path / name)
        weights = {key: w * factor for key, w in load_file(inputs / "policy" / "model.safetensors").items()}
        save_file(weights, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    made = prefloop.average([str(tmp_path / "a"), str(tmp_path / "b")], kind="policy", out=tmp_path / "mean")
    assert set(made) == {"artifact", "hash"}
    mean, stored = (load_file(f / "model.safetensors") for f in (tmp_path / "mean", inputs / "policy"))
    for name, weight in stored.items():
        # honest: half and one and a half times a weight may each have been rounded, to eight bits in bfloat16
        torch.testing.assert_close(mean[name].float(), weight.float(), rtol=0.01, atol=1e-4)
    said = prefloop.sample(str(tmp_path / "mean"), ["Hello?"], max_new_tokens=4)
    assert len(said["completions"]) == 1


def test_the_average_is_at_least_as_right_as_its_members_are_on_average() -> None:
    """WARM: six heads, each fitted to its own bootstrap of noisy comparisons; 20,000 fresh pairs, five worlds."""
    for seed in range(5):
        draw = torch.Generator().manual_seed(seed)
        truth = torch.randn(20, generator=draw)
        x, test = torch.randn(150, 20, generator=draw), torch.randn(20_000, 20, generator=draw)
        won = torch.where(torch.rand(150, generator=draw) < (x @ truth / 2).sigmoid(), 1.0, -1.0)
        members = []
        for _ in range(6):
            rows = torch.randint(150, (150,), generator=draw)
            some = x[rows] * won[rows, None]
            # The least-squares direction of the bootstrap, with ridge 1: one linear head for each member.
            members.append({"score.weight": torch.linalg.solve(some.T @ some + torch.eye(20), some.sum(0))[None]})
        right = [float(((test @ w["score.weight"][0] > 0) == (test @ truth > 0)).float().mean()) for w in members]
        mean = rewards._mean(members, [str(i) for i in range(6)])["score.weight"][0]
        assert float(((test @ mean > 0) == (test @ truth > 0)).float().mean()) >= sum(right) / 6
