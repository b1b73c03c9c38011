"""`prefloop loop`: sample, ask, freeze, learn a reward, train a policy; then again on the new policy's own samples."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from prefloop.artifacts.workspace import Workspace
from prefloop.errors import InputError
from prefloop.records import content_hash
from prefloop.settings import as_dict, build, read_yaml
from prefloop.store.feedback import answers
from prefloop.training.run import Share
from prefloop.workflows.data import label, snapshot
from prefloop.workflows.evaluating import evaluate
from prefloop.workflows.places import Place, store_of, workspace_at
from prefloop.workflows.sampling import prompts_of, sample
from prefloop.workflows.stages import Stages
from prefloop.workflows.training import settings_of, train


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What a run file of `prefloop loop` says."""

    policy: str = "builtin"
    """The policy that the first round samples from; every round's KL is measured against it."""
    prompts: str | None = None
    """File of prompts (relative to the run file); without it the workspace's prompts."""
    prompts_per_round: int = 400
    """Prompts asked in one round; the next round goes on where this one stopped, and round again."""
    per_prompt: int = 4
    """Completions of each prompt; every two make one comparison."""
    max_new_tokens: int = 128
    """Longest completion, in tokens."""
    temperature: float = 1.0
    """Of sampling."""
    overlap: int = 1
    """How many annotators answer each comparison."""
    by: str = "people"
    """Who answers: `people` (the loop stops until they have), or `simulated:PROFILE`, `simulated:panel`."""
    consensus: str = "weighted"
    """How answers become labels: `weighted`, `majority` or `davidson`, as in `prefloop snapshot`."""
    test_share: Share | None = None
    """Share of the prompts that each round's snapshot holds out (default: the workspace's)."""
    method: Literal["ppo", "dpo"] = "ppo"
    """How the policy is trained."""
    seed: int = 0
    """Of sampling, labelling and training."""
    reward_model: dict[str, Any] = field(default_factory=dict)
    """Settings of `train reward_model`."""
    train: dict[str, Any] = field(default_factory=dict)
    """Settings of `train` with the method."""
    guard: dict[str, Any] | None = None
    """Settings of the guard of `ppo`, such as {every: 4}: in each round a reward model of its own learns from the
    held-out answers and watches the policy. Without it there is none."""


def loop(
    run: str | Path,
    *,
    rounds: int,
    workspace: Place = None,
    log: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Go round `rounds` times: `{"rounds": [{"round", "snapshot", "reward_model", "policy", ...}], "policy"}`.

    An interrupted loop goes on where it stopped when it is started again with the same settings; so does one that waits
    for people's answers. Raises InputError for wrong settings.
    """
    config = build(LoopConfig, read_yaml(run), str(run))
    if config.guard is not None and config.method != "ppo":
        raise InputError(
            f"a guard watches an online run, which {config.method} is not: leave guard out, or method: ppo"
        )
    _check_trainings(config, str(run))
    place = workspace_at(workspace)
    say = log or (lambda words: print(words, file=sys.stderr, flush=True))
    base = Path(run).resolve().parent
    asked = prompts_of(base / config.prompts if config.prompts else None, place)
    stages = Stages(
        place.artifacts / ".runs" / f"loop-{content_hash(as_dict(config))[:8]}" / "stages.json", as_dict(config), say
    )
    done: list[dict[str, Any]] = []
    policy = config.policy
    for number in range(1, rounds + 1):
        done.append(one_round(config, number, policy, asked, place, stages, say))
        policy = done[-1]["policy"]
    return {"rounds": done, "policy": policy, "simulated": config.by.startswith("simulated:")}


def one_round(
    config: LoopConfig,
    number: int,
    policy: str,
    prompts: Sequence[Any],
    place: Workspace,
    stages: Stages,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """One turn of the loop: ask about `policy`'s samples, then train a reward model and a policy on all answers so far.

    Both are trained from `config.policy`, not from the round before (Bai et al. 2022, sect. 4.5), so that what an
    earlier, worse reward model taught is not carried on.
    """
    name = f"round {number}"
    chosen = portion(prompts, number, config.prompts_per_round)
    questions = stages.do(
        f"{name}: {config.per_prompt} completions of each prompt, and questions about them",
        lambda: sample(
            policy,
            chosen,
            per_prompt=config.per_prompt,
            temperature=config.temperature,
            max_new_tokens=config.max_new_tokens,
            seed=config.seed + 1000 * number,
            ask="comparison",
            overlap=config.overlap,
            round=number,
            workspace=place,
            log=log,
        )["questions"],
    )
    answered = stages.do(f"{name}: people answer", lambda: _answered(config, number, questions, place, log))
    frozen = stages.do(
        f"{name}: snapshot",
        lambda: str(
            snapshot(
                "comparisons",
                name=f"round-{number}",
                test_share=config.test_share,
                consensus=config.consensus,
                workspace=place,
            ).artifact.path
        ),
    )
    rewarder = stages.do(
        f"{name}: reward model",
        lambda: _train(
            "reward_model", config, config.reward_model, config.policy, frozen, f"reward-{number}", place, log
        ),
    )
    measured = stages.do(
        f"{name}: how good the reward model is",
        lambda: evaluate(rewarder["artifact"], comparisons=frozen, seed=config.seed, workspace=place, log=log),
    )
    settings = dict(config.train)
    if config.method == "ppo":
        settings |= {"reward_model": rewarder["artifact"], "reference": config.policy}
    if config.guard is not None:
        held_out = {**config.reward_model, "learn_from": "held_out", "seed": config.seed + 1}
        watcher = stages.do(
            f"{name}: the guard's reward model, from the held-out answers",
            lambda: _train("reward_model", config, held_out, config.policy, frozen, f"guard-{number}", place, log),
        )
        settings |= {"guard": {"held_out": [watcher["artifact"]], **config.guard}}
    trained = stages.do(
        f"{name}: {config.method}",
        lambda: _train(config.method, config, settings, config.policy, frozen, f"policy-{number}", place, log),
    )
    return {
        "round": number,
        "questions": questions,
        "answers": answered,
        "snapshot": frozen,
        "reward_model": rewarder["artifact"],
        "measured": measured,
        "policy": trained["artifact"],
        "metrics": trained["metrics"],
    }


def _check_trainings(config: LoopConfig, run: str) -> None:
    """A wrong word is found before anybody is asked anything. Raises InputError."""
    settings_of("reward_model", config.reward_model, f"{run}: reward_model")
    settings_of(config.method, config.train, f"{run}: train")
    if config.guard is not None:
        settings_of(config.method, {"guard": {"held_out": ["the round's own"], **config.guard}}, run)


def portion(prompts: Sequence[Any], number: int, size: int) -> list[Any]:
    """The prompts of round `number` (from 1): the next `size` of them, from the start again when they are used up."""
    size = min(size, len(prompts))
    first = (number - 1) * size
    return [prompts[i % len(prompts)] for i in range(first, first + size)]


def _answered(
    config: LoopConfig, number: int, questions: int, place: Workspace, log: Callable[[str], None]
) -> dict[str, Any]:
    if config.by != "people":
        said = label(config.by, seed=config.seed + number, workspace=place)
        log(f"{said['answers']} simulated answers, {said['skipped']} skipped")
        return said
    with store_of(place) as store:
        given = sum(1 for answer in answers(store, kind="comparison", round=number) if not answer.late)
    if given < questions * config.overlap:
        wanted = questions * config.overlap
        raise InputError(
            f"round {number}: {wanted - given} of {wanted} answers are still to come; "
            "start the loop again when people have answered"
        )
    return {"answers": given}


def _train(
    method: str,
    config: LoopConfig,
    settings: dict[str, Any],
    policy: str,
    data: str,
    name: str,
    place: Workspace,
    log: Callable[[str], None],
) -> dict[str, Any]:
    overrides = {"seed": config.seed, "name": name, **settings}
    return train(
        method,
        data=data,
        policy=policy,
        overrides=overrides,
        resume=True,
        workspace=place,
        log=log,
    )
