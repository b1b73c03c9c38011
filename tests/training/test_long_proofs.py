"""Long proofs of the online loop: killed at 25 random points, and ten thousand steps in the same memory."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.artifacts.folder import read_artifact
from prefloop.training.run import Run
from prefloop.workflows.training import train
from tests.small import settings_of, weights_of, write_inputs

ROOT = Path(__file__).resolve().parents[2]
POINTS = ("token", "write", "update")
"""In the middle of a rollout, in the middle of a save (or of the final result), in the middle of an update."""
SETTINGS: dict[str, Any] = {"checkpoint_seconds": 0, "steps": 5, "rollout_epochs": 2, "minibatches": 2}

CHILD = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
from prefloop.generation.sampler import _Pool
from prefloop.training.optimizer import Optimizer
from prefloop.workflows.training import train
method, out, settings, resume, point, at = json.loads(sys.argv[1])
calls = {"token": 0, "write": 0, "update": 0}
def counted(name, honest):
    def call(*given):
        calls[name] += 1
        if name == point and calls[name] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(*given)
    return call
_Pool.step, os.fsync = counted("token", _Pool.step), counted("write", os.fsync)
Optimizer.step = counted("update", Optimizer.step)
train(method, out=out, overrides=settings, resume=resume, log=lambda words: None)
print(json.dumps(calls))
"""
"""A training process that is killed when it draws its `at`-th token, writes to disk or updates for the `at`-th time."""


def child(method: str, out: Path, settings: dict[str, Any], resume: bool, point: str, at: int) -> dict[str, int] | None:
    """How often it came by each kind of point, or None when it was killed."""
    words = json.dumps([method, str(out), settings, resume, point, at])
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    return json.loads(ended.stdout.splitlines()[-1]) if ended.returncode == 0 else None


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.prove
@pytest.mark.parametrize("method", ["ppo", "rloo"])
def test_killed_at_25_random_points_it_ends_with_the_same_hash(method: str, inputs: Path, tmp_path: Path) -> None:
    """PREFLOOP_KILLS says how many; each kill is of a fresh run, which another process then brings to its end."""
    settings = settings_of(method, inputs, **SETTINGS)
    whole = child(method, tmp_path / "whole", settings, False, "none", 0)
    assert whole is not None
    expected = read_artifact(tmp_path / "whole").hash
    seed = random.SystemRandom().randrange(10**6)
    chance = random.Random(seed)
    for kill in range(int(os.environ.get("PREFLOOP_KILLS", "25"))):
        point = POINTS[kill % len(POINTS)]
        at, cut = chance.randint(1, whole[point]), tmp_path / f"cut-{kill}"
        print(f"{method}, seed {seed}: kill {kill + 1} at {point} {at} of {whole[point]}")
        assert child(method, cut, settings, False, point, at) is None
        train(method, out=cut, overrides=settings, resume=True, log=lambda words: None)
        assert read_artifact(cut).hash == expected
        assert weights_of(cut) == weights_of(tmp_path / "whole")


@pytest.mark.prove
def test_ten_thousand_steps_of_ppo_in_the_memory_of_the_first_thousand(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PREFLOOP_SOAK_STEPS says how many; resident memory at the end is at most 1.02 times that after a tenth."""
    steps = int(os.environ.get("PREFLOOP_SOAK_STEPS", "10000"))
    held: dict[int, int] = {}
    honest = Run.checkpoint

    def measured(self: Run, step: int, *given: Any) -> None:
        honest(self, step, *given)
        if step in (steps // 10, steps):
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            held[step] = pages * os.sysconf("SC_PAGE_SIZE")

    monkeypatch.setattr(Run, "checkpoint", measured)
    settings = settings_of(
        "ppo", inputs, steps=steps, batch_size=2, max_new_tokens=4, lr=1e-5, log_every=1, rollout_epochs=1
    )
    train("ppo", out=tmp_path / "out", overrides=settings, log=lambda words: None)
    first, last = held[steps // 10], held[steps]
    print(f"{first / 2**20:.1f} MiB after {steps // 10} steps, {last / 2**20:.1f} MiB after {steps}")
    assert last <= 1.02 * first
