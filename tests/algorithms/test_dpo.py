"""Direct preference optimization: its loss and its gradient, by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.training.offline import evaluate_offline, train_offline
from tests.small import build, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_at_the_reference_the_loss_is_log_2(inputs: Path, tmp_path: Path, smoothing: float) -> None:
    algorithm, _ = build("dpo", inputs, tmp_path / "run", label_smoothing=smoothing)
    algorithm.model.eval()
    loss = algorithm.loss(algorithm.train_rows)
    assert loss.values.tolist() == pytest.approx([math.log(2)] * 12, abs=1e-5)
    assert loss.metrics["rewards/margins"].tolist() == pytest.approx([0.0] * 12, abs=1e-5)


def sums(algorithm: Any, monkeypatch: pytest.MonkeyPatch, values: list[list[float]]) -> torch.Tensor:
    """Stands in for the policy's log-probabilities of chosen and rejected."""
    given = torch.tensor(values, requires_grad=True)
    monkeypatch.setattr(algorithm, "_sums", lambda rows: given)
    return given


def test_loss_and_gradient(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """z = (-10 + 12) - (-9 + 6) = 5, beta 0.1: -log sigmoid(0.5), and a slope of -0.1 sigmoid(-0.5)."""
    algorithm, _ = build("dpo", inputs, tmp_path / "run", beta=0.1)
    row = algorithm.train_rows[0]
    algorithm._reference[id(row)] = torch.tensor([-12.0, -6.0])
    given = sums(algorithm, monkeypatch, [[-10.0, -9.0]])
    loss = algorithm.loss([row])
    assert loss.values.item() == pytest.approx(math.log(1 + math.exp(-0.5)), rel=1e-6)
    loss.values.sum().backward()
    slope = 0.1 / (1 + math.exp(0.5))
    assert given.grad is not None
    assert given.grad.tolist() == [pytest.approx([-slope, slope], rel=1e-5)]
    assert loss.metrics["rewards/chosen"].item() == pytest.approx(0.2, rel=1e-5)
    assert loss.metrics["rewards/rejected"].item() == pytest.approx(-0.3, rel=1e-5)
    assert loss.metrics["rewards/accuracies"].item() == 1.0


def test_smoothing_mixes_the_labels(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """e = 0.1 on a label of 0.8: 0.9 * 0.8 + 0.1 * 0.2 = 0.74."""
    algorithm, _ = build("dpo", inputs, tmp_path / "run", beta=1.0, label_smoothing=0.1)
    row = replace(algorithm.train_rows[0], label=0.8)
    algorithm._reference[id(row)] = torch.zeros(2)
    sums(algorithm, monkeypatch, [[math.log(3), 0.0]])
    expected = -0.74 * math.log(0.75) - 0.26 * math.log(0.25)
    assert algorithm.loss([row]).values.item() == pytest.approx(expected, rel=1e-5)


def test_the_policys_sums_are_over_the_completion(inputs: Path, tmp_path: Path) -> None:
    algorithm, _ = build("dpo", inputs, tmp_path / "run")
    algorithm.model.eval()
    rows = algorithm.train_rows[:3]
    with torch.no_grad():
        found = algorithm._sums(rows)
        for i, row in enumerate(rows):
            for side, text in enumerate((row.chosen, row.rejected)):
                ids = torch.tensor([text.ids])
                logp = algorithm.model(input_ids=ids).logits[0].log_softmax(-1)
                expected = sum(logp[t - 1, ids[0, t]].item() for t in range(text.prompt_length, text.length))
                assert found[i, side].item() == pytest.approx(expected, abs=1e-4)


def test_training_prefers_what_people_preferred(inputs: Path, tmp_path: Path) -> None:
    algorithm, run = build("dpo", inputs, tmp_path / "run", epochs=20, lr=3e-3, test_share=0.3)
    assert len(algorithm.eval_rows) > 0
    train_offline(algorithm, run)
    held_out = evaluate_offline(algorithm, 4096)
    assert run.metrics[-2]["rewards/accuracies"] == 1.0
    assert held_out["eval_rewards/accuracies"] == 1.0
    assert held_out["eval_loss"] < 0.6
