"""A watch over an online run: now and then somebody looks at the policy, and the run returns what they found best.

The loop knows nothing of what is looked for. It samples the watch's prompts with the same random numbers at every look,
keeps the weights that were found best, and ends when it is told to. All of it is in the checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from prefloop.records import Messages
from prefloop.training.run import Run

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class GuardSettings:
    """How a run is watched for a reward that is being fooled."""

    held_out: list[str] | dict[str, Any]
    """What the policy is not trained on: reward models (name, hash or directory), or parts as in `reward`."""
    every: PositiveInt = 2
    """Rollouts between two looks."""
    prompts: PositiveInt = 64
    """Prompts that are answered at each look, always the same ones: held-out ones where there are enough."""
    on_alarm: Literal["stop", "warn"] = "stop"
    """Whether an alarm ends the run, or is only said; in both cases the run returns the best look's weights."""


@dataclass(frozen=True)
class Seen:
    """What the policy did at one look, row by row of the watch's prompts."""

    step: int
    texts: Sequence[str]
    proxy: Floats
    """(n,) the reward that the policy is trained on."""
    kl: Floats
    """(n,) log pi - log reference, summed over a sequence, in nats."""
    tokens: Floats
    """(n,) length."""
    ended: Floats
    """(n,) 1 where the completion ended by itself."""
    entropy: Floats
    """(n,) of the policy, summed over a sequence, in nats."""


@dataclass(frozen=True)
class Finding:
    """What a watch says of a look."""

    best: bool
    """The policy is the best so far."""
    stop: bool
    """The run should end here."""
    metrics: Mapping[str, float]
    words: str


class Watch(Protocol):
    """Somebody who looks."""

    prompts: Sequence[Messages]
    every: int

    def __call__(self, seen: Seen) -> Finding: ...

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON values."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None: ...

    def report(self) -> dict[str, Any]:
        """What the artifact keeps."""
        ...


class Watched:
    """A run under watch: when to look, and the weights to return."""

    def __init__(self, watch: Watch, take: Callable[[int], Seen], parameters: Sequence[nn.Parameter], run: Run) -> None:
        self.watch, self.take, self.parameters, self.run = watch, take, parameters, run
        self.best: list[Tensor] = []
        self.best_step, self.stopped = 0, False

    def look(self, step: int, *, last: bool = False) -> bool:
        """Look, if it is time to; True when the run should end."""
        if step % self.watch.every and not last:
            return False
        finding = self.watch(self.take(step))
        self.run.record(step, finding.metrics)
        self.run.log(finding.words)
        if finding.best:
            self.best, self.best_step = [p.detach().clone() for p in self.parameters], step
        self.stopped = finding.stop
        return finding.stop

    def tensors(self) -> dict[str, Tensor]:
        """The best weights so far, for a checkpoint."""
        return {f"best/{i}": tensor for i, tensor in enumerate(self.best)}

    def state(self) -> dict[str, Any]:
        """The rest of what a checkpoint needs."""
        return {"best_step": self.best_step, "stopped": self.stopped, "watch": self.watch.state()}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take up what `tensors()` and `state()` gave."""
        self.best = [tensors[f"best/{i}"].to(p.device) for i, p in enumerate(self.parameters)]
        self.best_step, self.stopped = int(state["best_step"]), bool(state["stopped"])
        self.watch.load_state(state["watch"])

    @torch.no_grad()
    def give_best(self) -> dict[str, Any]:
        """Put the best weights back into the models; returns what to say of it in the artifact's metrics."""
        for parameter, tensor in zip(self.parameters, self.best, strict=True):
            parameter.copy_(tensor)
        self.run.log(f"returning step {self.best_step}, the highest held-out lower bound")
        return {"guard/best_step": self.best_step, "guard/stopped": float(self.stopped)}
