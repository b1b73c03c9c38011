"""When memory runs out, micro-batches are halved, batches are not, and nothing of the failed attempt is left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.models.heads import CompletionLogprobs
from prefloop.models.load import load_policy
from prefloop.training import offline, online
from prefloop.training.memory import Budget, mebibytes, model_bytes, ran_out, token_bytes
from prefloop.training.online_memory import online_memory, pool_bytes, pool_size, role_bytes
from tests.small import build, write_inputs


def test_half_as_many_until_they_fit() -> None:
    said: list[str] = []
    tried: list[int] = []

    def work(tokens: int) -> str:
        tried.append(tokens)
        if tokens > 30:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"

    undone: list[int] = []
    budget = Budget(100, said.append)
    assert budget.spend(work, lambda: undone.append(1)) == "done"
    assert tried == [100, 50, 25]
    assert len(undone) == 2
    assert said[-1] == "out of memory: micro-batches of 25 tokens from here on, batches stay as they are"


def test_other_errors_and_the_last_one_come_through() -> None:
    def wrong(tokens: int) -> None:
        raise RuntimeError("shapes do not fit")

    def never(tokens: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="shapes"):
        Budget(100, lambda words: None).spend(wrong)
    with pytest.raises(torch.OutOfMemoryError):
        Budget(100, lambda words: None).spend(never)


def test_a_processors_own_error_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert ran_out(caught.value)
    assert ran_out(RuntimeError("MPS backend out of memory (MPS allocated: 8 GB). Tried to allocate 256 MB"))
    assert not ran_out(RuntimeError("shapes do not fit"))


def test_a_run_that_ran_out_ends_like_one_with_small_micro_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out in the second micro-batch of the third step, when half of its gradient is there already."""
    torch.set_num_threads(1)
    inputs = write_inputs(tmp_path / "inputs")
    ends: list[Any] = []
    for fails in (False, True):
        algorithm, run = build("ppo", inputs, tmp_path / str(fails), steps=2, micro_batch_tokens=60, kl_target=None)
        honest, calls = algorithm.loss, [0]

        def loss(part: Any, honest: Any = honest, calls: list[int] = calls, fails: bool = fails) -> Any:
            calls[0] += 1
            if fails and calls[0] == 6:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return honest(part)

        monkeypatch.setattr(algorithm, "loss", loss)
        assert online.train_online(algorithm, run) == ({"micro_batch_tokens": 30} if fails else {})
        assert calls[0] > 8
        ends.append([p.detach() for p in algorithm.roles.policy.parameters()])
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_an_offline_run_that_ran_out_ends_like_one_with_small_micro_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out in the third micro-batch of the second step and once more; metrics are those of whole batches."""
    torch.set_num_threads(1)
    inputs = write_inputs(tmp_path / "inputs")
    ends, logged = [], []
    for fails in (False, True):
        settings: dict[str, Any] = {"steps": 3, "micro_batch_tokens": 128, "batch_size": 6, "log_every": 1}
        algorithm, run = build("dpo", inputs, tmp_path / str(fails), **settings)
        honest, calls = algorithm.loss, [0]

        def loss(rows: Any, honest: Any = honest, calls: list[int] = calls, fails: bool = fails) -> Any:
            calls[0] += 1
            if fails and calls[0] in (6, 8):
                raise torch.OutOfMemoryError("CUDA out of memory")
            return honest(rows)

        monkeypatch.setattr(algorithm, "loss", loss)
        assert offline.train_offline(algorithm, run) == ({"micro_batch_tokens": 32} if fails else {})
        assert calls[0] > 8
        ends.append([p.detach() for p in algorithm.model.parameters()])
        logged.append([row["loss"] for row in run.metrics if "loss" in row])
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    assert len(logged[0]) == 3
    assert logged[1] == pytest.approx(logged[0], abs=1e-4)


def test_what_models_take_by_hand() -> None:
    """2**20 weights: trained in float32 16 bytes each, in bfloat16 18, not trained 4; what is shared counts once."""
    one = torch.nn.Linear(1024, 1024, bias=False)
    half = torch.nn.Linear(1024, 1024, bias=False, dtype=torch.bfloat16)
    frozen = torch.nn.Linear(1024, 1024, bias=False).requires_grad_(False)
    sizes = model_bytes({"policy": one, "critic": half, "adapted": frozen}, {"reference": one, "reward model": frozen})
    assert mebibytes("the models take", sizes) == (
        "the models take 38 MiB (policy (trained) 16, critic (trained) 18, adapted (trained) 4, reference (frozen) 0, "
        "reward model (frozen) 0)"
    )


def test_what_a_pool_of_answers_takes_by_hand(tmp_path: Path) -> None:
    """A token takes keys and values, in each layer and of each head; an answer those of the longest prompt, too."""
    algorithm, run = build("rloo", write_inputs(tmp_path), tmp_path / "run", steps=1, batch_size=9, max_new_tokens=16)
    roles = algorithm.roles
    config = roles.policy.config
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    assert token_bytes(roles.policy) == token
    assert token_bytes(roles.policy.bfloat16()) == token // 2
    longest = max(len(roles.template.prompt(prompt)) for prompt in roles.prompts)
    assert pool_bytes(roles, run.settings) == 9 * (longest + 16) * token // 2
    assert pool_size(replace(run.settings, batch_size=1000)) == 128
    assert f"; 9 answers that are sampled at once keep up to {pool_bytes(roles, run.settings) / 2**20:.0f} MiB" in (
        online_memory(roles, run.settings)
    )


def test_checkpointed_layers_train_to_the_same_weights(tmp_path: Path) -> None:
    """PPO without dropout, in eval mode, with a critic: as without checkpointing, but for rounding."""
    inputs = write_inputs(tmp_path)
    weights = []
    for again in (False, True):
        algorithm, run = build("ppo", inputs, tmp_path / f"run-{again}", steps=2, gradient_checkpointing=again)
        online.train_online(algorithm, run)
        weights.append(torch.cat([p.detach().flatten() for m in algorithm.roles.trained for p in m.parameters()]))
    torch.testing.assert_close(weights[1], weights[0], atol=1e-6, rtol=1e-5)


def test_with_an_adapter_the_reference_is_the_policys_trunk(tmp_path: Path) -> None:
    """The adapter moves the policy, and not the reference: its log-probabilities stay those of the policy on disk."""
    inputs = write_inputs(tmp_path)
    algorithm, run = build("rloo", inputs, tmp_path / "run", steps=2, lora={"rank": 2}, lr=0.05)
    roles = algorithm.roles
    assert roles.reference is None
    assert {*role_bytes(roles)} == {"policy (trained)", "reward model (frozen)"}
    rollout, _ = online.sample_rollout(roles, roles.sampler(), roles.prompts[:2], run, 0)
    before = roles.measured(rollout, 4096).added
    plain = CompletionLogprobs(load_policy(inputs / "policy", torch.float32, torch.device("cpu")))
    expected, _ = plain(rollout.ids, rollout.starts, rollout.valid)
    torch.testing.assert_close(before["reference"], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(before["logprobs"], expected, atol=1e-5, rtol=1e-5)
    online.train_online(algorithm, run)
    after = roles.measured(rollout, 4096).added
    assert torch.equal(after["reference"], before["reference"])
    assert (after["logprobs"] - expected).abs().max() > 0.05
    assert any(parameter.requires_grad for parameter in algorithm.roles.policy.parameters())
