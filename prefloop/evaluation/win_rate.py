"""How often one policy's answer is preferred to another's: blind, both orders, ties half.

The judge sees only a prompt and two texts, never which policy wrote which, and every pair twice with the order
swapped, so that a liking for the first place cancels (Zheng et al. 2023, arXiv 2306.05685, section 3.4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from prefloop.errors import InputError, RunError
from prefloop.evaluation.interval import share_interval
from prefloop.records import Message, as_messages, prompt_id

Verdict = Literal["a", "b", "tie"]
Prompt = str | Sequence[Message]
Judge = Callable[[Sequence[Any], Sequence[str], Sequence[str]], Sequence[str]]
"""(prompts, first texts, second texts) -> for each "a" (the first is better), "b" or "tie"."""

POINTS = {"a": 1.0, "tie": 0.5, "b": 0.0}


def win_rate(
    prompts: Sequence[Prompt], a: Sequence[str], b: Sequence[str], judges: Judge | Sequence[Judge], *, seed: int = 0
) -> dict[str, Any]:
    """Share of pairs that `a` wins against `b`: {"value", "low", "high", "n", ...}; 0.5 is no difference.

    Pair i is `a[i]` against `b[i]` on `prompts[i]`. Each judge judges every pair in both orders, its 2n judgements in
    one shuffled batch. A pair scores the mean of all its judgements (1 won, 0.5 tied, 0 lost), so several judges make
    the rate more exact and `n` no larger. Identical texts are a tie and are not shown. The interval is a bootstrap over
    prompts. Besides:
    `judges` how many, `ties` share of judgements that are ties (identical pairs included), `consistency` how often the
    two orders of a shown pair name the same winner (or tie both times), `first` share of decided judgements for the
    text shown first (0.5 is no position bias), `identical` count of identical pairs; consistency and first are None
    where nothing was shown or decided.
    Raises InputError for no pairs or unequal lengths, RunError when a judge does not answer as agreed.
    """
    n, asked = len(prompts), [judges] if callable(judges) else list(judges)
    if n == 0 or len(a) != n or len(b) != n:
        raise InputError(f"a win rate needs as many answers of each policy as prompts: got {n}, {len(a)}, {len(b)}")
    if not asked:
        raise InputError("a win rate needs a judge")
    shown = [i for i in range(n) if a[i] != b[i]]
    which, ours, theirs = [prompts[i] for i in shown], [a[i] for i in shown], [b[i] for i in shown]
    verdicts = [_ask_in_both_orders(which, ours, theirs, judge, seed + number) for number, judge in enumerate(asked)]
    points = np.full((n, len(asked), 2), 0.5)
    for number, said in enumerate(verdicts):
        for row, (straight, swapped) in zip(shown, said, strict=True):
            points[row, number] = POINTS[straight], 1 - POINTS[swapped]
    pairs = [pair for said in verdicts for pair in said]
    decided = [v for pair in pairs for v in pair if v != "tie"]
    consistent = [POINTS[straight] == 1 - POINTS[swapped] for straight, swapped in pairs]
    result = share_interval(points.mean(axis=(1, 2)), [prompt_id(as_messages(p)) for p in prompts], seed=seed)
    return result.as_dict() | {
        "judges": len(asked),
        "ties": float((points == 0.5).mean()),
        "consistency": float(np.mean(consistent)) if consistent else None,
        "first": decided.count("a") / len(decided) if decided else None,
        "identical": n - len(shown),
    }


def _ask_in_both_orders(
    prompts: Sequence[Prompt], a: Sequence[str], b: Sequence[str], judge: Judge, seed: int
) -> list[tuple[str, str]]:
    """For each pair the verdict as (a, b) and the verdict as (b, a), both in terms of the places shown."""
    n = len(prompts)
    firsts, seconds = [*a, *b], [*b, *a]
    order = np.random.default_rng(seed).permutation(2 * n).tolist()
    # Shuffled, so that neither half of the batch belongs to one policy's place.
    said = (
        list(judge([prompts[i % n] for i in order], [firsts[i] for i in order], [seconds[i] for i in order]))
        if n
        else []
    )
    if len(said) != 2 * n:
        raise RunError(f"the judge was shown {2 * n} pairs and answered {len(said)}; it must answer each one")
    wrong = next((v for v in said if v not in POINTS), None)
    if wrong is not None:
        raise RunError(f"the judge answered {wrong!r}; it must be 'a', 'b' or 'tie'")
    verdicts = [""] * (2 * n)
    for place, verdict in zip(order, said, strict=True):
        verdicts[place] = verdict
    return [(verdicts[i], verdicts[n + i]) for i in range(n)]
