"""Training and asking policies without position ids or with a recurrent state: what works, and what says why not."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import prefloop
from prefloop.errors import InputError, RunError
from prefloop.generation.policy import Policy
from prefloop.training.online import sample_rollout
from prefloop.workflows.training import train
from tests.any_causal import write_causal
from tests.small import build, settings_of, weights_of, write_inputs, write_reward_model

PLACE: dict[str, Any] = {"device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As everywhere, with a Bloom and a Mamba beside: the reward model is a Llama of the same vocabulary."""
    torch.set_num_threads(1)
    folder = write_inputs(tmp_path_factory.mktemp("inputs"))
    for kind in ("bloom", "mamba"):
        write_causal(folder / kind, folder / "policy", kind)
    write_reward_model(folder / "bloom", folder / "bloom_rm")
    return folder


def trained(method: str, kind: str, inputs: Path, out: Path, said: list[str] | None = None, **changes: Any) -> Any:
    settings = settings_of(method, inputs, policy=str(inputs / kind), **changes)
    resume = settings.pop("resume", False)
    return train(method, out=out, overrides=settings, resume=resume, log=[].append if said is None else said.append)


@pytest.mark.parametrize("kind", ["bloom", "mamba"])
@pytest.mark.parametrize("method", ["sft", "dpo", "rloo", "nlpo", "trpo", "ilql", "spin"])
def test_a_method_trains_it(method: str, kind: str, inputs: Path, tmp_path: Path) -> None:
    said: list[str] = []
    trained(method, kind, inputs, tmp_path / "out", said, **({"steps": 1} if method == "trpo" else {}))
    assert weights_of(tmp_path / "out")["model.safetensors"] != weights_of(inputs / kind)["model.safetensors"]
    samples = method in ("rloo", "nlpo", "trpo", "spin")
    assert sum("is sampled the slow way" in words for words in said) == samples


@pytest.mark.parametrize("kind", ["bloom", "mamba"])
def test_ppo_stopped_and_resumed_ends_with_the_same_bits(
    kind: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its critic starts as the reward model: of the same kind, or, where the library has none, a Llama."""
    judge = "bloom_rm" if kind == "bloom" else "rm"
    whole = trained("ppo", kind, inputs, tmp_path / "whole", reward_model=str(inputs / judge), steps=3)
    asked = iter([False, True])
    monkeypatch.setattr("prefloop.training.run_lock.was_asked_to_stop", lambda folder: next(asked, False))
    with pytest.raises(RunError, match="as asked"):
        trained("ppo", kind, inputs, tmp_path / "cut", reward_model=str(inputs / judge), steps=3)
    again = trained("ppo", kind, inputs, tmp_path / "cut", reward_model=str(inputs / judge), steps=3, resume=True)
    assert again["hash"] == whole["hash"]


@pytest.mark.parametrize("kind", ["bloom", "mamba"])
def test_the_sampler_and_the_trainer_agree(kind: str, inputs: Path, tmp_path: Path) -> None:
    """Whole, and with an adapter, whose own trunk is the reference."""
    for lora in (None, {"rank": 2, **({} if kind == "bloom" else {"targets": ["in_proj", "x_proj"]})}):
        out = tmp_path / f"run {lora is None}"
        algorithm, run = build("rloo", inputs, out, policy=str(inputs / kind), lora=lora)
        roles = algorithm.roles
        rollout, _ = sample_rollout(roles, roles.sampler(), roles.prompts[:2], run, 0)
        seen = roles.measured(rollout, 4096).added
        torch.testing.assert_close(rollout.sampled_logprobs, seen["logprobs"], atol=1e-5, rtol=0)
        torch.testing.assert_close(seen["reference"], seen["logprobs"], atol=1e-5, rtol=0)


def test_a_reward_model_of_bloom(inputs: Path, tmp_path: Path) -> None:
    trained("reward_model", "bloom", inputs, tmp_path / "out")
    found = prefloop.evaluate(str(tmp_path / "out"), comparisons=inputs / "pairs.jsonl", **PLACE)
    assert found["n"] == 12


@pytest.mark.parametrize(("method", "changes"), [("reward_model", {}), ("ppo", {"reward_model": None})])
def test_where_a_classifier_is_needed_mamba_says_that_there_is_none(
    method: str, changes: dict[str, Any], inputs: Path, tmp_path: Path
) -> None:
    reward = {} if method == "reward_model" else {"reward": {"length": {"function": f"{__name__}:shortness"}}}
    with pytest.raises(InputError, match="is a mamba model, of which the transformers library has no sequence classif"):
        trained(method, "mamba", inputs, tmp_path / "out", **changes, **reward)


def shortness(completions: list[str]) -> list[float]:
    """A reward without a model."""
    return [-float(len(text)) for text in completions]


@pytest.mark.parametrize("kind", ["bloom", "mamba"])
def test_it_is_asked_measured_and_talked_to(
    kind: str, inputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, said = str(inputs / kind), list[str]()
    prompts = ["Say hello.", "What is 2 + 2?", "And again?"]
    found = prefloop.sample(model, prompts, per_prompt=2, max_new_tokens=8, log=said.append, **PLACE)
    assert len(found["completions"]) == 6
    assert sum("is sampled the slow way" in words for words in said) == 1
    against = str(inputs / "policy")
    judged = prefloop.evaluate(
        model, against=against, prompts=prompts, judged_by=str(inputs / "rm"), max_new_tokens=8, **PLACE
    )
    assert judged["kl"]["value"] == judged["kl"]["value"]
    policy = Policy(model, **PLACE)
    asked = [[{"role": "user", "content": text}] for text in prompts]
    samples = [group[0].sample for group in policy.answer(asked, 1, seed=3)]
    totals = torch.tensor([sum(sample.logprobs) for sample in samples])
    torch.testing.assert_close(policy.logprobs(asked, samples), totals, atol=1e-3, rtol=0)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Say hello.\n\n"))
    talk = prefloop.chat(model, max_new_tokens=8, **PLACE)
    assert [message["role"] for message in talk] == ["user", "assistant"]
    assert "is sampled the slow way" in capsys.readouterr().err
