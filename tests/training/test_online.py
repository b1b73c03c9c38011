"""How the online loop cuts prompts into rollouts and rollouts into minibatches."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.datasets.collate import cycled
from prefloop.models.heads import trainable
from prefloop.models.trees import Forest, Trunk
from prefloop.training import online
from prefloop.training.metrics import Means
from prefloop.training.online import _parts, distinct
from prefloop.training.online_roles import prompt_room
from prefloop.training.optimizer import Optimizer, Schedule
from tests.small import build, write_inputs


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


def test_a_group_shares_its_prompt_in_a_micro_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two groups of three: the trunk reads each prompt once a pass, and the gradient is that of each row alone."""
    torch.set_num_threads(1)
    algorithm, run = build("rloo", write_inputs(tmp_path), tmp_path / "run", rollout_epochs=1)
    roles = algorithm.roles
    rollout, _ = online.sample_rollout(roles, roles.sampler(), roles.prompts[:2], run, 0)
    rollout = algorithm.prepare(roles.measured(rollout, 10**6))
    read: list[int] = []
    honest = Trunk.__call__

    def noted(self: Trunk, forest: Forest, at: torch.Tensor) -> torch.Tensor:
        read.append(len(forest.ids))
        return honest(self, forest, at)

    monkeypatch.setattr(Trunk, "__call__", noted)

    def gradient(budget: int) -> torch.Tensor:
        read.clear()
        optimizer = Optimizer(trainable(roles.trained), Schedule(0.0, 1, 0, "constant"))
        monkeypatch.setattr(optimizer, "step", lambda what: {})
        online._update(algorithm, optimizer, rollout, range(6), Means(), budget)
        found = torch.cat([m.grad.flatten() for m in optimizer.masters])
        optimizer.discard()
        return found

    whole, pieces = gradient(10**6), gradient(1)
    prompts, completions = rollout.starts.view(2, 3)[:, 0].sum(), rollout.valid.sum()
    firsts = [[row[0] for row in rollout.completions()[first : first + 3]] for first in (0, 3)]
    assert all(len(set(each)) > 1 for each in firsts)  # they have nothing but the prompt in common
    gradient(10**6)
    assert read == [int(prompts + completions)]
    gradient(1)
    assert sum(read) == int(3 * prompts + completions)
    torch.testing.assert_close(whole, pieces, atol=1e-5, rtol=1e-5)


def test_a_group_stays_in_one_minibatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, run = build("grpo", write_inputs(tmp_path), tmp_path / "run", steps=1, batch_size=9)
    taken: list[list[int]] = []
    honest = online._update

    def spied(algorithm: Any, optimizer: Any, rollout: Any, rows: Any, *others: Any) -> bool:
        taken.append(list(rows))
        return honest(algorithm, optimizer, rollout, rows, *others)

    monkeypatch.setattr(online, "_update", spied)
    online.train_online(algorithm, run)
    groups = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    for first in (0, 2):  # two passes of two minibatches
        both = taken[first] + taken[first + 1]
        assert sorted(both) == list(range(9))
        assert all(both[i : i + 3] in groups for i in (0, 3, 6))
        assert sorted(len(part) for part in taken[first : first + 2]) == [3, 6]
