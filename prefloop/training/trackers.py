"""Where a run can be watched: TensorBoard always, Weights & Biases, MLflow and trackio where they are asked for.

What counts is `metrics.jsonl`. A tracker that fails is left out from then on; the run says so, once, and goes on.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from prefloop.errors import InputError
from prefloop.records import content_hash

Tracked = Literal["wandb", "mlflow", "trackio"]
FOLDER = "tensorboard"
"""Of the event files: in the run's folder, later beside the artifact's payload."""
PROJECT = "prefloop"
Row = Mapping[str, str | float]


@dataclass(frozen=True)
class Watched:
    """The run that is to be shown."""

    folder: Path
    settings: Mapping[str, Any]
    step: int
    """The first one that will be told: of a run that was resumed, what was told from it on is out of date."""

    @property
    def name(self) -> str:
        return str(self.settings.get("name") or self.settings.get("method"))

    @property
    def id(self) -> str:
        """The same again when the run is resumed."""
        return content_hash([str(self.folder), dict(self.settings)])[:16]


class Tracker(Protocol):
    """Shows one run."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def samples(self, step: int, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


class Trackers:
    """All that watch one run; they are opened with the first thing to tell."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        asked: Sequence[Tracked],
        log: Callable[[str], None],
    ) -> None:
        """Raises InputError for one that is asked for and not installed."""
        if missing := [name for name in asked if importlib.util.find_spec(name) is None]:
            raise InputError(f"tracker {missing[0]!r} is not installed: pip install {missing[0]}, or leave it out")
        self.folder, self.settings, self.log = folder, settings, log
        self.makers: dict[str, Callable[[Watched], Tracker]] = {"tensorboard": TensorBoard}
        self.makers |= {name: MORE[name] for name in asked}
        self.open: dict[str, Tracker] | None = None

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics."""
        self._each(step, lambda tracker: tracker.metrics(step, values))

    def samples(self, step: int, rows: Sequence[Row]) -> None:
        """A table of samples; every row has the same columns."""
        self._each(step, lambda tracker: tracker.samples(step, rows))

    def close(self) -> None:
        """Nothing more will be told."""
        for name, tracker in (self.open or {}).items():
            self._safely(name, tracker.close)
        self.open = {}

    def _each(self, step: int, tell: Callable[[Tracker], None]) -> None:
        if self.open is None:
            self.open = {}
            watched = Watched(self.folder, self.settings, step)
            for name, make in self.makers.items():
                if (made := self._safely(name, lambda make=make: make(watched))) is not None:  # type: ignore[misc]
                    self.open[name] = made
        for name, tracker in list(self.open.items()):
            self._safely(name, lambda tracker=tracker: tell(tracker))  # type: ignore[misc]

    def _safely(self, name: str, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except Exception as error:  # whatever it is: a run of three days does not end because a server is away
            if self.open is not None:
                self.open.pop(name, None)
            self.log(f"tracker {name} failed and is left out from here on: {type(error).__name__}: {error}")
            return None


class TensorBoard:
    """Event files, by tensorboardX: `tensorboard --logdir artifacts`."""

    def __init__(self, watched: Watched) -> None:
        from tensorboardX import SummaryWriter

        # The library names a file by its second: with the step in it, a run that is resumed at once has one of its own.
        self.writer = SummaryWriter(
            str(watched.folder / FOLDER), purge_step=watched.step, filename_suffix=f".{watched.step}"
        )

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def samples(self, step: int, rows: Sequence[Row]) -> None:
        lines: list[list[object]] = [list(rows[0]), ["---"] * len(rows[0])]
        lines += [list(row.values()) for row in rows]
        self.writer.add_text("samples", "\n".join("|".join(["", *map(_cell, line), ""]) for line in lines), step)

    def close(self) -> None:
        self.writer.close()


class WandB:
    """Weights & Biases; its own environment variables say where to (WANDB_PROJECT, WANDB_MODE, ...)."""

    def __init__(self, watched: Watched) -> None:
        import os

        import wandb

        self.wandb = wandb
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=watched.name,
            id=watched.id,
            resume="allow",
            config=dict(watched.settings),
            dir=str(watched.folder),
        )

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def samples(self, step: int, rows: Sequence[Row]) -> None:
        table = self.wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
        self.run.log({"samples": table}, step=step)

    def close(self) -> None:
        self.run.finish()


class MLflow:
    """MLflow; MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say where to."""

    def __init__(self, watched: Watched) -> None:
        import mlflow

        self.mlflow = mlflow
        mlflow.start_run(run_name=f"{watched.name}-{watched.id[:8]}", tags={"prefloop.run": watched.id})
        mlflow.log_params({name: str(value)[:500] for name, value in watched.settings.items()})

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.mlflow.log_metrics(dict(values), step=step)

    def samples(self, step: int, rows: Sequence[Row]) -> None:
        columns = {"step": [step] * len(rows), **{name: [row[name] for row in rows] for name in rows[0]}}
        self.mlflow.log_table(columns, "samples.json")

    def close(self) -> None:
        self.mlflow.end_run()


class Trackio:
    """trackio, on this machine; TRACKIO_SPACE_ID sends it to a Space."""

    def __init__(self, watched: Watched) -> None:
        import trackio

        self.trackio = trackio
        name = f"{watched.name}-{watched.id[:8]}"
        trackio.init(project=PROJECT, name=name, config=dict(watched.settings), resume="allow")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.trackio.log(dict(values), step=step)

    def samples(self, step: int, rows: Sequence[Row]) -> None:
        from pandas import DataFrame

        self.trackio.log({"samples": self.trackio.Table(dataframe=DataFrame([dict(row) for row in rows]))}, step=step)

    def close(self) -> None:
        self.trackio.finish()


MORE: dict[str, Callable[[Watched], Tracker]] = {"wandb": WandB, "mlflow": MLflow, "trackio": Trackio}


def _cell(value: object) -> str:
    """Text as a cell of a Markdown table."""
    words = f"{value:.4g}" if isinstance(value, float) else str(value)
    return words.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("\r", " ")
