"""The offline loop: batches from a dataset -> loss -> update. SFT, reward models, DPO and their relatives.

The loop owns epochs, micro-batches, the optimizer, measuring, checkpoints and logging. An algorithm brings
its rows and its loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prefloop.datasets.collate import batch_indices, micro_batches, steps_per_epoch, weighted_indices
from prefloop.errors import RunError
from prefloop.training.memory import Budget
from prefloop.training.metrics import Means, Measured
from prefloop.training.optimizer import Optimizer, Schedule
from prefloop.training.progress import progress
from prefloop.training.run import Run, generator


@dataclass
class Loss:
    """One value per decision or pair, how much each counts, and what to log about it."""

    values: Float[Tensor, "n"]
    weights: Float[Tensor, "n"]
    metrics: Mapping[str, Measured] = field(default_factory=dict)


class OfflineAlgorithm(Protocol):
    """What the loop needs to know of a method."""

    name: str
    model: nn.Module
    train_rows: Sequence[Any]
    eval_rows: Sequence[Any]

    def length(self, row: Any) -> int:
        """Tokens that a row costs in a micro-batch."""
        ...

    def weight(self, row: Any) -> float:
        """Sum of the weights that `loss` will give for this row: the batch is divided by their total."""
        ...

    def identity(self, row: Any) -> str:
        """What names a row in an error message."""
        ...

    def loss(self, rows: Sequence[Any]) -> Loss: ...

    def save(self, folder: Path) -> None: ...


@runtime_checkable
class Follows(Protocol):
    """A method with tensors that come after the trained weights: target networks, a reference or a mask policy that is
    renewed."""

    def followers(self) -> dict[str, Tensor]:
        """Those tensors, by name; a checkpoint keeps them, and a resumed run writes into them."""
        ...

    def follow(self, step: int) -> None:
        """Called after optimizer step, or rollout, `step` (from 1)."""
        ...


FOLLOWER = "follower/"
"""What their names begin with in a checkpoint."""


@runtime_checkable
class Prepares(Protocol):
    """A method whose loss of a row depends on its batch as a whole, which may be taken in pieces."""

    def prepare(self, rows: Sequence[Any]) -> None:
        """Called before a batch, and before all held-out rows, without gradient."""
        ...


@runtime_checkable
class Prioritised(Protocol):
    """A method that draws its training rows at random, some more often than others, and not each once per epoch."""

    chances: Float[Tensor, "n"]
    """How likely each row of `train_rows` is to be drawn, up to a factor."""


@runtime_checkable
class Shifted(Protocol):
    """An algorithm that takes its gradient elsewhere than at its weights (MetaRM)."""

    def shifted(self, step: int) -> AbstractContextManager[None]:
        """Around the loss and the gradient of the batch of optimizer step `step`."""
        ...


@runtime_checkable
class Solves(Protocol):
    """A method whose problem may be one that is solved at once, and not step by step."""

    def solve(self) -> dict[str, float] | None:
        """Leave the solution in `model` and return what to record of it; None where it has to be trained."""
        ...


def total_steps(run: Run, rows: int) -> int:
    """Optimizer steps of a run over `rows` rows."""
    s = run.settings
    return s.steps if s.steps is not None else max(1, round(s.epochs * steps_per_epoch(rows, s.batch_size)))


def train_offline(algorithm: OfflineAlgorithm, run: Run) -> dict[str, Any]:
    """Train `algorithm.model`; it holds the result afterwards.

    Returns `best_step` where the best was kept, and `micro_batch_tokens` where memory ran out.

    Raises RunError within a step when a loss or a gradient is not finite, and names the rows.
    """
    s, rows = run.settings, algorithm.train_rows
    if len(rows) == 0:
        raise RunError("there is no row to train on")
    if isinstance(algorithm, Solves) and (solved := algorithm.solve()) is not None:
        algorithm.model.eval()
        run.record(1, {**solved, **(evaluate_offline(algorithm, s.micro_batch_tokens) if algorithm.eval_rows else {})})
        return {}
    steps = total_steps(run, len(rows))
    trained = {name: p for name, p in algorithm.model.named_parameters() if p.requires_grad}
    followers = algorithm.followers() if isinstance(algorithm, Follows) else {}
    returned: dict[str, Tensor] = {**trained, **followers}
    optimizer = Optimizer(
        trained.values(),
        Schedule(s.lr, steps, s.warmup, s.schedule, s.stop_at, s.cooldown),
        weight_decay=s.weight_decay,
        max_grad_norm=s.max_grad_norm,
    )
    best: dict[str, Tensor] = {}
    state: dict[str, Any] = {"best_loss": None, "best_step": 0, "waited": 0, "stopped": False}
    steps = min(steps, s.stop_at or steps)
    first, means, budget = 0, Means(), Budget(s.micro_batch_tokens, run.log)
    if (restored := run.restore()) is not None:
        first, tensors, state = restored
        optimizer.load(tensors, first)
        optimizer.steer(run.steering.before(first))
        means.load(state.pop("means", {}))
        budget.tokens = state.pop("micro_batch_tokens", budget.tokens)
        best = {k.removeprefix("best/"): v for k, v in tensors.items() if k.startswith("best/")}
        write_tensors(followers, tensors, FOLLOWER)

    with progress(algorithm.name, steps, first) as advance:
        for step in range(first, steps):
            if state["stopped"]:
                break
            optimizer.steer(run.changes(step))
            batch = [rows[i] for i in _batch(algorithm, s.batch_size, step, s.seed)]
            algorithm.model.train()
            # Dropout draws from the global stream: as a function of (seed, step) it survives a resume on any device.
            torch.manual_seed(generator(s.seed, "dropout", step).initial_seed())
            with algorithm.shifted(step) if isinstance(algorithm, Shifted) else nullcontext():
                values = _fitting(budget, algorithm, optimizer, batch, means)
            means.add({k: torch.tensor(v) for k, v in optimizer.step(_named(algorithm, batch)).items()})
            done = step + 1
            if isinstance(algorithm, Follows):
                algorithm.follow(done)
            if done % s.log_every == 0 or done == steps:
                run.record(done, {"epoch": done / steps_per_epoch(len(rows), s.batch_size), **means.read()})
            if (s.eval_every and done % s.eval_every == 0) or done == steps:
                _measure(algorithm, run, done, budget, returned, state, best)
            advance(done, f"loss {values:.3f}")
            kept = {**state, "means": means.state(), "micro_batch_tokens": budget.tokens}
            besides = {f"best/{k}": v for k, v in best.items()} | {FOLLOWER + k: v for k, v in followers.items()}
            run.checkpoint(done, lambda more=besides: {**optimizer.tensors(), **more}, kept)  # type: ignore[misc]
    if best:
        write_tensors(returned, best)
        run.log(f"returning step {state['best_step']}, the lowest held-out loss ({state['best_loss']:.4f})")
    algorithm.model.eval()
    smaller = {} if budget.tokens == s.micro_batch_tokens else {"micro_batch_tokens": budget.tokens}
    return {**smaller, "best_step": state["best_step"]} if best else smaller


def evaluate_offline(algorithm: OfflineAlgorithm, budget: int) -> dict[str, float]:
    """Means of the loss and its metrics over the held-out rows, each name prefixed `eval_`."""
    means = Means()
    algorithm.model.eval()
    with torch.no_grad():
        if isinstance(algorithm, Prepares):
            algorithm.prepare(algorithm.eval_rows)
        for micro in micro_batches(algorithm.eval_rows, algorithm.length, budget):
            loss = algorithm.loss(micro)
            means.add({"loss": loss.values, **loss.metrics}, loss.weights)
    return {f"eval_{name}": value for name, value in means.read().items()}


def _batch(algorithm: OfflineAlgorithm, size: int, step: int, seed: int) -> list[int]:
    if isinstance(algorithm, Prioritised):
        return weighted_indices(algorithm.chances, size, step, seed)
    return batch_indices(len(algorithm.train_rows), size, step, seed)


@torch.no_grad()
def write_tensors(into: Mapping[str, Tensor], values: Mapping[str, Tensor], prefix: str = "") -> None:
    """Overwrite each tensor of `into` with the one that `values` has under `prefix` and its name."""
    for name, tensor in into.items():
        tensor.copy_(values[prefix + name])


def _fitting(
    budget: Budget, algorithm: OfflineAlgorithm, optimizer: Optimizer, batch: Sequence[Any], means: Means
) -> float:
    """`_one_batch`, begun anew with smaller micro-batches where memory runs out."""
    before = means.state()

    def undo() -> None:
        optimizer.discard()
        means.load(before)

    return budget.spend(lambda tokens: _one_batch(algorithm, optimizer, batch, tokens, means), undo)


def _one_batch(
    algorithm: OfflineAlgorithm, optimizer: Optimizer, batch: Sequence[Any], budget: int, means: Means
) -> float:
    """Backward through a whole batch, micro-batch by micro-batch, as if it were one. Returns its loss."""
    if isinstance(algorithm, Prepares):
        with torch.no_grad():
            algorithm.prepare(batch)
    total = sum(algorithm.weight(row) for row in batch)
    summed = 0.0
    for micro in micro_batches(batch, algorithm.length, budget):
        loss = algorithm.loss(micro)
        value = (loss.values * loss.weights).sum() / total
        summed += (here := float(value.detach()))
        if not math.isfinite(here):
            raise RunError(
                f"the loss became {here} in {_named(algorithm, micro)}; lower the learning rate or look at those rows"
            )
        value.backward()
        optimizer.collect()
        means.add({"loss": loss.values, **loss.metrics}, loss.weights)
    return summed


def _measure(
    algorithm: OfflineAlgorithm,
    run: Run,
    step: int,
    budget: Budget,
    returned: Mapping[str, Tensor],
    state: dict[str, Any],
    best: dict[str, Tensor],
) -> None:
    if len(algorithm.eval_rows) == 0:
        return
    values = budget.spend(lambda tokens: evaluate_offline(algorithm, tokens))
    run.record(step, values)
    if not run.settings.keep_best:
        return
    if state["best_loss"] is None or values["eval_loss"] < state["best_loss"]:
        state |= {"best_loss": values["eval_loss"], "best_step": step, "waited": 0}
        best.update({name: p.detach().clone() for name, p in returned.items()})
    else:
        state["waited"] += 1
        state["stopped"] = 0 < run.settings.patience <= state["waited"]


def _named(algorithm: OfflineAlgorithm, rows: Sequence[Any]) -> str:
    names = [algorithm.identity(row) for row in rows[:4]]
    return f"the batch with {', '.join(names)}" + (f" and {len(rows) - 4} more" if len(rows) > 4 else "")
