"""What the offline loop asks of a method, and when: once per batch, after each step, and for a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prefloop.errors import RunError
from prefloop.training.offline import Loss, evaluate_offline, train_offline
from prefloop.training.run import Run, RunSettings


class Shrink:
    """One weight is drawn to the rows' mean, and a slow copy of it follows; it writes down what it was asked."""

    name = "shrink"

    def __init__(self) -> None:
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.model.weight, 4.0)
        self.slow = torch.tensor(4.0)
        self.train_rows, self.eval_rows = [0.0, 1.0, 2.0], [5.0, 7.0]
        self.asked: list[Any] = []
        self.mean = 0.0

    def length(self, row: float) -> int:
        return 10

    def weight(self, row: float) -> float:
        return 1.0

    def identity(self, row: float) -> str:
        return str(row)

    def prepare(self, rows: Sequence[float]) -> None:
        assert not torch.is_grad_enabled()
        self.mean = sum(rows) / len(rows)
        self.asked.append(sorted(rows))

    def loss(self, rows: Sequence[float]) -> Loss:
        values = (self.model.weight.view(1) - self.mean).square().expand(len(rows))
        return Loss(values, torch.ones(len(rows)))

    def followers(self) -> dict[str, Tensor]:
        return {"slow": self.slow}

    def follow(self, step: int) -> None:
        self.slow.lerp_(self.model.weight.detach()[0, 0], 0.5)
        self.asked.append(step)

    def save(self, folder: Path) -> None:
        raise AssertionError


def run_in(folder: Path, batch_size: int = 3) -> Run:
    settings = RunSettings(
        steps=3, batch_size=batch_size, lr=0.1, device="cpu", checkpoint_seconds=60, micro_batch_tokens=10, log_every=1
    )
    run = Run(folder, "shrink", settings, {}, log=lambda words: None)
    run.begin((folder / "settings.json").exists())
    return run


def test_a_batch_is_prepared_once_whatever_its_pieces_and_each_step_is_told(tmp_path: Path) -> None:
    algorithm = Shrink()
    train_offline(algorithm, run_in(tmp_path))
    batch = [0.0, 1.0, 2.0]
    assert algorithm.asked == [batch, 1, batch, 2, batch, 3, [5.0, 7.0]]
    weight = algorithm.model.weight.item()
    assert evaluate_offline(algorithm, 10)["eval_loss"] == pytest.approx((weight - 6) ** 2, rel=1e-5)


@pytest.mark.parametrize(("batch_size", "epochs"), [(1, [1 / 3, 2 / 3, 1]), (2, [0.5, 1, 1.5]), (32, [1, 2, 3])])
def test_an_epoch_is_over_when_each_row_came_once_however_small_the_last_batch(
    tmp_path: Path, batch_size: int, epochs: list[float]
) -> None:
    train_offline(Shrink(), run_in(tmp_path, batch_size))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if "epoch" in row] == pytest.approx(epochs)


def test_what_a_method_keeps_beside_its_weights_is_in_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Shrink()
    train_offline(whole, run_in(tmp_path / "whole"))
    asked = iter([False, True])
    monkeypatch.setattr("prefloop.training.run_lock.was_asked_to_stop", lambda folder: next(asked, False))
    run = run_in(tmp_path / "cut")
    with pytest.raises(RunError, match="as asked"):
        train_offline(Shrink(), run)
    run.close()
    again = Shrink()
    train_offline(again, run_in(tmp_path / "cut"))
    assert again.asked == [[0.0, 1.0, 2.0], 3, [5.0, 7.0]]
    assert torch.equal(again.slow, whole.slow)
    assert again.slow.item() != 4.0
    assert torch.equal(again.model.weight, whole.model.weight)
