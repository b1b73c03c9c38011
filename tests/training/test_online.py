"""How the online loop cuts prompts into rollouts and rollouts into minibatches."""

from __future__ import annotations

from collections import Counter

import pytest

from prefloop.datasets.collate import cycled
from prefloop.training.online import _parts, distinct
from prefloop.training.online_roles import prompt_room


@pytest.mark.parametrize(("n", "size"), [(5, 3), (3, 5), (4, 4), (1, 6), (7, 2)])
def test_every_prompt_comes_once_before_any_comes_again(n: int, size: int) -> None:
    stream = [i for step in range(12) for i in cycled(n, size, step, seed=3)]
    assert len(stream) == 12 * size
    for first in range(0, len(stream) - n + 1, n):
        assert sorted(stream[first : first + n]) == list(range(n))
    counts = Counter(stream).values()
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(("n", "parts", "sizes"), [(8, 4, [2, 2, 2, 2]), (7, 3, [2, 2, 3]), (2, 4, [1, 1])])
def test_minibatches_differ_by_one_at_most(n: int, parts: int, sizes: list[int]) -> None:
    order = list(range(n))[::-1]
    found = _parts(order, parts)
    assert sorted(map(len, found)) == sizes
    assert [i for part in found for i in part] == order


@pytest.mark.parametrize(("length", "new", "room"), [(512, 128, 384), (64, 60, 32), (64, 200, 32), (9, 1, 8)])
def test_a_prompt_may_have_what_the_answer_leaves(length: int, new: int, room: int) -> None:
    assert prompt_room(length, new) == room


def test_distinct_n_grams() -> None:
    """1 2 1 2 has two words of four, and the pairs 12 21 12; with 3 four of six and three of four are new."""
    assert distinct([[1, 2, 1, 2]], 1) == 0.5
    assert distinct([[1, 2, 1, 2]], 2) == pytest.approx(2 / 3)
    assert distinct([[1, 2, 1, 2], [3, 4]], 1) == pytest.approx(4 / 6)
    assert distinct([[1, 2, 1, 2], [3, 4]], 2) == pytest.approx(3 / 4)
    assert distinct([[7]], 2) == 1.0
