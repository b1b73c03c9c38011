"""Experience: what a rollout holds, and what is left of it when some of its sequences are taken."""

from __future__ import annotations

import torch

from prefloop.generation.sampler import Sample
from prefloop.training.rollout import Rollout, make_rollout


def rollout() -> Rollout:
    samples = [
        Sample([7, 2], [-0.5, -1.5], terminated=True),
        Sample([8, 9, 8], [-1.0, -2.0, -3.0], terminated=False),
    ]
    return make_rollout([[1, 5, 6], [1]], samples, [0.5, -1.0], 0, 4, torch.device("cpu"))


def test_what_was_sampled_is_what_is_kept() -> None:
    made = rollout()
    assert made.ids.tolist() == [[1, 5, 6, 7, 2], [1, 8, 9, 8, 0]]
    assert made.starts.tolist() == [3, 1]
    assert made.valid.tolist() == [[True, True, False], [True, True, True]]
    assert made.sampled_logprobs.tolist() == [[-0.5, -1.5, 0.0], [-1.0, -2.0, -3.0]]
    assert made.terminated.tolist() == [True, False]
    assert made.scores.tolist() == [0.5, -1.0]
    assert made.lengths.tolist() == [5, 4]
    assert (len(made), made.weight_version) == (2, 4)


def test_the_eos_that_was_sampled_is_a_decision() -> None:
    made = rollout()
    last = made.starts[0] + int(made.valid[0].sum()) - 1
    assert made.ids[0, last].item() == 2


def test_some_of_the_sequences_without_the_columns_of_the_others() -> None:
    made = rollout()
    made.added.update(advantages=torch.arange(6.0).view(2, 3), group=torch.tensor([10, 11]))
    part = made.rows([1])
    assert part.ids.tolist() == [[1, 8, 9, 8]]
    assert part.valid.tolist() == [[True, True, True]]
    assert part.added["advantages"].tolist() == [[3.0, 4.0, 5.0]]
    assert part.added["group"].tolist() == [11]
    assert made.rows([0]).valid.tolist() == [[True, True]]
    assert made.rows([1, 0]).scores.tolist() == [-1.0, 0.5]
