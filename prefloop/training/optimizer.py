"""AdamW with float32 masters, a schedule, real gradient clipping, and a check that stops on NaN.

A bfloat16 weight of size 1 cannot take a step smaller than 2^-8, so the update happens on a float32 copy
and is rounded back. Gradients of several micro-batches are added up in float32 for the same reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from prefloop.errors import RunError
from prefloop.training.steering import Change


@dataclass(frozen=True)
class Schedule:
    """Learning rate over a run of `steps` optimizer steps."""

    lr: float
    steps: int
    warmup: int
    kind: Literal["constant", "linear", "cosine"]
    stop_at: int | None = None
    cooldown: int = 0

    def at(self, step: int) -> float:
        """Rate of the step numbered `step`, counted from 0: up over the warm-up, then constant or down to 0.

        Over the `cooldown` steps before `stop_at` it falls in a straight line from where it was to 0.
        """
        if self.stop_at is not None and self.cooldown and step > (turn := self.stop_at - self.cooldown):
            return self._scheduled(turn) * max(0, self.stop_at - step) / self.cooldown
        return self._scheduled(step)

    def _scheduled(self, step: int) -> float:
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        if self.kind == "linear":
            return self.lr * max(0.0, 1.0 - done)
        if self.kind == "cosine":
            return self.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
        return self.lr


class Optimizer:
    """Owns the update of `parameters`; `collect()` after every backward, `step()` once per batch."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        schedule: Schedule,
        *,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        max_grad_norm: float = 1.0,
    ) -> None:
        self.live = [p for p in parameters if p.requires_grad]
        self.masters = [p if p.dtype == torch.float32 else p.detach().float() for p in self.live]
        self.schedule = schedule
        self.max_grad_norm = max_grad_norm
        self.steps = 0
        decayed = [m for m in self.masters if m.ndim >= 2]
        others = [m for m in self.masters if m.ndim < 2]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.adam = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=schedule.lr, betas=betas, eps=eps, fused=True
        )

    def steer(self, changes: Iterable[Change]) -> None:
        """Go on with the last learning rate that they name."""
        for change in changes:
            if change.lr is not None:
                self.schedule = replace(self.schedule, lr=change.lr)

    def backward(self, loss: Tensor, what: str) -> None:
        """One backward pass, and `collect`. Raises RunError that names `what` when the loss is not finite."""
        if not math.isfinite(value := float(loss.detach())):
            raise RunError(f"the loss became {value} in {what}; lower the learning rate")
        loss.backward()
        self.collect()

    def collect(self) -> None:
        """Move the gradients of one backward pass into the float32 masters."""
        for live, master in zip(self.live, self.masters, strict=True):
            if live is master or live.grad is None:
                continue
            master.grad = live.grad.float() if master.grad is None else master.grad.add_(live.grad)
            live.grad = None

    def step(self, what: str) -> dict[str, float]:
        """Clip, update, and round back. Returns the gradient's norm before clipping and the learning rate.

        Raises RunError that names `what` (the batch) when the gradient is not finite; weights are then untouched.
        """
        norm = float(torch.nn.utils.clip_grad_norm_(self.masters, self.max_grad_norm))
        if not math.isfinite(norm):
            raise RunError(
                f"the gradient became {norm} at step {self.steps + 1} in {what}; "
                "lower the learning rate or look at those rows"
            )
        rate = self.schedule.at(self.steps)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        self.round_back()
        self.steps += 1
        return {"grad_norm": norm, "lr": rate}

    def discard(self) -> None:
        """Forget the gradients that were collected since the last step."""
        self.adam.zero_grad(set_to_none=True)
        for live in self.live:
            live.grad = None

    @torch.no_grad()
    def round_back(self) -> None:
        """Copy the float32 masters into the live weights."""
        for live, master in zip(self.live, self.masters, strict=True):
            if live is not master:
                live.copy_(master)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs: masters and both moments."""
        result = {f"master/{i}": m for i, m in enumerate(self.masters)}
        for i, master in enumerate(self.masters):
            for key, value in self.adam.state.get(master, {}).items():
                result[f"adam/{key}/{i}"] = torch.as_tensor(value)
        return result

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], steps: int) -> None:
        """Take up the state that `tensors()` gave."""
        for i, master in enumerate(self.masters):
            master.copy_(tensors[f"master/{i}"])
            state = {
                # A copy: Adam writes into it; also its step count lives on the device, because it is a fused one.
                key.split("/")[1]: value.to(master.device, copy=True)
                for key, value in tensors.items()
                if key.startswith("adam/") and key.endswith(f"/{i}")
            }
            if state:
                self.adam.state[master] = state
        self.steps = steps
        self.round_back()
