"""One training job: its settings, its folder, its random numbers, its metrics, and how it resumes.

While a job runs, its folder holds `settings.json`, `metrics.jsonl` and `checkpoints/`. What it returns is an
artifact elsewhere; the folder goes when the job is done. All randomness is a function of (seed, step), or is
kept in the checkpoint, so a job that was killed and resumed ends with the same bits.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from prefloop.artifacts.files import write_json, write_text
from prefloop.errors import InputError, RunError
from prefloop.models.checkpoint import load_checkpoint, save_checkpoint
from prefloop.training import run_lock
from prefloop.training.steering import DONE, REQUEST, Change, Steering
from prefloop.training.trackers import FOLDER as TENSORBOARD
from prefloop.training.trackers import Row, Tracked, Trackers

Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Train a low-rank adapter (PEFT) and leave the model's own weights as they are."""

    rank: PositiveInt = 8
    """Rank of the update; memory and capacity grow with it."""
    alpha: PositiveFloat = 16.0
    """The update is scaled by alpha / rank."""
    dropout: Share = 0.0
    """Dropout on the adapter's input."""
    targets: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the layers that get an adapter."""
    four_bit: bool = False
    """Hold the model's own weights in 4 bits while it is trained (QLoRA); needs the bitsandbytes library."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What every method needs to know. A method's own settings stand beside these in the same YAML."""

    policy: str = "builtin"
    """The model to start from: `builtin`, a directory, a hub id, or an artifact of the workspace."""
    data: str | list[str] | None = None
    """Snapshot name, hash, or file; without it the newest snapshot that fits. reward_model mixes a list of them."""
    name: str | None = None
    """Name of the artifact; without it the method's name."""
    seed: int = 0
    """Decides the order of the data, new weights, dropout and sampling."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    dtype: str = "auto"
    """auto (bfloat16 where the hardware has it), bfloat16 or float32."""
    epochs: PositiveFloat = 1.0
    """Passes over the data."""
    steps: PositiveInt | None = None
    """Optimizer steps (for ppo: rollouts); overrides `epochs`."""
    batch_size: PositiveInt = 32
    """Rows per optimizer step (for ppo: episodes per rollout)."""
    micro_batch_tokens: PositiveInt = 4096
    """Tokens at once, prompts counted once; halved when memory runs out, the batch staying whole. On a processor 1024
    is as fast with less memory."""
    max_length: Annotated[int, Field(ge=8)] = 512
    """Longest prompt plus completion, in tokens; longer ones are truncated and counted in the ledger."""
    lr: PositiveFloat = 1e-5
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """What the learning rate does after the warm-up; linear and cosine end at 0."""
    warmup: NonNegativeInt = 0
    """Steps over which the learning rate rises from 0."""
    stop_at: PositiveInt | None = None
    """End after this step, before the schedule does; for a run that is cut short in good order."""
    cooldown: NonNegativeInt = 0
    """Steps before `stop_at` over which the learning rate falls in a straight line to 0."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW's decay of matrices; vectors are never decayed."""
    max_grad_norm: PositiveFloat = 1.0
    """The gradient of a whole batch is clipped to this norm."""
    gradient_checkpointing: bool = False
    """Keep only the layers' inputs and compute them again in the backward pass: less memory, a third more time."""
    lora: LoraSettings | None = None
    """Train an adapter and not the whole model."""
    eval_every: NonNegativeInt = 0
    """Measure on the held-out rows every so many steps; 0 measures only at the end."""
    keep_best: bool = False
    """Return the weights with the lowest held-out loss, not the last; needs eval_every."""
    patience: NonNegativeInt = 0
    """Stop after so many measurements without a new lowest held-out loss; 0 never stops early."""
    test_share: Share = 0.1
    """Share of a plain file's prompts that is held out; a snapshot brings its own split."""
    max_dropped: Annotated[float, Field(ge=0, le=1)] = 0.05
    """The run refuses to start when more than this share of the rows cannot be used."""
    log_every: PositiveInt = 10
    """Steps between two lines of metrics."""
    trackers: list[Tracked] = field(default_factory=list)
    """Who is told beside TensorBoard, of wandb, mlflow and trackio; each must be installed."""
    log_samples: NonNegativeInt = 0
    """Completions per line of metrics that all of them are shown, with prompt and score, of methods that sample."""
    checkpoint_seconds: NonNegativeFloat = 60.0
    """Time between two checkpoints."""
    changes: list[Change] = field(default_factory=list)
    """What changes while it runs, as `prefloop runs --steer` would: [{step: 100, lr: 1e-6, beta: 0.1}]."""


@dataclass
class Run:
    """A job in its folder."""

    folder: Path
    method: str
    settings: RunSettings
    resolved: dict[str, Any]
    """Every setting as plain values, the method's own included; two runs with equal ones are the same run."""
    log: Callable[[str], None]
    trackers: Trackers | None = None
    """Who watches, beside metrics.jsonl."""
    steering: Steering = field(init=False)
    """Set by `begin`."""
    _last_checkpoint: float = field(default_factory=time.monotonic)

    def begin(self, resume: bool) -> None:
        """Make the folder, or go on in it. What another try left there before its first checkpoint is replaced.

        Raises InputError when a run with a checkpoint is there and `resume` was not asked for, or its settings were
        others; RunError when another process is at work on it.
        """
        known = self.folder / "settings.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        run_lock.take(self.folder)
        for part in (self.folder / "checkpoints").glob(".*.part"):
            shutil.rmtree(part)  # left by a kill in the middle of a checkpoint
        if known.exists() and any((self.folder / "checkpoints").glob("step-*")):
            if not resume:
                raise InputError(
                    f"an unfinished run is in {self.folder}; add --resume to go on with it, or remove that folder"
                )
            before = json.loads(known.read_text(encoding="utf-8"))
            changed = sorted(k for k in {*before, *self.resolved} if before.get(k) != self.resolved.get(k))
            if changed:
                key = changed[0]
                raise InputError(
                    f"cannot resume with other settings: {key} was {before.get(key)!r}, now {self.resolved.get(key)!r}"
                )
        else:
            for name in (REQUEST, DONE):
                (self.folder / name).unlink(missing_ok=True)
            if resume:
                self.log("nothing to resume: starting from the beginning")
        write_json(known, self.resolved)
        self.steering = Steering(self.folder, self.settings.changes)

    def restore(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """The newest good checkpoint as (step, tensors, state); metrics after it are taken back."""
        found = load_checkpoint(self.folder / "checkpoints")
        if found is None:
            write_text(self.folder / "metrics.jsonl", "")
            return None
        step, tensors, state, aside = found
        for name in aside:
            self.log(f"set aside a damaged checkpoint: {name}")
        rows = [row for row in self.metrics if row["step"] <= step]
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        torch.set_rng_state(tensors.pop("rng/torch"))
        self.log(f"resuming after step {step}")
        return step, tensors, state

    def checkpoint(self, step: int, tensors: Callable[[], Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        """Write a checkpoint when the last one is old enough. Raises RunError after it when asked to stop."""
        stop = run_lock.was_asked_to_stop(self.folder)
        if not stop and time.monotonic() - self._last_checkpoint < self.settings.checkpoint_seconds:
            return
        save_checkpoint(self.folder / "checkpoints", step, {**tensors(), "rng/torch": torch.get_rng_state()}, state)
        self._last_checkpoint = time.monotonic()
        if stop:
            raise RunError(f"stopped after step {step}, as asked; go on with --resume")

    def changes(self, step: int) -> list[Change]:
        """What is to change now, when `step` steps are done."""
        found = self.steering.at(step)
        for change in found:
            self.log(f"after step {step}: {change.words}")
        return found

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line of metrics. Raises RunError for one that is not finite."""
        bad = next((name for name, value in values.items() if value != value or abs(value) == float("inf")), None)
        if bad is not None:
            raise RunError(f"{bad} became {values[bad]} at step {step}; the last good checkpoint is kept")
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self.trackers is not None:
            self.trackers.metrics(step, values)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines so far, from the disk: a long run does not hold them."""
        return read_metrics(self.folder / "metrics.jsonl")

    def show(self, step: int, rows: Sequence[Row]) -> None:
        """A table of samples, for those who watch."""
        if self.trackers is not None and rows:
            self.trackers.samples(step, rows)

    def finish(self, result: Path | None = None) -> None:
        """The job is done and its artifact written to `result`: the folder goes, TensorBoard's files go there.

        They are no part of the payload: they hold times of the day, and the same run has the same hash.
        """
        if self.trackers is not None:
            self.trackers.close()
        events = self.folder / TENSORBOARD
        if result is not None and events.exists() and not (result / TENSORBOARD).exists():
            shutil.move(events, result / TENSORBOARD)
        shutil.rmtree(self.folder)
        self.close()

    def close(self) -> None:
        """Somebody else may work on this run now."""
        if self.trackers is not None:
            self.trackers.close()
        run_lock.give_back(self.folder)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics file; a last line that was cut off by a kill is left out."""
    rows: list[dict[str, Any]] = []
    if not path.exists():
        return rows
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def generator(seed: int, *stream: int | str) -> torch.Generator:
    """A CPU random stream of its own for (seed, stream...): the same numbers whatever was drawn elsewhere."""
    from prefloop.records import content_hash

    return torch.Generator().manual_seed(int(content_hash([seed, *stream])[:15], 16))
