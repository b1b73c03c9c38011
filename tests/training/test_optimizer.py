"""AdamW with float32 masters: schedules by hand, real clipping, steps that bfloat16 alone would lose, and NaN."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from prefloop.errors import RunError
from prefloop.training.optimizer import Optimizer, Schedule


def parameter(*values: float, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=dtype))


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        ("constant", {0: 0.5, 1: 1.0, 2: 1.0, 9: 1.0}),
        ("linear", {0: 0.5, 1: 1.0, 2: 1.0, 6: 0.5, 9: 0.125, 10: 0.0, 11: 0.0}),
        ("cosine", {0: 0.5, 1: 1.0, 2: 1.0, 4: 0.5 + math.sqrt(0.5) / 2, 6: 0.5, 10: 0.0, 12: 0.0}),
    ],
)
def test_schedules(kind: str, rates: dict[int, float]) -> None:
    """Ten steps, the first two of them a warm-up."""
    schedule = Schedule(1.0, 10, 2, kind)  # type: ignore[arg-type]
    for step, rate in rates.items():
        assert schedule.at(step) == pytest.approx(rate, abs=1e-12)


def test_a_cooldown_ends_at_stop_at() -> None:
    """Constant until step 4, then in a straight line to 0 at step 8."""
    schedule = Schedule(2.0, 100, 0, "constant", stop_at=8, cooldown=4)
    assert [schedule.at(step) for step in (0, 4, 5, 6, 7, 8)] == [2.0, 2.0, 1.5, 1.0, 0.5, 0.0]


def test_the_first_step_of_adam_is_the_learning_rate() -> None:
    """Both moments are the gradient itself after bias correction: a step of lr against its sign."""
    p = parameter(1.0, -2.0)
    optimizer = Optimizer([p], Schedule(0.1, 1, 0, "constant"), max_grad_norm=1e9)
    (p * torch.tensor([3.0, -7.0])).sum().backward()
    optimizer.collect()
    optimizer.step("the batch")
    assert p.tolist() == pytest.approx([0.9, -1.9], abs=1e-6)


def test_the_gradient_is_really_clipped() -> None:
    """A gradient of (30, 40) has norm 50: clipped to 5, Adam's first moment holds a tenth of (3, 4)."""
    p = parameter(0.0, 0.0)
    optimizer = Optimizer([p], Schedule(0.1, 1, 0, "constant"), max_grad_norm=5.0)
    (p * torch.tensor([30.0, 40.0])).sum().backward()
    optimizer.collect()
    assert optimizer.step("the batch") == {"grad_norm": pytest.approx(50.0), "lr": 0.1}
    assert optimizer.tensors()["adam/exp_avg/0"].tolist() == pytest.approx([0.3, 0.4], rel=1e-4)


def test_several_backward_passes_add_up() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        p = parameter(0.0, dtype=dtype)
        optimizer = Optimizer([p], Schedule(0.1, 1, 0, "constant"), max_grad_norm=1e9)
        for slope in (1.0, 2.0, 3.5):
            (p * slope).sum().backward()
            optimizer.collect()
        assert optimizer.step("the batch")["grad_norm"] == 6.5
        (p * 2.0).sum().backward()
        optimizer.collect()
        assert optimizer.step("the next batch")["grad_norm"] == 2.0


def test_bfloat16_weights_take_steps_smaller_than_they_can_hold() -> None:
    """Near 1, bfloat16 has steps of 1/128: sixteen steps of 1/1024 downwards arrive, none of them lost."""
    p = parameter(1.0, dtype=torch.bfloat16)
    optimizer = Optimizer([p], Schedule(1 / 1024, 16, 0, "constant"))
    for _ in range(16):
        p.sum().backward()
        optimizer.collect()
        optimizer.step("the batch")
    assert p.dtype == torch.bfloat16
    assert p.item() == pytest.approx(1 - 16 / 1024)
    alone = parameter(1.0, dtype=torch.bfloat16)
    for _ in range(16):
        with torch.no_grad():
            alone.sub_(1 / 1024)
    assert alone.item() == 1.0


def test_only_matrices_decay() -> None:
    matrix, vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    optimizer = Optimizer([matrix, vector], Schedule(0.1, 1, 0, "constant"), weight_decay=0.5)
    ((matrix.sum() + vector.sum()) * 0).backward()
    optimizer.collect()
    optimizer.step("the batch")
    assert matrix.flatten().tolist() == pytest.approx([0.95] * 4)
    assert vector.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_that_is_not_finite_leaves_the_weights_alone(value: float, dtype: torch.dtype) -> None:
    good, bad = parameter(1.0, 2.0, dtype=dtype), parameter(3.0, dtype=dtype)
    optimizer = Optimizer([good, bad], Schedule(0.1, 5, 0, "constant"))
    (good.sum() + bad.sum() * value).backward()
    optimizer.collect()
    with pytest.raises(RunError, match=r"the gradient became (nan|inf) at step 1 in the batch with 'x'"):
        optimizer.step("the batch with 'x'")
    assert (good.tolist(), bad.tolist()) == ([1.0, 2.0], [3.0])
    assert optimizer.steps == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_state_goes_on_to_the_same_bits(dtype: torch.dtype) -> None:
    def run(optimizer: Optimizer, p: nn.Parameter, steps: range) -> None:
        for i in steps:
            (p.float().square() * (i + 1)).sum().backward()
            optimizer.collect()
            optimizer.step("the batch")

    schedule = Schedule(0.01, 10, 2, "cosine")
    whole = parameter(1.0, -3.0, 0.5, dtype=dtype)
    run(Optimizer([whole], schedule), whole, range(10))
    first, second = parameter(1.0, -3.0, 0.5, dtype=dtype), parameter(9.0, 9.0, 9.0, dtype=dtype)
    before, after = Optimizer([first], schedule), Optimizer([second], schedule)
    run(before, first, range(4))
    after.load({name: tensor.clone() for name, tensor in before.tensors().items()}, 4)
    assert torch.equal(first, second)
    run(after, second, range(4, 10))
    assert torch.equal(whole, second)
    assert after.steps == 10


def test_what_is_frozen_stays() -> None:
    frozen, free = parameter(1.0), parameter(1.0)
    frozen.requires_grad_(False)
    optimizer = Optimizer([frozen, free], Schedule(0.1, 1, 0, "constant"))
    (frozen * free).sum().backward()
    optimizer.collect()
    optimizer.step("the batch")
    assert (frozen.item(), len(optimizer.live)) == (1.0, 1)
    assert free.item() == pytest.approx(0.9)
