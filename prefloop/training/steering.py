"""A run that is steered while it runs, and can be repeated: a change is made between two steps, and written down.

Somebody leaves a request in the run's folder. Before its next step the run takes it up, and first writes it with the
step's number into `changes.jsonl`; a run that was killed and goes on makes it at that step again. The artifact's
manifest has all changes, and the setting `changes` makes the same ones in another run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat

from prefloop.artifacts.files import write_json, write_text
from prefloop.errors import InputError
from prefloop.settings import build

REQUEST, DONE = "change.json", "changes.jsonl"


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is otherwise from some step on; what is left out stays as it is."""

    step: NonNegativeInt
    """Steps that are done by then."""
    lr: PositiveFloat | None = None
    """Peak learning rate; the schedule goes on with it."""
    beta: NonNegativeFloat | None = None
    """Price of a nat of KL; with a kl_target it goes on being adapted from there."""
    kl_target: PositiveFloat | None = None
    """Nats per sequence that beta is adapted to."""

    @property
    def words(self) -> str:
        return ", ".join(f"{key} = {value:g}" for key, value in self.values().items())

    def values(self) -> dict[str, float]:
        """What changes, by name."""
        return {key: value for key, value in asdict(self).items() if key != "step" and value is not None}


class Steering:
    """The changes of one run, planned and asked for."""

    def __init__(self, folder: Path, planned: Sequence[Change]) -> None:
        self.folder = folder
        self.changes = [*planned, *_written(folder / DONE)]

    def before(self, step: int) -> list[Change]:
        """Those that were made before `step` steps were done, the oldest first."""
        return sorted((change for change in self.changes if change.step < step), key=lambda change: change.step)

    def at(self, step: int) -> list[Change]:
        """Those to make now, when `step` steps are done; a request is written down first."""
        request = self.folder / REQUEST
        if request.exists():
            asked = build(Change, {**json.loads(request.read_text(encoding="utf-8")), "step": step}, str(request))
            made = [*_written(self.folder / DONE), asked]
            write_text(self.folder / DONE, "".join(json.dumps({"step": c.step, **c.values()}) + "\n" for c in made))
            request.unlink()
            self.changes.append(asked)
        return [change for change in self.changes if change.step == step]

    def written(self) -> list[dict[str, Any]]:
        """All of them, for a manifest."""
        return [{"step": change.step, **change.values()} for change in sorted(self.changes, key=lambda c: c.step)]


def steer(folder: Path, values: Mapping[str, Any], *, online: bool) -> dict[str, float]:
    """Ask the run in `folder` for a change, in place of what was asked for and not yet taken up; returns it.

    Raises InputError for what cannot be changed, and for a price of KL where nothing is sampled.
    """
    change = build(Change, {**values, "step": 0}, "steer")
    if not change.values() or "step" in values:
        raise InputError("steer takes lr, beta or kl_target; for example: --set lr=1e-6 --set beta=0.1")
    check([change], online=online)
    write_json(folder / REQUEST, change.values())
    return change.values()


def check(changes: Sequence[Change], *, online: bool) -> None:
    """Raises InputError for a change that means nothing to a run."""
    for change in changes:
        if not online and set(change.values()) - {"lr"}:
            raise InputError(f"changes: {change.words} means nothing to a method that does not sample; lr does")


def _written(path: Path) -> list[Change]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [build(Change, json.loads(line), str(path)) for line in lines]
