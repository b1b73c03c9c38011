"""`prefloop.best_of`: what the best of n answers by one reward is worth by another, before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prefloop.errors import InputError
from prefloop.evaluation.interval import mean_interval
from prefloop.evaluation.overoptimization import best_of_n, best_of_n_kl, fit_curve
from prefloop.generation.policy import Policy
from prefloop.generation.sampler import Sampling
from prefloop.records import Messages, as_messages, prompt_id
from prefloop.rewards.composition import scored
from prefloop.workflows.evaluating import asked_prompts
from prefloop.workflows.places import Place, workspace_or_none
from prefloop.workflows.references import model_at, reward_at


def best_of(
    policy: str,
    reward: str | Path,
    held_out: str | Path,
    *,
    prompts: Sequence[Any] | str | Path | None = None,
    samples: int = 16,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    workspace: Place = None,
    log: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """How far a reward can be pushed: the best of n = 1, 2, 4, ... `samples` answers by `reward`, told by `held_out`.

    Each prompt is answered `samples` times; what the best of n is worth is estimated over all n-subsets of them
    (Nakano et al. 2021, unbiased). Both rewards are a reward model or a YAML of parts; `held_out` should be one that
    was trained on other answers. `prompts` and `limit` as in `evaluate`. Where `held_out` falls while `reward` rises,
    a policy that is trained on `reward` will be worse for it, and `peak` says at about which n (Gao et al. 2022).
    Returns {"rows": [{"n", "kl" (nats, log n - (n - 1)/n), "reward", "held_out" (intervals over prompts)}], "curve"
    ({"alpha", "beta"} of the held-out gain d (alpha - beta d), d = sqrt(kl)), "peak" ({"kl", "gain"}, null without
    one)}. Raises InputError for fewer than two samples, or where no prompt leaves room for an answer.
    """
    if samples < 2:
        raise InputError(f"the best of how many? samples must be 2 or more, got {samples}")
    place, say = workspace_or_none(workspace), log or (lambda words: None)
    writer = Policy(model_at(policy, "policy", place), device=device, dtype=dtype, log=say)
    judges = {name: reward_at(ref, device, dtype, place) for name, ref in (("reward", reward), ("held_out", held_out))}
    asked = [as_messages(prompt) for prompt in asked_prompts(prompts, seed, place)[:limit]]
    asked = [prompt for prompt in asked if writer.has_room(prompt, max_new_tokens)]
    if not asked:
        raise InputError(f"no prompt leaves room for an answer of {max_new_tokens} tokens; give fewer new tokens")
    say(f"sampling {samples} answers to each of {len(asked)} prompts")
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
    groups = writer.answer(asked, samples, sampling, seed=seed)
    each: list[Messages] = [prompt for prompt in asked for _ in range(samples)]
    texts = [answer.text for group in groups for answer in group]
    scores = {name: scored(judge, each, texts).total for name, judge in judges.items()}
    names = [prompt_id(prompt) for prompt in asked]
    rows: list[dict[str, Any]] = []
    for n in sorted({*(2**k for k in range(samples.bit_length()) if 2**k <= samples), samples}):
        best = {
            name: [
                best_of_n(scores["reward"][at : at + samples], values[at : at + samples], n)
                for at in range(0, len(each), samples)
            ]
            for name, values in scores.items()
        }
        intervals = {name: mean_interval(values, names, seed=seed).as_dict() for name, values in best.items()}
        rows.append({"n": n, "kl": best_of_n_kl(n), **intervals})
    gains = [row["held_out"]["value"] - rows[0]["held_out"]["value"] for row in rows]
    curve = fit_curve([math.sqrt(row["kl"]) for row in rows], gains, "best_of_n")
    peak = None if curve is None else curve.peak
    return {
        "rows": rows,
        "curve": None if curve is None else {"alpha": curve.alpha, "beta": curve.beta},
        "peak": None if peak is None else {"kl": peak[0] ** 2, "gain": peak[1]},
    }
