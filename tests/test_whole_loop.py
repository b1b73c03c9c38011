"""The whole loop on the built-in policy, with few tasks and few steps: every arrow is walked, twice round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prefloop.artifacts.folder import list_artifacts, read_artifact
from prefloop.errors import InputError
from prefloop.store.feedback import add_prompts
from prefloop.workflows import demo as workflow
from prefloop.workflows.data import init
from prefloop.workflows.lineage import lineage
from prefloop.workflows.loop import loop
from prefloop.workflows.places import store_of, workspace_at


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "DEMONSTRATIONS", 60)
    monkeypatch.setattr(workflow, "PROMPTS_PER_ROUND", 45)
    monkeypatch.setattr(workflow, "FRESH", 12)
    monkeypatch.setattr(workflow, "ANSWER_TOKENS", 24)
    monkeypatch.setattr(workflow, "SFT", {**workflow.SFT, "epochs": 1, "eval_every": 1})
    monkeypatch.setattr(workflow, "REWARD_MODEL", {**workflow.REWARD_MODEL, "epochs": 1})
    monkeypatch.setattr(workflow, "DPO", {**workflow.DPO, "epochs": 1})
    few = {"steps": 1, "batch_size": 8, "minibatches": 1, "max_new_tokens": 24}
    monkeypatch.setattr(workflow, "PPO", {**workflow.PPO, **few})


def test_a_guard_needs_a_run_to_watch(tmp_path: Path) -> None:
    init(tmp_path)
    (tmp_path / "loop.yaml").write_text("method: dpo\nguard: {every: 2}\n", encoding="utf-8")
    with pytest.raises(InputError, match="leave guard out"):
        loop(tmp_path / "loop.yaml", rounds=1, workspace=tmp_path)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("guard: {evry: 2}", "loop.yaml: guard: unknown setting 'evry'; did you mean 'every'"),
        ("reward_model: {epochz: 2}", "loop.yaml: reward_model: unknown setting 'epochz'; did you mean 'epochs'"),
        ("train: {lr: fast}", "loop.yaml: train: lr"),
        ("train: {changes: {5: {lr: 1.0}, 3: {temprature: 1.0}}}", "temprature"),
    ],
)
def test_wrong_settings_are_found_before_anybody_is_asked(said: str, words: str, tmp_path: Path) -> None:
    init(tmp_path)
    (tmp_path / "loop.yaml").write_text(said + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=words):
        loop(tmp_path / "loop.yaml", rounds=1, workspace=tmp_path, log=lambda words: None)
    assert not list_artifacts(workspace_at(tmp_path).artifacts)


def test_a_round_asks_about_its_share_of_the_workspaces_prompts_and_waits_for_people(tmp_path: Path) -> None:
    init(tmp_path)
    with store_of(workspace_at(tmp_path)) as store:
        add_prompts(store, [{"messages": [{"role": "user", "content": f"Say {n}"}]} for n in range(5)])
    (tmp_path / "loop.yaml").write_text("prompts_per_round: 2\nper_prompt: 2\nmax_new_tokens: 4\n", encoding="utf-8")
    for _ in range(2):  # started again too early, it asks nobody twice
        with pytest.raises(InputError, match="round 1: 2 of 2 answers are still to come"):
            loop(tmp_path / "loop.yaml", rounds=1, workspace=tmp_path, log=lambda words: None)


def test_answers_that_leave_nothing_to_learn_from_are_told_so(tmp_path: Path) -> None:
    init(tmp_path)
    with store_of(workspace_at(tmp_path)) as store:
        add_prompts(store, [{"messages": [{"role": "user", "content": "Write an email requesting an interview"}]}])
    rest = "prompts_per_round: 1\nper_prompt: 2\nmax_new_tokens: 16\nby: simulated:careful\ntest_share: 0.999\n"
    (tmp_path / "loop.yaml").write_text(rest, encoding="utf-8")
    said: list[str] = []
    with pytest.raises(InputError, match="no row to train on: 1 rows, .*1 held out"):
        loop(tmp_path / "loop.yaml", rounds=1, workspace=tmp_path, log=said.append)
    assert "1 simulated answers, 0 skipped" in said
    assert not [words for words in said if "learns nothing" in words]


def test_the_demo_walks_the_loop_twice_and_everything_can_be_traced(tmp_path: Path, small: None) -> None:
    folder = tmp_path / "demo"
    result = workflow.demo(folder, seed=0, log=lambda words: None)

    assert set(result["gold"]) == {"base", "sft", "round1", "dpo", "round2", "policy"}
    assert all(0 <= value <= 1 for value in result["gold"].values())
    assert result["win_rate"]["n"] == 12
    assert 0 <= result["win_rate"]["low"] <= result["win_rate"]["value"] <= result["win_rate"]["high"] <= 1
    assert result["simulated"] is True
    assert [row["prompt"] for row in result["shows"]] == [
        "Write an email requesting an interview",
        "What is 5 + 5?",
        "Write a simple Java code that adds two integers",
    ]

    place = workspace_at(folder)
    policy = read_artifact(Path(result["policy"]))  # every file matches its hash
    others = [result["policies"][name] for name in ("round1", "round2", "dpo")]
    assert sorted(policy.parents) == sorted(read_artifact(Path(path)).hash for path in others)
    weights = [load_file(Path(path) / "model.safetensors") for path in (*others, policy.path)]
    for name, tensor in weights[3].items():
        mean = sum(one[name].double() for one in weights[:3]) / 3
        torch.testing.assert_close(tensor.double(), mean, rtol=2**-8, atol=1e-6)  # bfloat16's eight bits
    assert result["win_rate"] == result["win_rates"]["policy"]
    kinds = {artifact.kind for artifact in list_artifacts(place.artifacts)}
    assert kinds == {"snapshot", "policy", "reward_model", "evaluation", "report", "reference_logprobs"}

    traced = lineage(result["policy"], workspace=place)
    assert not any(link.get("missing") for link in traced["chain"])
    assert {link["kind"] for link in traced["chain"]} >= {"policy", "reward_model", "snapshot"}
    assert traced["simulated"] is True
    assert traced["answers"]
    assert all(who["kind"] == "simulated" for who in traced["annotators"])
    with store_of(place) as store:
        from prefloop.store.feedback import answers_by_ids

        assert len(answers_by_ids(store, traced["answers"])) == len(traced["answers"])

    watched = read_artifact(Path(result["policies"]["round2"]))
    guard = next(a for a in list_artifacts(place.artifacts, "reward_model") if a.name == "guard-2")
    assert guard.hash in watched.parents
    looks = json.loads((watched.path / "guard.json").read_text(encoding="utf-8"))["looks"]
    assert [look["step"] for look in looks] == [0, 1]
    heads = json.loads((guard.path / "config.json").read_text(encoding="utf-8"))["prefloop_heads"]
    assert [name for name in heads if name.startswith("member")], heads

    page = Path(result["report"]).read_text(encoding="utf-8")
    assert "Was the reward fooled?" in page
    assert "These people are simulated" in page
    assert "<script" not in page

    again = workflow.demo(folder, seed=0, log=lambda words: None)
    assert json.dumps(again["gold"]) == json.dumps(result["gold"])  # every stage was done before
    assert again["policy"] == result["policy"]
