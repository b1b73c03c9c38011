"""Micro-batches, masks and the order of the data, against cases worked by hand."""

from __future__ import annotations

import pytest
import torch

from prefloop.datasets.collate import (
    batch_indices,
    completion_mask,
    micro_batches,
    pad,
    text_batches,
    weighted_indices,
)
from prefloop.models.template import Encoded


def test_pad_fills_on_the_right() -> None:
    assert pad([[5, 6, 7], [8], []], 9).tolist() == [[5, 6, 7], [8, 9, 9], [9, 9, 9]]
    assert pad([], 0).numel() == 0


def test_completion_mask_is_true_from_start_to_end() -> None:
    assert completion_mask([1, 0], [3, 2], 4).tolist() == [[False, True, True, False], [True, True, False, False]]


def test_micro_batches_keep_within_the_budget() -> None:
    lengths = {"a": 10, "b": 2, "c": 9, "d": 3, "e": 30, "f": 2}
    found = micro_batches(list(lengths), lengths.__getitem__, 20)
    # 30 goes alone; 10 and 9 leave no room for 3
    assert found == [["e"], ["a", "c"], ["d", "b", "f"]]


@pytest.mark.parametrize("budget", [1, 7, 64, 1000])
def test_no_row_is_lost_and_the_longest_come_first(budget: int) -> None:
    rows = [(i * 37) % 23 + 1 for i in range(100)]
    found = micro_batches(rows, lambda n: n, budget)
    assert sorted(row for micro in found for row in micro) == sorted(rows)
    assert all(sum(micro) <= budget or len(micro) == 1 for micro in found)
    assert [micro[0] for micro in found] == sorted((micro[0] for micro in found), reverse=True)


def test_no_rows_no_micro_batches() -> None:
    assert micro_batches([], len, 10) == []


@pytest.mark.parametrize(("n", "size"), [(10, 3), (10, 5), (10, 10), (3, 10), (1, 1)])
def test_every_epoch_takes_each_row_once(n: int, size: int) -> None:
    per_epoch = -(-n // size)
    orders = []
    for epoch in range(3):
        batches = [batch_indices(n, size, epoch * per_epoch + place, seed=4) for place in range(per_epoch)]
        assert all(len(batch) == size for batch in batches[:-1])
        order = [i for batch in batches for i in batch]
        assert sorted(order) == list(range(n))
        orders.append(order)
    assert n < 10 or orders[0] != orders[1]


def test_the_order_is_a_function_of_the_seed() -> None:
    assert batch_indices(50, 8, 3, seed=1) == batch_indices(50, 8, 3, seed=1)
    assert batch_indices(50, 8, 3, seed=1) != batch_indices(50, 8, 3, seed=2)


def test_texts_with_one_prompt_are_measured_together() -> None:
    """Prompts of 4 tokens, completions of 2: three share one (10 tokens), one stands alone (6)."""
    p, q = [1, 2, 3, 4], [1, 2, 3, 5]
    texts = [Encoded([*p, 10, 11], 4), Encoded([*q, 10, 11], 4), Encoded([*p, 12, 13], 4), Encoded([*p, 14, 15], 4)]
    assert text_batches(texts, 16) == [[0, 2, 3, 1]]
    assert text_batches(texts, 10) == [[0, 2, 3], [1]]
    # a group that does not fit is cut, and its prompt computed in both parts: 8, then 6 with 6
    assert text_batches(texts, 9) == [[0, 2], [3], [1]]
    assert sorted(text_batches(texts, 1)) == [[0], [1], [2], [3]]


def test_rows_drawn_by_chance_are_a_function_of_seed_and_step_and_never_those_of_chance_0() -> None:
    chances = torch.tensor([1.0, 0.0, 3.0])
    drawn = [i for step in range(500) for i in weighted_indices(chances, 8, step, 0)]
    assert set(drawn) == {0, 2}
    assert drawn.count(2) / len(drawn) == pytest.approx(0.75, abs=0.03)
    assert weighted_indices(chances, 8, 3, 0) == weighted_indices(chances, 8, 3, 0)
    assert weighted_indices(chances, 8, 3, 0) != weighted_indices(chances, 8, 4, 0)
    assert weighted_indices(chances, 8, 3, 0) != weighted_indices(chances, 8, 3, 1)
