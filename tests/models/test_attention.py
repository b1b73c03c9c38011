"""Attention of stretches put together, against one dense product: values, first and second derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prefloop.models import attention
from prefloop.models.attention import Bags, Packing, Plan, Stretch, blocks, within

STRETCHES = [
    Stretch(range(5), (range(5),)),
    Stretch(range(5, 8), (range(5), range(5, 8))),
    Stretch(range(8, 8), (range(5), range(8, 8))),  # a text that is all beginning
    Stretch(range(8, 19), (range(5), range(8, 19))),
    Stretch(range(19, 20), (range(19, 20),)),
    Stretch(range(20, 22), (range(19, 20), range(20, 22))),
]
ROWS, HEADS, SHARED, SIZE = 22, 4, 2, 8


def numbers(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    made = [torch.randn(n, ROWS, SIZE, generator=draw, dtype=torch.float64) for n in (HEADS, SHARED, SHARED)]
    return [x.to(dtype).requires_grad_() for x in made]


def dense(query: Tensor, key: Tensor, value: Tensor, window: int | None, softcap: float | None) -> Tensor:
    """Every row against every other, with a mask that says who sees whom."""
    visible = torch.zeros(ROWS, ROWS, dtype=torch.bool)
    for rows, seen in STRETCHES:
        order = [i for span in seen for i in span]
        for i in rows:
            upto = order.index(i) + 1
            visible[i, order[0 if window is None else max(0, upto - window) : upto]] = True
    key, value = (x.repeat_interleave(HEADS // SHARED, 0) for x in (key, value))
    scores = query @ key.transpose(1, 2) * 0.3
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    return (weights @ value).transpose(0, 1)


def test_rows_that_are_asked_for_become_stretches_that_see_what_they_saw() -> None:
    """A run within a trunk and one that reaches its end; a row of a branch by itself; one that is cut by a gap."""
    assert within(STRETCHES, [1, 2, 4, 5, 9, 11, 12, 19, 20, 21]) == [
        Stretch(range(1, 3), (range(3),)),
        Stretch(range(4, 5), (range(5),)),
        Stretch(range(5, 6), (range(5), range(5, 6))),
        Stretch(range(9, 10), (range(5), range(8, 10))),
        Stretch(range(11, 13), (range(5), range(8, 13))),
        Stretch(range(19, 20), (range(19, 20),)),
        Stretch(range(20, 22), (range(19, 20), range(20, 22))),
    ]


@pytest.mark.parametrize("window", [None, 4])
def test_attention_of_some_rows_is_theirs_and_nothing_elsewhere(window: int | None) -> None:
    asked = [1, 2, 7, 12, 18, 21]
    given, same = numbers(), numbers()
    found = Plan.of(within(STRETCHES, asked), window, given[0], given[1]).attend(*given, 0.3)
    expected = dense(*same, window, None) * torch.tensor([row in asked for row in range(ROWS)])[:, None, None]
    torch.testing.assert_close(found, expected)
    found.pow(3).sum().backward()
    expected.pow(3).sum().backward()
    for ours, theirs in zip(given, same, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("packing", [Packing(128, 1, 20), Packing(4, 16, 1000), Packing(3, 1, 0)])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_values_and_gradients_are_those_of_one_dense_product(
    packing: Packing, window: int | None, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "WHOLE", packing)
    given, same = numbers(), numbers()
    plan = Plan.of(STRETCHES, window, given[0], given[1])
    found, expected = plan.attend(*given, 0.3, softcap=softcap), dense(*same, window, softcap)
    torch.testing.assert_close(found, expected)
    found.pow(3).sum().backward()
    expected.pow(3).sum().backward()
    for ours, theirs in zip(given, same, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_second_derivatives_are_those_of_one_dense_product() -> None:
    """Trust regions multiply with a Hessian."""
    products = []
    for attend in (lambda *given: Plan.of(STRETCHES, None, *given[:2]).attend(*given, 0.3), dense_whole):
        given = numbers()
        slopes = torch.autograd.grad(attend(*given).pow(3).sum(), given, create_graph=True)
        products.append(torch.autograd.grad(sum(slope.pow(2).sum() for slope in slopes), given))
    for ours, theirs in zip(*products, strict=True):
        torch.testing.assert_close(ours, theirs)


def dense_whole(*given: Tensor) -> Tensor:
    return dense(*given, None, None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_smaller_numbers_are_near_and_none_is_missing(dtype: torch.dtype) -> None:
    """Also where padded rows see nothing at all, which -inf would make NaN."""
    given, exact = numbers(dtype), numbers()
    found = Plan.of(STRETCHES, None, given[0], given[1]).attend(*given, 0.3)
    expected = dense_whole(*exact)
    found.float().pow(2).sum().backward()
    expected.pow(2).sum().backward()
    near = 8 * torch.finfo(dtype).eps
    assert (found - expected).abs().max() <= near * expected.abs().max()
    for ours, theirs in zip(given, exact, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert (ours.grad - theirs.grad).abs().max() <= near * theirs.grad.abs().max()


def test_products_that_float16_has_no_room_for_are_scaled_first() -> None:
    query, key, value = (x.detach() for x in numbers(torch.float16))
    found = Plan.of(STRETCHES, None, query, key).attend(100 * query, 200 * key, value, 1e-4)
    expected = Plan.of(STRETCHES, None, query, key).attend(query, key, value, 2.0)
    assert (100 * query.double() @ (200 * key.double()).repeat_interleave(2, 0).mT).abs().max() > 65504
    assert (found - expected).abs().max() <= 8 * torch.finfo(torch.float16).eps * expected.abs().max()


def test_a_stretch_joins_where_padding_costs_less_than_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stretches see themselves alone (5 x 5 and 1 x 1), three more than twice that (2 x 3, 3 x 8, 11 x 16)."""

    def shapes() -> list[tuple[int, int, int]]:
        groups = Plan.of(STRETCHES, None, *numbers()[:2]).groups
        assert [tuple(g.mask.shape) for g in groups] == [(g.stretches, g.rows, g.reach) for g in groups]
        return [(g.stretches, g.rows, g.reach) for g in groups]

    apart = [(1, 3, 8), (1, 1, 1), (1, 2, 3), (1, 5, 5), (1, 11, 16)]
    monkeypatch.setattr(attention, "WHOLE", Packing(128, 1, 0))
    assert shapes() == apart
    monkeypatch.setattr(attention, "WHOLE", Packing(128, 1, 4))  # 2 x 2 x 3 scores instead of 1 and 6: 5 more
    assert shapes() == apart
    monkeypatch.setattr(attention, "WHOLE", Packing(128, 1, 5))
    assert shapes() == [(1, 3, 8), (2, 2, 3), (1, 5, 5), (1, 11, 16)]
    monkeypatch.setattr(attention, "WHOLE", Packing(128, 1, 1000))  # none is lost
    assert shapes() == [(5, 11, 16)]
    monkeypatch.setattr(attention, "MOST_SCORES", 100 * HEADS)
    assert shapes() == [(3, 3, 8), (1, 5, 5), (1, 11, 16)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_its_own_gradient_is_the_library_s_but_for_the_order_of_adding_up(dtype: torch.dtype) -> None:
    slope = torch.randn(ROWS, HEADS, SIZE, generator=torch.Generator().manual_seed(1)).to(dtype)
    results = []
    for how in (Plan.attend, lambda plan, *given: plan.step_by_step(*plan.gathered(*given))):
        given = numbers(dtype)
        found = how(Plan.of(STRETCHES, None, *given[:2]), *given, 0.3)
        results.append([found, *torch.autograd.grad(found, given, slope)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2 * torch.finfo(dtype).eps, atol=2 * torch.finfo(dtype).eps)


def test_second_derivatives_of_what_is_trained_alone() -> None:
    """An adapter may have queries that are trained and keys that are not."""
    products = []
    for attend in (lambda *given: Plan.of(STRETCHES, None, *given[:2]).attend(*given, 0.3), dense_whole):
        query, key, value = numbers()
        value = value.detach()
        slopes = torch.autograd.grad(attend(query, key, value).pow(3).sum(), (query, key), create_graph=True)
        products.append(torch.autograd.grad(sum(slope.pow(2).sum() for slope in slopes), (query, key)))
    for ours, theirs in zip(*products, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_blocks_see_what_lies_before_them_within_the_window() -> None:
    whole = Stretch(range(10, 15), (range(4), range(10, 15)))
    assert list(blocks(whole, 2, None)) == [
        Stretch(range(10, 12), (range(4), range(10, 12))),
        Stretch(range(12, 14), (range(4), range(10, 14))),
        Stretch(range(14, 15), (range(4), range(10, 15))),
    ]
    assert list(blocks(whole, 3, 2)) == [
        Stretch(range(10, 13), (range(3, 4), range(10, 13))),
        Stretch(range(13, 15), (range(4, 4), range(12, 15))),
    ]


def test_bags_add_rows_and_their_transposed_sends_them_back() -> None:
    bags = Bags.of(torch.tensor([2, -1, 0, 2]), columns=3)
    rows = torch.tensor([[1.0], [10.0], [100.0]])
    assert bags.add(rows).flatten().tolist() == [100.0, 0.0, 1.0, 100.0]
    assert bags.transposed.add(torch.tensor([[1.0], [2.0], [4.0], [8.0]])).flatten().tolist() == [4.0, 0.0, 9.0]


def test_heads_that_cannot_share_are_refused() -> None:
    with pytest.raises(ValueError, match="3 heads of queries cannot share 2"):
        Plan.of(STRETCHES, None, torch.zeros(3, ROWS, SIZE), torch.zeros(2, ROWS, SIZE))
