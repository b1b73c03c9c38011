"""Conjugate gradients and the line search, by hand."""

from __future__ import annotations

import pytest
import torch

from prefloop.functional.trust_region import backtrack, conjugate_gradient


def test_conjugate_gradient_solves_in_as_many_steps_as_there_are_unknowns() -> None:
    """4x + y = 1, x + 3y = 2: x = 1/11, y = 7/11 (Wikipedia's example)."""
    matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.double)
    products: list[int] = []
    found = conjugate_gradient(
        lambda v: (products.append(1), matrix @ v)[1], torch.tensor([1.0, 2.0], dtype=torch.double), 10
    )
    assert found.tolist() == pytest.approx([1 / 11, 7 / 11], abs=1e-9)
    assert len(products) == 2


def test_fewer_steps_are_nearer_than_none() -> None:
    """One step from 0 goes along the target, by (b b) / (b A b) = 5 / 20."""
    matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.double)
    found = conjugate_gradient(lambda v: matrix @ v, torch.tensor([1.0, 2.0], dtype=torch.double), 1)
    assert found.tolist() == pytest.approx([0.25, 0.5])


def test_the_search_goes_back_until_the_bound_holds_and_something_is_gained() -> None:
    """KL = share^2, gain = share (1/2 - share): all before 0.4096 lose, or go too far."""
    tried: list[float] = []
    found = backtrack(lambda s: (tried.append(s), (s * s, s * (0.5 - s)))[1], bound=0.5, shrink=0.8, tries=10)
    assert found == pytest.approx((0.4096, 0.4096**2, 0.4096 * 0.0904))
    assert tried == pytest.approx([1.0, 0.8, 0.64, 0.512, 0.4096])
    assert backtrack(lambda s: (s, 1.0), bound=0.01, shrink=0.8, tries=10) is None
    assert backtrack(lambda s: (s, 1.0), bound=1.0, shrink=0.8, tries=1) == (1.0, 1.0, 1.0)
