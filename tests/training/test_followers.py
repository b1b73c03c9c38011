"""Tensors that follow the trained weights are part of what a run keeps, and of what its best step returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.errors import RunError
from prefloop.training.offline import train_offline
from tests.small import build, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def targets(algorithm: Any) -> list[torch.Tensor]:
    return [p.clone() for p in algorithm.heads.target.parameters()]


def test_the_best_step_brings_its_own_targets(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The held-out loss rises after the first measurement: targets and weights of that step come back."""
    algorithm, run = build("ilql", inputs, tmp_path / "run", keep_best=True, eval_every=2, steps=6, lr=1e-2)
    algorithm.eval_rows = algorithm.train_rows[:4]
    seen: list[list[torch.Tensor]] = []
    losses = iter([1.0, 2.0, 3.0])

    def measured(model: Any, budget: int) -> dict[str, float]:
        seen.append(targets(algorithm))
        return {"eval_loss": next(losses)}

    monkeypatch.setattr("prefloop.training.offline.evaluate_offline", measured)
    assert train_offline(algorithm, run) == {"best_step": 2}
    assert all(torch.equal(a, b) for a, b in zip(targets(algorithm), seen[0], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(seen[0], seen[-1], strict=True))


def test_a_checkpoint_keeps_them(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, run = build("ilql", inputs, tmp_path / "run", steps=6, checkpoint_seconds=0)
    asked = iter([False, False, True])
    monkeypatch.setattr("prefloop.training.run_lock.was_asked_to_stop", lambda folder: next(asked, False))
    with pytest.raises(RunError, match="stopped after step 3"):
        train_offline(algorithm, run)
    restored = run.restore()
    assert restored is not None
    kept = {name: t for name, t in restored[1].items() if name.startswith("follower/")}
    assert len(kept) == len(targets(algorithm)) > 0
    for name, parameter in algorithm.heads.target.named_parameters():
        assert torch.equal(kept[f"follower/{name}"], parameter)
