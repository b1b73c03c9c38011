"""The ridge solution by its closed form, and a penalty that is strong where there is nothing to learn."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from prefloop.training import probe
from prefloop.training.probe import FOLDS, STRENGTHS, fold_of, solve


def problem(noise: float, n: int = 80) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(n, 5, generator=draw)
    return x, x @ torch.tensor([1.0, -2.0, 0.0, 0.5, 0.0]) + noise * torch.randn(n, generator=draw)


def solved(x: Tensor, y: Tensor, folds: Sequence[int]) -> tuple[Tensor, float, float | None]:
    weight = torch.zeros(5, requires_grad=True)
    offset = torch.zeros((), requires_grad=True)

    def mean_loss(rows: Sequence[int]) -> Tensor:
        return 0.5 * (x[list(rows)] @ weight + offset - y[list(rows)]).square().mean()

    strength, loss = solve(mean_loss, folds, [weight, offset], lambda: weight.square().sum())
    assert offset.grad is None or offset.grad.abs() == 0
    return torch.cat([weight, offset[None]]).detach(), strength, loss


def test_least_squares_has_its_closed_form_at_the_strength_that_was_chosen() -> None:
    """(X'X / n + strength I)^-1 X'y / n, the offset without penalty."""
    x, y = problem(0.5)
    folds = [i % FOLDS for i in range(len(x))]
    found, strength, loss = solved(x, y + 3.0, folds)
    ones = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    penalty = strength * torch.diag(torch.tensor([1.0] * 5 + [0.0])).double()
    expected = torch.linalg.solve(ones.T @ ones / len(x) + penalty, ones.T @ (y + 3.0).double() / len(x))
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-3)

    def left_out(tried: float) -> float:
        total = 0.0
        for fold in range(FOLDS):
            left = torch.tensor([f == fold for f in folds])
            here, there = ones[~left], ones[left]
            answers = (y + 3.0).double()
            weights = torch.linalg.solve(
                here.T @ here / len(here) + tried / strength * penalty, here.T @ answers[~left] / len(here)
            )
            total += 0.5 * float((there @ weights - answers[left]).square().sum()) / len(x)
        return total

    losses = {tried: left_out(tried) for tried in STRENGTHS}
    assert min(losses, key=losses.__getitem__) == strength
    assert loss == pytest.approx(losses[strength], rel=1e-3)


def test_where_there_is_nothing_to_learn_the_weights_stay_small() -> None:
    x, y = problem(0.5)
    shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))]
    folds = [i % FOLDS for i in range(len(x))]
    found, strength, _ = solved(x, shuffled, folds)
    assert strength >= 1.0
    assert found[:5].norm() < 0.2 * solved(x, y, folds)[0][:5].norm()


def test_one_fold_gives_the_strongest_and_says_so() -> None:
    x, y = problem(0.5)
    _, strength, loss = solved(x, y, [2] * len(x))
    assert (strength, loss) == (STRENGTHS[0], None)


def test_a_prompts_rows_are_left_out_together() -> None:
    assert fold_of([1, 2, 3]) == fold_of((1, 2, 3))
    assert {fold_of([i]) for i in range(40)} == set(range(probe.FOLDS))
