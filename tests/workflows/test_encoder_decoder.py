"""Training policies with an encoder: SFT, PPO and RLOO from end to end, the seed, the checkpoint, and what is saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.errors import InputError, RunError
from prefloop.generation.policy import Policy
from prefloop.generation.sampler import Sampling
from prefloop.training.online import sample_rollout
from prefloop.workflows.training import train
from tests.encoders_decoders import write_encoder_decoder
from tests.small import build, settings_of, weights_of, write_inputs

PAIRS = {"Say hello.": "Hello to you.", "What is 2 + 2?": "It is 4.", "And again?": "No."}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As everywhere, with a T5 beside: the reward model stays a decoder, of the same vocabulary."""
    torch.set_num_threads(1)
    folder = write_inputs(tmp_path_factory.mktemp("inputs"))
    write_encoder_decoder(folder / "t5", folder / "policy")
    return folder


def trained(method: str, inputs: Path, out: Path, *, resume: bool = False, **changes: Any) -> dict[str, Any]:
    settings = settings_of(method, inputs, policy=str(inputs / "t5"), **changes)
    return train(method, out=out, overrides=settings, resume=resume, log=lambda words: None)


def test_sft_learns_answers_by_heart(inputs: Path, tmp_path: Path) -> None:
    data = tmp_path / "demonstrations.jsonl"
    data.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in PAIRS.items()))
    trained("sft", inputs, tmp_path / "out", data=str(data), steps=400, lr=4e-3, schedule="linear", batch_size=3)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["T5ForConditionalGeneration"]
    policy = Policy(tmp_path / "out", device="cpu", dtype="float32")
    prompts = [[{"role": "user", "content": prompt}] for prompt in PAIRS]
    answers = policy.answer(prompts, sampling=Sampling(temperature=0, max_new_tokens=40))
    assert [group[0].text for group in answers] == list(PAIRS.values())
    samples = [group[0].sample for group in answers]
    assert policy.logprobs(prompts, samples).min().item() > -1.0


@pytest.mark.parametrize("method", ["ppo", "rloo", "dpo"])
def test_stopped_and_resumed_it_ends_with_the_same_bits(
    method: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PPO's critic starts as the reward model, a decoder that reads the same tokens."""
    whole = trained(method, inputs, tmp_path / "whole")
    assert weights_of(tmp_path / "whole")["model.safetensors"] != weights_of(inputs / "t5")["model.safetensors"]
    asked = iter([False, True])
    monkeypatch.setattr("prefloop.training.run_lock.was_asked_to_stop", lambda folder: next(asked, False))
    with pytest.raises(RunError, match="as asked"):
        trained(method, inputs, tmp_path / "cut")
    again = trained(method, inputs, tmp_path / "cut", resume=True)
    assert again["hash"] == whole["hash"]


def test_a_critic_with_an_encoder(inputs: Path, tmp_path: Path) -> None:
    """Where no reward model lends its weights, the critic starts as the policy, its head new, and learns."""
    reward = {"length": {"function": "tests.workflows.test_encoder_decoder:shortness"}}
    result = trained("ppo", inputs, tmp_path / "out", reward=reward, reward_model=None, steps=3)
    config = json.loads((tmp_path / "out" / "critic" / "config.json").read_text())
    assert config["architectures"] == ["T5ForSequenceClassification"]
    assert result["metrics"]["loss/value_avg"] > 0


def shortness(completions: list[str]) -> list[float]:
    """A reward without a model."""
    return [-float(len(text)) for text in completions]


def test_an_adapter_and_its_own_trunk_for_reference(inputs: Path, tmp_path: Path) -> None:
    algorithm, run = build("rloo", inputs, tmp_path / "run", policy=str(inputs / "t5"), lora={"rank": 2})
    roles = algorithm.roles
    assert roles.reference is None
    rollout, _ = sample_rollout(roles, roles.sampler(), roles.prompts[:2], run, 0)
    seen = roles.measured(rollout, 4096).added
    torch.testing.assert_close(seen["reference"], seen["logprobs"], atol=1e-6, rtol=0)
    torch.testing.assert_close(rollout.sampled_logprobs, seen["logprobs"], atol=1e-4, rtol=0)
    trained("rloo", inputs, tmp_path / "out", lora={"rank": 2})
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("trpo", "trpo is for decoders alone"),
        ("nlpo", "a mask policy is for decoders alone"),
        ("ilql", "value heads are for decoders alone"),
        ("reward_model", "not as a reward model"),
    ],
)
def test_methods_that_need_a_decoder_alone_say_so(method: str, said: str, inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        trained(method, inputs, tmp_path / "out")
