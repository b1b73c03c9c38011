"""`trunk: shared`: policy, reference, critic and reward model on one frozen trunk, against the same run on several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prefloop.errors import InputError, RunError
from prefloop.models.heads import CompletionLogprobs, ScoreHead
from prefloop.models.load import load_policy
from prefloop.models.recompute import recompute_layers
from prefloop.models.template import Encoded
from prefloop.models.trees import Forest
from prefloop.training import online
from prefloop.training.memory import kept_bytes
from prefloop.training.online_memory import batch_bytes, full_micro_batch, online_memory, role_bytes, trunk_bytes
from prefloop.training.reward import models_of
from prefloop.workflows.training import train
from tests.encoders_decoders import model_of
from tests.small import build, settings_of, weights_of, write_inputs_with_adapter

SHARED: dict[str, Any] = {"lora": {"rank": 2}, "trunk": "shared"}
SEPARATE: dict[str, Any] = {"lora": {"rank": 2}, "trunk": "separate"}
RULE: dict[str, Any] = {"reward_model": None, "reward": {"length": {"function": "prefloop.rewards.text:characters"}}}
"""A reward without a model: then the critic starts as the policy."""
MIB = 2**20


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs_with_adapter(tmp_path_factory.mktemp("inputs"), rank=3)  # not that of the runs


def trained(method: str, inputs: Path, out: Path, *, resume: bool = False, **changes: Any) -> dict[str, Any]:
    settings = settings_of(method, inputs, **changes)
    return train(method, out=out, overrides=settings, resume=resume, log=lambda words: None)


@pytest.mark.parametrize("method", ["ppo", "nlpo"])
def test_a_run_on_one_trunk_is_the_run_on_several(method: str, inputs: Path, tmp_path: Path) -> None:
    """With a critic that starts as the policy both compute the same, and write the same files, to the bit."""
    results = []
    for name, trunk in (("shared", SHARED), ("separate", SEPARATE)):
        results.append(trained(method, inputs, tmp_path / name, steps=3, **RULE, **trunk))
    files = ("model.safetensors", "critic/model.safetensors", "critic/adapter/adapter_model.safetensors")
    assert len(weights_of(tmp_path / "shared", files)) == 3
    assert weights_of(tmp_path / "shared", files) == weights_of(tmp_path / "separate", files)
    assert results[0]["hash"] == results[1]["hash"]
    assert results[0]["metrics"] == results[1]["metrics"]


def test_a_discriminator_shares_it_too(inputs: Path, tmp_path: Path) -> None:
    for name, trunk in (("shared", SHARED), ("separate", SEPARATE)):
        trained("adversarial", inputs, tmp_path / name, steps=2, **trunk)
    assert len(weights_of(tmp_path / "shared")) == 2
    assert weights_of(tmp_path / "shared") == weights_of(tmp_path / "separate")


def test_with_a_reward_model_the_critic_starts_as_it(inputs: Path, tmp_path: Path) -> None:
    """Both read on the policy's trunk; as on trunks of their own, but for the rounding of the merged file."""
    values, logprobs = [], []
    for name, trunk in (("shared", SHARED), ("separate", SEPARATE)):
        algorithm, run = build("ppo", inputs, tmp_path / name, reward_model=str(inputs / "adapter"), **trunk)
        roles = algorithm.roles
        rollout, _ = online.sample_rollout(roles, roles.sampler(), roles.prompts[:4], run, 0)
        seen = roles.measured(rollout, 4096).added
        (judge,) = models_of(roles.reward)
        with torch.no_grad():
            each = ScoreHead(judge).each(rollout.ids, rollout.starts, rollout.valid)
        torch.testing.assert_close(seen["reference"], seen["logprobs"], atol=1e-5, rtol=1e-5)
        values.append(seen["values"])
        logprobs.append(seen["logprobs"])
        if name == "shared":
            torch.testing.assert_close(seen["values"], each, atol=1e-5, rtol=1e-5)
            assert roles.critic.peft_config["default"].r == 3  # the reward model's
    assert torch.equal(logprobs[0], logprobs[1])
    assert values[1].abs().max() > 0.5
    # honest: the separate ones start from a merged file, which holds eight bits of each weight
    torch.testing.assert_close(values[0], values[1], atol=0.1, rtol=0.05)


def test_no_role_moves_another(inputs: Path, tmp_path: Path) -> None:
    """Gradients of the values reach the critic alone, of log pi the policy alone; a run leaves the trunk as it was."""
    algorithm, run = build("ppo", inputs, tmp_path / "run", reward_model=str(inputs / "adapter"), steps=2, **SHARED)
    roles = algorithm.roles
    (judge,) = models_of(roles.reward)
    rollout, _ = online.sample_rollout(roles, roles.sampler(), roles.prompts[:4], run, 0)
    policy, critic = ({n: p for n, p in m.named_parameters() if p.requires_grad} for m in (roles.policy, roles.critic))
    assert not {id(p) for p in policy.values()} & {id(p) for p in critic.values()}
    assert not any(p.requires_grad for p in judge.parameters())
    for work, own, other in ((roles.values, critic, policy), (roles.logprobs, policy, critic)):
        work(rollout).sum().backward()
        assert all(p.grad is not None for p in own.values())
        assert all(p.grad is None for p in [*other.values(), *judge.parameters()])
        for p in own.values():
            p.grad = None
    trunk = {n: p for n, p in roles.policy.named_parameters() if not p.requires_grad}
    before = {n: p.detach().clone() for n, p in trunk.items()}
    moved = [p.detach().clone() for p in (*policy.values(), *critic.values())]
    said = [p.detach().clone() for p in judge.parameters()]
    online.train_online(algorithm, run)
    roles.save(tmp_path / "saved")
    assert all(torch.equal(trunk[n], before[n]) for n in before)
    assert all(torch.equal(a, b) for a, b in zip(judge.parameters(), said, strict=True))
    now = (*policy.values(), *critic.values())
    assert sum(not torch.equal(a, b) for a, b in zip(now, moved, strict=True)) > len(moved) // 2


def test_it_resumes_to_the_same_bits(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: dict[str, Any] = {"reward_model": str(inputs / "adapter"), "steps": 4, **SHARED}
    whole = trained("nlpo", inputs, tmp_path / "whole", **changes)
    asked = iter([False, True])
    monkeypatch.setattr("prefloop.training.run_lock.was_asked_to_stop", lambda folder: next(asked, False))
    with pytest.raises(RunError, match="as asked"):
        trained("nlpo", inputs, tmp_path / "paused", **changes)
    paused = trained("nlpo", inputs, tmp_path / "paused", resume=True, **changes)
    assert paused["hash"] == whole["hash"]
    assert len(weights_of(tmp_path / "whole")) == 2


def test_parts_of_a_reward_say_what_they_share(inputs: Path, tmp_path: Path) -> None:
    def judges(part: dict[str, Any], name: str) -> list[nn.Module]:
        reward = {"reward_model": None, "reward": {"taste": part}}
        roles = build("ppo", inputs, tmp_path / name, **reward, **SHARED)[0].roles
        trunk = {id(p) for p in roles.policy.parameters()}
        return [m for m in models_of(roles.reward) if trunk & {id(p) for p in m.parameters()}]

    both = [str(inputs / "adapter")] * 2
    assert len(judges({"learned": both, "trunk": "shared", "members": "worst"}, "shared")) == 2
    assert judges({"learned": str(inputs / "rm")}, "own") == []


def test_a_cost_model_is_not_earned_on_a_shared_trunk_either(inputs: Path, tmp_path: Path) -> None:
    trained("cost_model", inputs, tmp_path / "cost", lora={"rank": 2}, steps=1)
    part = {"learned": [str(tmp_path / "cost")], "trunk": "shared"}
    with pytest.raises(InputError, match="is a cost model, higher for what is worse"):
        build("ppo", inputs, tmp_path / "run", reward_model=None, reward={"harm": part}, **SHARED)


def test_where_it_cannot_be_it_says_so(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"trunk: shared needs lora: .* add lora: \{rank: 16\}"):
        build("ppo", inputs, tmp_path / "a", trunk="shared")
    with pytest.raises(InputError, match="trunk: shared needs lora"):
        build("adversarial", inputs, tmp_path / "b", trunk="shared")
    with pytest.raises(InputError, match="rm has no adapter/: it was not trained with lora"):
        build("ppo", inputs, tmp_path / "c", **SHARED)


def test_what_the_roles_take_is_what_is_there(inputs: Path, tmp_path: Path) -> None:
    """Every piece of memory behind the parameters counted once, with 4 + 8 bytes to each number that is trained."""
    total = {}
    for name, trunk in (("shared", SHARED), ("separate", SEPARATE)):
        roles = build("ppo", inputs, tmp_path / name, **RULE, **trunk)[0].roles
        parameters = [p for m in (roles.policy, roles.critic) for p in m.parameters()]
        there = {p.data_ptr(): p.numel() * p.element_size() for p in parameters}
        learned = {p.data_ptr(): p.numel() for p in parameters if p.requires_grad}
        total[name] = sum(role_bytes(roles).values())
        assert total[name] == sum(there.values()) + 12 * sum(learned.values())
        assert trunk_bytes(roles) == 4 * sum(
            p.numel() for p in load_policy(inputs / "policy", torch.float32, torch.device("cpu")).model.parameters()
        )
        if name == "shared":
            saved = trunk_bytes(roles)
    assert total["separate"] - total["shared"] == saved


def test_the_words(inputs: Path, tmp_path: Path) -> None:
    said: list[str] = []
    settings = settings_of("ppo", inputs, reward_model=str(inputs / "adapter"), steps=1, **SHARED)
    train("ppo", out=tmp_path / "out", overrides=settings, log=said.append)
    (words,) = [line for line in said if line.startswith("memory: ")]
    assert "memory: the models take 0 MiB (policy (trained) 0, critic (trained) 0, reward model (frozen) 0)" in words
    assert "; with trunk: separate 0 MiB more; a full micro-batch keeps for its backward pass 1 MiB (policy " in words
    roles = build("ppo", inputs, tmp_path / "apart", reward_model=str(inputs / "adapter"), **SEPARATE)
    assert "; with trunk: shared 0 MiB less" in online_memory(roles[0].roles, roles[1].settings)
    assert trunk_bytes(roles[0].roles) == 2 * sum(
        p.numel() * 4 for p in load_policy(inputs / "policy", torch.float32, torch.device("cpu")).model.parameters()
    )


def really_kept(measure: CompletionLogprobs | ScoreHead, texts: list[Encoded]) -> int:
    """What autograd holds on to in the pass itself."""
    full = measure.full if isinstance(measure, CompletionLogprobs) else measure.model
    weights = {p.untyped_storage().data_ptr() for p in full.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        measure.along(Forest.plant(texts))
    return sum(storage.nbytes() for storage in kept.values())


def test_what_one_text_keeps_by_hand(inputs: Path) -> None:
    """Of n tokens, m of them an answer, in a Llama of L layers, width d, inner width i, h heads, V words; float32.

    A norm keeps its input, one number (the root), and what it scales: 2 d + 1. A layer has two of them; what they give,
    to the projections and to the MLP, d each; queries, keys, values and what o_proj is given, d each; h n probabilities
    of attention; and of the MLP gate, its activation, up and their product, i each. Then the last norm, cosines and
    sines of every position (d / h each), the states that the answer is read from, d, their tokens' normaliser and V
    logits; and ids and places as whole numbers of 8 bytes.
    """
    policy = load_policy(inputs / "policy", torch.float32, torch.device("cpu"))
    n, m, layers, d, i, h, v = 20, 19, 2, 32, 64, 2, policy.config.vocab_size
    text = Encoded([1, *[7] * (n - 1)], n - m)  # nearly all of it is read: the last layer spares nothing
    floats = n * (layers * (2 * (2 * d + 1) + 2 * d + 4 * d + h * n + 4 * i) + 2 * d + 1 + 2 * d // h)
    floats += m * (d + 1 + v)
    measure = CompletionLogprobs(policy)
    assert kept_bytes(measure, [text]) == 4 * floats + 8 * (n + 2 * m)
    assert really_kept(measure, [text]) == 4 * floats + 8 * (n + 2 * m)
    shorter = Encoded(text.ids, n - 8)
    assert kept_bytes(measure, [shorter]) == really_kept(measure, [shorter]) < 4 * floats


@pytest.mark.parametrize("trunk", [SHARED, {"dtype": "bfloat16", **SHARED}, {"trunk": "separate"}])
def test_a_full_micro_batch_keeps_what_was_said(trunk: dict[str, Any], inputs: Path, tmp_path: Path) -> None:
    """With adapters in both formats and without, groups of answers to a prompt, policy and critic."""
    algorithm, run = build("ppo", inputs, tmp_path / "run", group_size=3, micro_batch_tokens=150, **RULE, **trunk)
    roles = algorithm.roles
    texts = full_micro_batch(roles, run.settings)
    longest = max(len(roles.template.prompt(p)) for p in roles.prompts)
    assert {text.length for text in texts} == {longest + 8}
    assert len(texts) == 3  # a minibatch of three, and one prompt of it
    found = batch_bytes(roles, run.settings)
    assert found == {
        "policy": really_kept(CompletionLogprobs(roles.policy), texts),
        "critic": really_kept(ScoreHead(roles.critic), texts),
    }


def test_where_nobody_can_tell_nothing_is_said() -> None:
    """The masks of an encoder's prompts are made from values."""
    measure = CompletionLogprobs(model_of("t5", 40))
    assert kept_bytes(measure, [Encoded([3, 4, one, *[7] * 9], 3) for one in range(5, 9)]) is None


def test_recomputed_layers_keep_their_inputs_and_one_layer(inputs: Path) -> None:
    plain = CompletionLogprobs(load_policy(inputs / "policy", torch.float32, torch.device("cpu")))
    again = CompletionLogprobs(load_policy(inputs / "policy", torch.float32, torch.device("cpu")))
    recompute_layers(again.full)
    texts = [Encoded([one, *[7] * 29], 20) for one in range(4)]
    whole, least = kept_bytes(plain, texts), really_kept(again, texts)
    assert whole is not None
    assert kept_bytes(again, texts) == least + (whole - least) // 2
    assert least < whole / 2
