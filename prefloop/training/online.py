"""The online loop: sample -> reward -> advantages -> minibatch losses. PPO and its relatives.

The loop owns sampling, epochs, minibatches, the optimizer, checkpoints and logging. An algorithm gives
`prepare(rollout)`, once per rollout, and `loss(minibatch)`. A checkpoint is taken between rollouts, and what a rollout
samples is a function of the weights, the seed and its number, so a killed run samples it again, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from prefloop.datasets.collate import batch_indices, micro_batches
from prefloop.errors import RunError
from prefloop.generation.sampler import Sampler, Sampling
from prefloop.models.heads import base_of, trainable
from prefloop.models.template import Template
from prefloop.records import Messages
from prefloop.rewards.composition import Composition, Reward, scored
from prefloop.training.metrics import Means
from prefloop.training.offline import Loss
from prefloop.training.optimizer import Optimizer, Schedule
from prefloop.training.progress import progress
from prefloop.training.rollout import Rollout, make_rollout
from prefloop.training.run import Run, generator


class OnlineAlgorithm(Protocol):
    """What the loop needs to know of a method."""

    name: str
    template: Template
    policy: nn.Module
    """What samples."""
    models: Sequence[nn.Module]
    """Everything that is trained, the policy first."""
    prompts: Sequence[Messages]
    reward: Reward
    sampling: Sampling
    rollout_epochs: int
    minibatches: int

    def prepare(self, rollout: Rollout) -> dict[str, Tensor]:
        """Add what the losses need to `rollout.added`; returns what to log about the rollout."""
        ...

    def loss(self, minibatch: Rollout) -> Loss:
        """One value per valid decision."""
        ...

    def state(self) -> dict[str, float]:
        """What a resumed run needs beside weights, optimizer and seeds."""
        ...

    def load_state(self, state: dict[str, float]) -> None: ...

    def save(self, folder: Path) -> None: ...


def train_online(algorithm: OnlineAlgorithm, run: Run) -> dict[str, Any]:
    """Train for `steps` rollouts of `batch_size` episodes. Returns nothing beyond the logged metrics.

    Raises RunError within a step when a score, a loss or a gradient is not finite, and names the rows.
    """
    s = run.settings
    if not algorithm.prompts:
        raise RunError("there is no prompt to sample from")
    rollouts = s.steps if s.steps is not None else max(1, round(s.epochs * len(algorithm.prompts) / s.batch_size))
    updates = algorithm.rollout_epochs * algorithm.minibatches
    ends = None if s.stop_at is None else s.stop_at * updates
    schedule = Schedule(s.lr, rollouts * updates, s.warmup, s.schedule, ends, s.cooldown * updates)
    optimizer = Optimizer(
        trainable(algorithm.models),
        schedule,
        weight_decay=s.weight_decay,
        betas=(0.9, 0.95),
        eps=1e-5,
        max_grad_norm=s.max_grad_norm,
    )
    rollouts = min(rollouts, s.stop_at or rollouts)
    first = 0
    if (restored := run.restore()) is not None:
        first, tensors, state = restored
        optimizer.load(tensors, int(state["optimizer_steps"]))
        algorithm.load_state(state["algorithm"])
        if isinstance(algorithm.reward, Composition):
            algorithm.reward.load_state(state["reward"])
    # No dropout anywhere: the ratio would otherwise compare two different networks.
    for model in algorithm.models:
        model.eval()
    sampler = Sampler(base_of(algorithm.policy), algorithm.template)
    with progress(algorithm.name, rollouts, first) as advance:
        for step in range(first, rollouts):
            chosen = _cycled(len(algorithm.prompts), s.batch_size, step, s.seed)
            rollout, texts = sample_rollout(algorithm, sampler, [algorithm.prompts[i] for i in chosen], run, step)
            logged = algorithm.prepare(rollout)
            means = Means()
            for epoch in range(algorithm.rollout_epochs):
                order = torch.randperm(len(rollout), generator=generator(s.seed, "minibatches", step, epoch)).tolist()
                for part in _parts(order, algorithm.minibatches):
                    _update(algorithm, optimizer, rollout, part, s.micro_batch_tokens, means, texts)
            rollout_means = Means()
            rollout_means.add(logged)
            rollout_means.add(part_metrics(rollout.parts))
            if isinstance(algorithm.reward, Composition):
                algorithm.reward.adapt(rollout.parts)
            values = {**rollout_means.read(), **means.read(), **algorithm.state(), **reward_state(algorithm.reward)}
            if (step + 1) % s.log_every == 0 or step + 1 == rollouts:
                run.record(step + 1, {"episode": (step + 1) * s.batch_size, **values})
            advance(step + 1, f"score {values['objective/scores']:.2f}  kl {values['objective/kl']:.2f}")
            state = {
                "optimizer_steps": optimizer.steps,
                "algorithm": algorithm.state(),
                "reward": reward_state(algorithm.reward),
            }
            run.checkpoint(step + 1, optimizer.tensors, state)
    return {}


def sample_rollout(
    algorithm: OnlineAlgorithm, sampler: Sampler, prompts: Sequence[Messages], run: Run, step: int
) -> tuple[Rollout, list[str]]:
    """One completion for each prompt, scored as text through the reward's own tokenise path."""
    room = prompt_room(run.settings.max_length, algorithm.sampling.max_new_tokens)
    ids = [algorithm.template.fit(algorithm.template.prompt(p), room) for p in prompts]
    drawn = sampler(ids, 1, algorithm.sampling, generator(run.settings.seed, "rollout", step))
    samples = [group[0] for group in drawn]
    texts = [algorithm.template.decode(s.ids) for s in samples]
    found = scored(algorithm.reward, prompts, texts)
    bad = next((i for i, score in enumerate(found.total) if not math.isfinite(score)), None)
    if bad is not None:
        raise RunError(f"the reward gave {found.total[bad]} at rollout {step + 1} for {texts[bad][:60]!r}")
    device = next(algorithm.policy.parameters()).device
    rollout = make_rollout(ids, samples, found.total, algorithm.template.pad_id, step, device)
    return replace(rollout, parts=found.parts), texts


def part_metrics(parts: Mapping[str, Sequence[float]]) -> dict[str, Tensor]:
    """`rewards/<name>/mean` and `/std` of each part of a reward, over the completions that it applies to (not NaN)."""
    result: dict[str, Tensor] = {}
    for name, values in parts.items():
        applies = torch.tensor([v for v in values if not math.isnan(v)], dtype=torch.double)
        if len(applies):
            result |= {f"rewards/{name}/mean": applies.mean(), f"rewards/{name}/std": applies.std(correction=0)}
    return result


def reward_state(reward: Reward) -> dict[str, float]:
    """What a reward has learned during the run: the prices of its constraints."""
    return reward.state() if isinstance(reward, Composition) else {}


def prompt_room(max_length: int, max_new_tokens: int) -> int:
    """Tokens that a prompt may have in a rollout: what the answer leaves, and half of `max_length` at least."""
    return max(max_length // 2, max_length - max_new_tokens)


def _update(
    algorithm: OnlineAlgorithm,
    optimizer: Optimizer,
    rollout: Rollout,
    rows: Sequence[int],
    budget: int,
    means: Means,
    texts: Sequence[str],
) -> None:
    """One optimizer step on one minibatch; its loss is a mean over the decisions of the whole minibatch."""
    lengths = rollout.lengths.tolist()
    decisions = int(rollout.valid[torch.as_tensor(list(rows))].sum())
    what = f"the minibatch with {texts[rows[0]][:48]!r} and {len(rows) - 1} more"
    for micro in micro_batches(rows, lambda i: lengths[i], budget):
        loss = algorithm.loss(rollout.rows(micro))
        total = (loss.values * loss.weights).sum() / decisions
        if not math.isfinite(float(total.detach())):
            raise RunError(f"the loss became {float(total.detach())} in {what}; lower the learning rate")
        total.backward()
        optimizer.collect()
        means.add(loss.metrics, loss.weights)
    means.add({k: torch.tensor(v) for k, v in optimizer.step(what).items()})


def _cycled(n: int, size: int, step: int, seed: int) -> list[int]:
    """`size` prompt numbers for rollout `step`: one permutation after another, cut wherever a rollout ends."""
    first, last = step * size, (step + 1) * size
    epochs = range(first // n, (last - 1) // n + 1)
    stream = [i for epoch in epochs for i in batch_indices(n, n, epoch, seed)]
    return stream[first - epochs[0] * n : last - epochs[0] * n]


def _parts(order: Sequence[int], parts: int) -> list[list[int]]:
    """`order` cut into `parts` minibatches whose sizes differ by at most one; none is empty."""
    parts = min(parts, len(order))
    return [list(order[i * len(order) // parts : (i + 1) * len(order) // parts]) for i in range(parts)]
