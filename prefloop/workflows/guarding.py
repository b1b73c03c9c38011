"""The guard of an online run, put together from its settings: held-out rewards, prompts, and the proxy's inside."""

from __future__ import annotations

from pathlib import Path

from prefloop.datasets.rows import held_out_prompts, prompt_columns
from prefloop.errors import InputError
from prefloop.evaluation.overoptimization import Guard, RunGuard
from prefloop.records import Messages
from prefloop.rewards.composition import Reward, compose
from prefloop.rewards.learned import LearnedReward, earning
from prefloop.training.method import Inputs
from prefloop.training.online_roles import Roles
from prefloop.training.reward import model_within, reward_model_at
from prefloop.training.run import Run
from prefloop.training.watch import GuardSettings


def run_guard(settings: GuardSettings, roles: Roles, run: Run, inputs: Inputs) -> RunGuard:
    """The watch of a run. Raises InputError when a held-out reward is one that the policy is trained on."""
    assert inputs.data is not None
    model = model_within(roles.reward)
    held_out: list[Reward]
    if isinstance(settings.held_out, dict):
        columns = prompt_columns(inputs.data, inputs.ledger)
        spec = settings.held_out
        held_out = [
            compose(
                spec,
                lambda ref: reward_model_at(ref, inputs, run.settings),
                base=inputs.base,
                columns=columns,
                where="guard: held_out",
            )
        ]
    else:
        held_out = [earning(reward_model_at(ref, inputs, run.settings)) for ref in settings.held_out]
    for reward in held_out:
        if model is not None and isinstance(reward, LearnedReward) and reward.place == model.place:
            raise InputError(f"guard: held_out names the reward model that the policy is trained on ({model.place})")
    if not held_out:
        raise InputError("guard: held_out needs at least one reward that the policy is not trained on")
    return RunGuard(
        _prompts(settings.prompts, roles, run, inputs.data),
        held_out,
        every=settings.every,
        stop=settings.on_alarm == "stop",
        latents=None if model is None else model.states,
        guard=Guard(seed=run.settings.seed),
    )


def _prompts(wanted: int, roles: Roles, run: Run, data: Path) -> list[Messages]:
    """Held-out prompts, and prompts that are trained on where there are too few of those."""
    held = held_out_prompts(data, test_share=run.settings.test_share, max_dropped=run.settings.max_dropped)[:wanted]
    more = list(roles.prompts)[: wanted - len(held)]
    if more:
        run.log(f"guard: {len(held)} prompts are held out; {len(more)} that are trained on are looked at too")
    return [*held, *more]
