"""Running means, by hand."""

from __future__ import annotations

import json

import torch

from prefloop.training.metrics import Means


def test_weighted_means() -> None:
    means = Means()
    means.add({"a": torch.tensor([1.0, 3.0]), "b": torch.tensor(5.0)}, torch.tensor([3.0, 1.0]))
    means.add({"a": torch.tensor([7.0])}, torch.tensor([4.0]))
    assert means.read() == {"a": (3 + 3 + 28) / 8, "b": 5.0}
    assert means.read() == {}


def test_a_state_that_went_through_json_goes_on_exactly() -> None:
    whole, cut = Means(), Means()
    values = [torch.tensor([0.1, 0.2]), torch.tensor([1 / 3]), torch.tensor([1e-9])]
    for value in values:
        whole.add({"x": value})
    cut.add({"x": values[0]})
    resumed = Means()
    resumed.load(json.loads(json.dumps(cut.state())))
    for value in values[1:]:
        resumed.add({"x": value})
    assert resumed.read() == whole.read()
