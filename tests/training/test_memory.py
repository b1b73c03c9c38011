"""When memory runs out, micro-batches are halved, batches are not, and nothing of the failed attempt is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.training import online
from prefloop.training.memory import Budget, ran_out
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
