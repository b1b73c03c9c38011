"""The online loop: sample -> reward -> advantages -> minibatch losses. PPO and its relatives.

The loop owns sampling, measuring, the price of KL, epochs, minibatches, the optimizer, checkpoints and logging. An
algorithm gives `prepare(rollout)`, once per rollout, and `loss(minibatch)`. A checkpoint is taken between rollouts, and
what a rollout samples is a function of the weights, the seed and its number, so a killed run samples it again, bit for
bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.datasets.collate import text_batches
from prefloop.errors import RunError
from prefloop.generation.sampler import Sampler
from prefloop.generation.vllm import ServedSampler
from prefloop.models.heads import trainable
from prefloop.models.load import base_of
from prefloop.models.trees import texts_of
from prefloop.records import Messages
from prefloop.rewards.composition import Composition, Reward, scored
from prefloop.training.curriculum import Curriculum
from prefloop.training.importance import Gauge, corrected
from prefloop.training.kl import KLController
from prefloop.training.memory import Budget
from prefloop.training.metrics import Means
from prefloop.training.offline import FOLLOWER, Follows, Loss, write_tensors
from prefloop.training.online_roles import Roles, prompt_room
from prefloop.training.optimizer import Optimizer, Schedule
from prefloop.training.progress import progress
from prefloop.training.rollout import Rollout, groups, make_rollout
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
        """One value per valid decision, or per sequence, and how much each counts."""
        ...

    def divisor(self, minibatch: Rollout) -> float:
        """What the weighted sum of a whole minibatch's values is divided by: its decisions, its sequences, ..."""
        ...


@runtime_checkable
class OwnStep(Protocol):
    """A method that moves its models itself, once for each rollout."""

    def step(self, rollout: Rollout, optimizer: Optimizer) -> dict[str, Tensor]:
        """Move them; returns what to log."""
        ...


def train_online(algorithm: OnlineAlgorithm, run: Run, watch: Watch | None = None) -> dict[str, Any]:
    """Train for `steps` rollouts of `batch_size` episodes. Returns `micro_batch_tokens` where memory ran out.

    A `watch` looks at the policy now and then, may end the run, and decides whose weights it returns.
    Raises RunError within a step when a score, a loss or a gradient is not finite, and names the rows.
    """
    s, roles = run.settings, algorithm.roles
    online = roles.settings
    if not roles.prompts:
        raise RunError("there is no prompt to sample from")
    asked = s.batch_size // online.group_size
    rollouts = s.steps if s.steps is not None else max(1, round(s.epochs * len(roles.prompts) / asked))
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
    followers = algorithm.followers() if isinstance(algorithm, Follows) else {}
    kl = KLController(online.beta, online.kl_target, online.kl_horizon)
    budget = Budget(s.micro_batch_tokens, run.log)
    curriculum = Curriculum(len(roles.prompts), online.curriculum, s.seed)
    gauge, planned = Gauge(online.sampler_gap, run.log), rollouts
    rollouts = min(rollouts, s.stop_at or rollouts)
    first, tensors, state = 0, dict[str, Tensor](), dict[str, Any]()
    if (restored := run.restore()) is not None:
        first, tensors, state = restored
        optimizer.load(tensors, int(state["optimizer_steps"]))
        for steered in (optimizer, kl):
            steered.steer(run.steering.before(first))
        curriculum.variance, curriculum.taken = tensors["curriculum/variance"], state["prompts_taken"]
        kl.beta, budget.tokens = state["beta"], state["micro_batch_tokens"]
        if isinstance(roles.reward, Composition):
            roles.reward.load_state(state["reward"])
        write_tensors(followers, tensors, FOLLOWER)
    # No dropout anywhere: the ratio would otherwise compare two different networks.
    for model in roles.trained:
        model.eval()
    sampler = roles.sampler(run.log)
    watched = None
    if watch is not None:
        # What will be served has no adviser.
        take = partial(look, roles, Sampler(base_of(roles.policy), roles.template), watch.prompts, run)
        watched = Watched(watch, take, trainable(roles.trained), run)
        if restored is None:
            watched.look(0)
        else:
            watched.load(tensors, state["watched"])
    with progress(algorithm.name, rollouts, first) as advance:
        for step in range(first, rollouts):
            if watched is not None and watched.stopped:
                break
            began = time.monotonic()
            changes = run.changes(step)
            for steered in (optimizer, kl):
                steered.steer(changes)
            roles.cool(step / max(1, planned - 1))
            chosen = curriculum.choose(asked, step)
            sampler.update(step)
            sampled, _ = sample_rollout(roles, sampler, [roles.prompts[i] for i in chosen], run, step)
            measured = budget.spend(partial(roles.measured, replace(sampled, beta=kl.beta)))
            curriculum.saw(chosen, groups(measured))
            rollout = algorithm.prepare(measured)
            if online.importance_cap is not None:
                rollout = corrected(rollout, online.importance_cap, algorithm.name)
            means = Means()
            means.add(objectives(measured) | gauge(measured))
            kl.update(float(sequence_kl(measured).mean()), len(measured))
            if isinstance(algorithm, OwnStep):
                means.add(algorithm.step(rollout, optimizer))
            else:
                _passes(algorithm, optimizer, rollout, run.settings.seed, budget, means)
            optimizer.steps = (step + 1) * updates  # the schedule goes on as if no pass had been cut short
            means.add(part_metrics(measured.parts))
            if isinstance(roles.reward, Composition):
                roles.reward.adapt(measured.parts)
            values = {**means.read(), "objective/beta": kl.beta, **reward_state(roles.reward)}
            if (step + 1) % s.log_every == 0 or step + 1 == rollouts:
                run.record(step + 1, {"episode": (step + 1) * s.batch_size, **values})
                run.show(step + 1, sample_table(measured, roles, [roles.prompts[i] for i in chosen], s.log_samples))
            words = f"score {values['objective/scores']:.2f}  kl {values['objective/kl']:.2f}"
            speed = float(measured.valid.sum()) / (time.monotonic() - began)
            guarded = "" if watched is None else f"  guard: best look after {watched.best_step}"
            advance(step + 1, f"{words}  {speed:.0f} tokens/s{guarded}")
            state = {"optimizer_steps": optimizer.steps, "beta": kl.beta, "reward": reward_state(roles.reward)}
            state |= {"micro_batch_tokens": budget.tokens, "prompts_taken": curriculum.taken}
            if isinstance(algorithm, Follows):
                algorithm.follow(step + 1)
            kept = [
                optimizer.tensors,
                curriculum.tensors,
                lambda: {FOLLOWER + name: tensor for name, tensor in followers.items()},
            ]
            if watched is not None:
                watched.look(step + 1, last=step + 1 == rollouts)
                state["watched"] = watched.state()
                kept.append(watched.tensors)
            run.checkpoint(step + 1, partial(_all, kept), state)
    smaller = {} if budget.tokens == s.micro_batch_tokens else {"micro_batch_tokens": budget.tokens}
    return smaller if watched is None else {**smaller, **watched.give_best()}


def look(roles: Roles, sampler: Sampler, prompts: Sequence[Messages], run: Run, step: int) -> Seen:
    """What the policy answers to `prompts` after `step` rollouts, with the random numbers, and at the temperature, of
    every other look."""
    roles.cool(0.0)
    rollout, texts = sample_rollout(roles, sampler, prompts, run, 0, stream="watch", per_prompt=1)
    proxy = rollout.scores
    found = objectives(roles.measured(rollout, run.settings.micro_batch_tokens))
    names = ("objective/kl", "length", "val/num_eos_tokens", "objective/entropy")
    columns = [column.cpu().double().numpy() for column in (proxy, *(found[name] for name in names))]
    return Seen(step, texts, *columns)


def _all(parts: Sequence[Callable[[], dict[str, Tensor]]]) -> dict[str, Tensor]:
    return {name: tensor for part in parts for name, tensor in part().items()}


def sequence_kl(rollout: Rollout) -> Float[Tensor, "B"]:
    """log pi - log reference of each sequence, in nats: an estimate of the KL from one sample."""
    return ((rollout.added["logprobs"] - rollout.added["reference"]) * rollout.valid).sum(1)


def objectives(rollout: Rollout) -> dict[str, Tensor]:
    """What is logged of a measured rollout, one value per sequence; TRL's names."""
    valid, kl, completions = rollout.valid, sequence_kl(rollout), rollout.completions()
    spread = groups(rollout).std(1, correction=0)
    return {
        "objective/scores": rollout.scores,
        "objective/kl": kl,
        "objective/entropy": (rollout.added["entropy"] * valid).sum(1),
        "objective/non_score_reward": -rollout.beta * kl,
        "objective/rlhf_reward": rollout.scores - rollout.beta * kl,
        "val/num_eos_tokens": rollout.terminated.float(),
        "length": valid.sum(1).float(),
        **{f"diversity/distinct_{n}": torch.tensor(distinct(completions, n)) for n in (1, 2)},
        **({"group/std": spread, "group/alike": (spread == 0).float()} if rollout.grouped > 1 else {}),
    }


def sample_table(
    rollout: Rollout, roles: Roles, prompts: Sequence[Messages], rows: int
) -> list[dict[str, str | float]]:
    """The first completion of each of the first `rows` prompts, with its score and KL."""
    kl = sequence_kl(rollout)
    return [
        {
            "prompt": "\n".join(message["content"] for message in prompt),
            "completion": rollout.texts[i * rollout.grouped],
            "score": float(rollout.scores[i * rollout.grouped]),
            "kl": float(kl[i * rollout.grouped]),
        }
        for i, prompt in enumerate(prompts[:rows])
    ]


def distinct(sequences: Sequence[Sequence[int]], n: int) -> float:
    """Share of all n-grams that are not a repetition of another: 1 says that nothing is said twice (Li et al. 2016)."""
    grams = [tuple(ids[i : i + n]) for ids in sequences for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def sample_rollout(
    roles: Roles,
    sampler: Sampler | ServedSampler,
    prompts: Sequence[Messages],
    run: Run,
    step: int,
    stream: str = "rollout",
    per_prompt: int | None = None,
) -> tuple[Rollout, list[str]]:
    """`group_size` completions of each prompt, scored as text through the reward's own tokenise path.

    Its random numbers are those of (seed, `stream`, `step`).
    """
    size = per_prompt or roles.settings.group_size
    room = prompt_room(run.settings.max_length, roles.sampling.max_new_tokens)
    ids = [roles.template.fit(roles.template.prompt(p), room) for p in prompts]
    drawn = sampler(ids, size, roles.sampling, generator(run.settings.seed, stream, step))
    samples = [sample for group in drawn for sample in group]
    ids = [each for each in ids for _ in range(size)]
    prompts = [prompt for prompt in prompts for _ in range(size)]
    texts = [roles.template.decode(s.ids) for s in samples]
    found = scored(roles.reward, prompts, texts)
    bad = next((i for i, score in enumerate(found.total) if not math.isfinite(score)), None)
    if bad is not None:
        raise RunError(f"the reward gave {found.total[bad]} at rollout {step + 1} for {texts[bad][:60]!r}")
    device = next(roles.policy.parameters()).device
    rollout = make_rollout(ids, samples, found.total, roles.template.pad_id, step, device)
    return replace(rollout, parts=found.parts, texts=texts, grouped=size), texts


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


def _passes(
    algorithm: OnlineAlgorithm, optimizer: Optimizer, rollout: Rollout, seed: int, budget: Budget, means: Means
) -> None:
    """Every pass over a rollout, each in an order of its own; they end early where target_kl says so."""
    online = algorithm.roles.settings
    size = rollout.grouped
    for epoch in range(online.rollout_epochs):
        order = torch.randperm(
            len(rollout) // size, generator=generator(seed, "minibatches", rollout.weight_version, epoch)
        )
        for part in _parts(order.tolist(), online.minibatches):
            rows = [i for group in part for i in range(group * size, (group + 1) * size)]
            update = partial(_update, algorithm, optimizer, rollout, rows, means)
            if not budget.spend(update, optimizer.discard):
                return


def _update(
    algorithm: OnlineAlgorithm,
    optimizer: Optimizer,
    rollout: Rollout,
    rows: Sequence[int],
    means: Means,
    budget: int,
) -> bool:
    """One optimizer step on one minibatch, micro-batch by micro-batch as if it were one; a group stays in one
    micro-batch if it fits, so that its prompt is computed once.

    Returns False, and takes no step, when the policy has gone further than target_kl from the one that sampled.
    """
    minibatch = rollout.rows(rows)
    texts = texts_of(minibatch.ids, minibatch.starts, minibatch.valid)
    divisor, what = algorithm.divisor(minibatch), minibatch.words
    seen = Means()
    for micro in text_batches(texts, budget, rollout.together):
        loss = algorithm.loss(minibatch.rows(micro))
        optimizer.backward((loss.values * loss.weights).sum() / divisor, what)
        seen.add(loss.metrics, loss.weights)
    if (limit := algorithm.roles.settings.target_kl) is not None:
        total, count = seen.state()["policy/approxkl_avg"]
        if total > limit * count:
            optimizer.discard()
            return False
    for part, logprobs in algorithm.roles.mixed_in(optimizer.steps, len(rows), budget):
        optimizer.backward(part, "the demonstrations of ptx_data")
        seen.add({"loss/ptx": -logprobs})
    means.absorb(seen)
    means.add({k: torch.tensor(v) for k, v in optimizer.step(what).items()})
    return True


def _parts(order: Sequence[int], parts: int) -> list[list[int]]:
    """`order` cut into `parts` minibatches whose sizes differ by at most one; none is empty."""
    parts = min(parts, len(order))
    return [list(order[i * len(order) // parts : (i + 1) * len(order) // parts]) for i in range(parts)]
