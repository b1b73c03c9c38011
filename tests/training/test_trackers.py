"""Who watches a run: TensorBoard's files, the others by stand-ins with their interface, and a tracker that fails."""

from __future__ import annotations

import importlib.machinery
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from prefloop.artifacts.folder import read_artifact
from prefloop.errors import InputError
from prefloop.training.trackers import TensorBoard, Trackers, Watched
from prefloop.workflows.training import train
from tests.small import settings_of, write_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def events(folder: Path) -> dict[str, list[Any]]:
    """What the event files say: name -> [(step, value), ...], with `purged` for what they take back."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[Any]] = {}
    for path in sorted(folder.glob("events.*"), key=lambda p: p.stat().st_mtime_ns):
        data, at = path.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            if event.HasField("session_log"):
                found.setdefault("purged", []).append(event.step)
            for value in event.summary.value:
                said = value.tensor.string_val[0].decode() if value.HasField("tensor") else value.simple_value
                found.setdefault(value.tag, []).append((event.step, said))
    return found


def test_tensorboard_has_what_the_metrics_have_and_is_not_in_the_hash(inputs: Path, tmp_path: Path) -> None:
    settings = settings_of("rloo", inputs, log_every=1, log_samples=2)
    first = train("rloo", out=tmp_path / "a", overrides=settings, log=lambda words: None)
    second = train("rloo", out=tmp_path / "b", overrides=settings, log=lambda words: None)
    assert first["hash"] == second["hash"] == read_artifact(tmp_path / "a").hash
    told = events(tmp_path / "a" / "tensorboard")
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 5
    for name in ("objective/scores", "objective/kl", "lr"):
        assert told[name] == [(row["step"], pytest.approx(row[name], rel=1e-6, abs=1e-12)) for row in rows]
    tables = [table for name in told if name.startswith("samples") for _, table in told[name]]
    assert len(tables) == 5
    assert tables[0].startswith("|prompt|completion|score|kl|")
    assert "Which fruit, number" in tables[0]
    assert len(tables[0].splitlines()) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_resumed_run_takes_back_what_it_had_said_of_later_steps(tmp_path: Path) -> None:
    for first, steps in ((1, (1, 2, 3)), (3, (3, 4))):
        board = TensorBoard(Watched(tmp_path, {"method": "sft"}, first))
        for step in steps:
            board.metrics(step, {"loss": float(10 * first + step)})
        board.close()
    found = events(tmp_path / "tensorboard")
    assert found["purged"] == [1, 3]
    assert found["loss"] == [(1, 11.0), (2, 12.0), (3, 13.0), (3, 33.0), (4, 34.0)]


def test_a_cell_cannot_break_its_table(tmp_path: Path) -> None:
    board = TensorBoard(Watched(tmp_path, {"method": "ppo"}, 1))
    board.samples(1, [{"completion": "a | b\n# c", "score": 0.123456}])
    board.close()
    ((_, table),) = next(value for name, value in events(tmp_path / "tensorboard").items() if "samples" in name)
    assert table.splitlines()[2] == "|a \\| b # c|0.1235|"


class StandIn(ModuleType):
    """Writes down what it is asked for."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*given: Any, **named: Any) -> Any:
            self.calls.append((name, given, named))
            return self if name == "init" else (name, given, named)

        return call


@pytest.mark.parametrize(
    ("name", "logged", "ended"),
    [("wandb", "log", "finish"), ("mlflow", "log_metrics", "end_run"), ("trackio", "log", "finish")],
)
def test_the_others_are_told_what_is_logged(
    name: Any, logged: str, ended: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a stand-in with the interface of their documentation; none of them is installed here."""
    module = StandIn(name)
    monkeypatch.setitem(sys.modules, name, module)
    said: list[str] = []
    trackers = Trackers(tmp_path, {"method": "ppo", "lr": 1e-5}, [name], said.append)
    trackers.metrics(3, {"loss": 0.5})
    trackers.samples(3, [{"completion": "hello", "score": 1.0}])
    trackers.close()
    assert said == []
    assert (logged, ({"loss": 0.5},), {"step": 3}) in module.calls
    assert "hello" in str(module.calls)
    assert module.calls[-1][0] == ended


def test_one_that_fails_is_left_out_and_the_run_ends_well(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(StandIn):
        def log(self, *given: Any, **named: Any) -> None:
            self.calls.append(("log", given, named))
            raise ConnectionError("the server is away")

    module, said = Broken("trackio"), []
    monkeypatch.setitem(sys.modules, "trackio", module)
    settings = settings_of("sft", inputs, trackers=["trackio"], log_every=1)
    found = train("sft", out=tmp_path / "out", overrides=settings, log=said.append)
    assert found["steps"] > 3
    assert [name for name, *_ in module.calls].count("log") == 1
    assert (
        sum(
            "tracker trackio failed and is left out from here on: ConnectionError: the server is away" in w
            for w in said
        )
        == 1
    )
    assert events(tmp_path / "out" / "tensorboard")["loss"]


def test_one_that_is_asked_for_and_not_installed_is_refused_at_once(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tracker 'mlflow' is not installed: pip install mlflow"):
        train("sft", out=tmp_path / "out", overrides=settings_of("sft", inputs, trackers=["mlflow"]))
    assert not list(tmp_path.iterdir())
