"""The online loop: sample -> reward -> advantages -> minibatch losses. PPO and its relatives.

The loop owns sampling, measuring, the price of KL, epochs, minibatches, the optimizer, checkpoints and logging. An
algorithm gives `prepare(rollout)`, once per rollout, and `loss(minibatch)`. A checkpoint is taken between rollouts, and
what a rollout samples is a function of the weights, the seed and its number, so a killed run samples it again, bit for
bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.datasets.collate import batch_indices, micro_batches
from prefloop.errors import RunError
from prefloop.generation.sampler import Sampler
from prefloop.models.heads import trainable
from prefloop.models.load import base_of
from prefloop.records import Messages
from prefloop.rewards.composition import Composition, Reward, scored
from prefloop.training.kl import KLController
from prefloop.training.metrics import Means
from prefloop.training.offline import Loss
from prefloop.training.online_roles import Roles, prompt_room
from prefloop.training.optimizer import Optimizer, Schedule
from prefloop.training.progress import progress
from prefloop.training.rollout import Rollout, make_rollout
from prefloop.training.run import Run, generator
from prefloop.training.watch import Seen, Watch, Watched


class OnlineAlgorithm(Protocol):
    """What the loop needs to know of a method."""

    name: str
    roles: Roles

    def prepare(self, rollout: Rollout) -> Rollout:
        """The measured rollout with what the losses need, such as `advantages`, added."""
        ...

    def loss(self, minibatch: Rollout) -> Loss:
        """One value per valid decision."""
        ...


def train_online(algorithm: OnlineAlgorithm, run: Run, watch: Watch | None = None) -> dict[str, Any]:
    """Train for `steps` rollouts of `batch_size` episodes. Returns nothing beyond the logged metrics.

    A `watch` looks at the policy now and then, may end the run, and decides whose weights it returns.
    Raises RunError within a step when a score, a loss or a gradient is not finite, and names the rows.
    """
    s, roles = run.settings, algorithm.roles
    online = roles.settings
    if not roles.prompts:
        raise RunError("there is no prompt to sample from")
    rollouts = s.steps if s.steps is not None else max(1, round(s.epochs * len(roles.prompts) / s.batch_size))
    updates = online.rollout_epochs * online.minibatches
    ends = None if s.stop_at is None else s.stop_at * updates
    optimizer = Optimizer(
        trainable(roles.trained),
        Schedule(s.lr, rollouts * updates, s.warmup, s.schedule, ends, s.cooldown * updates),
        weight_decay=s.weight_decay,
        betas=(0.9, 0.95),
        eps=1e-5,
        max_grad_norm=s.max_grad_norm,
    )
    kl = KLController(online.beta, online.kl_target, online.kl_horizon)
    rollouts = min(rollouts, s.stop_at or rollouts)
    first, tensors, state = 0, dict[str, Tensor](), dict[str, Any]()
    if (restored := run.restore()) is not None:
        first, tensors, state = restored
        optimizer.load(tensors, int(state["optimizer_steps"]))
        kl.beta = state["beta"]
        if isinstance(roles.reward, Composition):
            roles.reward.load_state(state["reward"])
    # No dropout anywhere: the ratio would otherwise compare two different networks.
    for model in roles.trained:
        model.eval()
    sampler = Sampler(base_of(roles.policy), roles.template)
    watched = None
    if watch is not None:
        take = partial(look, roles, sampler, watch.prompts, run)
        watched = Watched(watch, take, trainable(roles.trained), run)
        if restored is None:
            watched.look(0)
        else:
            watched.load(tensors, state["watched"])
    with progress(algorithm.name, rollouts, first) as advance:
        for step in range(first, rollouts):
            if watched is not None and watched.stopped:
                break
            chosen = _cycled(len(roles.prompts), s.batch_size, step, s.seed)
            sampled, texts = sample_rollout(roles, sampler, [roles.prompts[i] for i in chosen], run, step)
            measured = roles.measured(replace(sampled, beta=kl.beta), s.micro_batch_tokens)
            rollout = algorithm.prepare(measured)
            means = Means()
            means.add(objectives(measured))
            kl.update(float(sequence_kl(measured).mean()), len(measured))
            for epoch in range(online.rollout_epochs):
                order = torch.randperm(len(rollout), generator=generator(s.seed, "minibatches", step, epoch)).tolist()
                for part in _parts(order, online.minibatches):
                    _update(algorithm, optimizer, rollout, part, s.micro_batch_tokens, means, texts)
            means.add(part_metrics(measured.parts))
            if isinstance(roles.reward, Composition):
                roles.reward.adapt(measured.parts)
            values = {**means.read(), "objective/beta": kl.beta, **reward_state(roles.reward)}
            if (step + 1) % s.log_every == 0 or step + 1 == rollouts:
                run.record(step + 1, {"episode": (step + 1) * s.batch_size, **values})
            advance(step + 1, f"score {values['objective/scores']:.2f}  kl {values['objective/kl']:.2f}")
            state = {"optimizer_steps": optimizer.steps, "beta": kl.beta, "reward": reward_state(roles.reward)}
            if watched is None:
                run.checkpoint(step + 1, optimizer.tensors, state)
            else:
                watched.look(step + 1, last=step + 1 == rollouts)
                kept = {**state, "watched": watched.state()}
                run.checkpoint(step + 1, partial(_both, optimizer.tensors, watched.tensors), kept)
    return {} if watched is None else watched.give_best()


def look(roles: Roles, sampler: Sampler, prompts: Sequence[Messages], run: Run, step: int) -> Seen:
    """What the policy answers to `prompts` after `step` rollouts, with the random numbers of every other look."""
    rollout, texts = sample_rollout(roles, sampler, prompts, run, 0, stream="watch")
    proxy = rollout.scores
    found = objectives(roles.measured(rollout, run.settings.micro_batch_tokens))
    names = ("objective/kl", "length", "val/num_eos_tokens", "objective/entropy")
    columns = [column.double().cpu().numpy() for column in (proxy, *(found[name] for name in names))]
    return Seen(step, texts, *columns)


def _both(one: Callable[[], dict[str, Tensor]], other: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    return {**one(), **other()}


def sequence_kl(rollout: Rollout) -> Float[Tensor, "B"]:
    """log pi - log reference of each sequence, in nats: an estimate of the KL from one sample."""
    return ((rollout.added["logprobs"] - rollout.added["reference"]) * rollout.valid).sum(1)


def objectives(rollout: Rollout) -> dict[str, Tensor]:
    """What is logged of a measured rollout, one value per sequence; TRL's names."""
    valid, kl = rollout.valid, sequence_kl(rollout)
    return {
        "objective/scores": rollout.scores,
        "objective/kl": kl,
        "objective/entropy": (rollout.added["entropy"] * valid).sum(1),
        "objective/non_score_reward": -rollout.beta * kl,
        "objective/rlhf_reward": rollout.scores - rollout.beta * kl,
        "val/num_eos_tokens": rollout.terminated.float(),
        "length": valid.sum(1).float(),
        "sampler/logprob_gap": (rollout.added["logprobs"] - rollout.sampled_logprobs)[valid].abs(),
    }


def sample_rollout(
    roles: Roles, sampler: Sampler, prompts: Sequence[Messages], run: Run, step: int, stream: str = "rollout"
) -> tuple[Rollout, list[str]]:
    """One completion for each prompt, scored as text through the reward's own tokenise path.

    Its random numbers are those of (seed, `stream`, `step`).
    """
    room = prompt_room(run.settings.max_length, roles.sampling.max_new_tokens)
    ids = [roles.template.fit(roles.template.prompt(p), room) for p in prompts]
    drawn = sampler(ids, 1, roles.sampling, generator(run.settings.seed, stream, step))
    samples = [group[0] for group in drawn]
    texts = [roles.template.decode(s.ids) for s in samples]
    found = scored(roles.reward, prompts, texts)
    bad = next((i for i, score in enumerate(found.total) if not math.isfinite(score)), None)
    if bad is not None:
        raise RunError(f"the reward gave {found.total[bad]} at rollout {step + 1} for {texts[bad][:60]!r}")
    device = next(roles.policy.parameters()).device
    rollout = make_rollout(ids, samples, found.total, roles.template.pad_id, step, device)
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
