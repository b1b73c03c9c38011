"""Rule-based rewards: propositions about an answer, whose weights are fitted to answers that people put in order.

Mu et al. 2024, Rule Based Rewards for Language Model Safety (arXiv 2411.01111): R = R_RM + sum_i w_i phi_i, where
phi_i is the probability that proposition i holds ("refuses", "is judgmental", ...). A proposition is any reward; the
fitted weights go into the `weight` of its part.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefloop.errors import InputError
from prefloop.records import Message
from prefloop.rewards.fluency import ReferenceModel


@dataclass(frozen=True)
class FittedRules:
    """Weights of propositions, and how they order answers that the fit has not seen."""

    weights: dict[str, float]
    ordered_before: float
    """Share of the held-out pairs that the reward model alone puts in order; equal scores count half."""
    ordered_after: float
    pairs: int
    """All ordered pairs, held-out ones included."""
    held_out: int


def fit_rules(
    features: Mapping[str, Sequence[float]],
    ranks: Sequence[float],
    prompts: Sequence[Hashable],
    base: Sequence[float] | None = None,
    *,
    margin: float = 1.0,
    steps: int = 1000,
    lr: float = 0.01,
    held_out: float = 0.05,
    seed: int = 0,
) -> FittedRules:
    """Weights w from 0 that minimise mean relu(margin + R_worse - R_better), R = base + sum w_i phi_i.

    Row i is a completion: `features[name][i]` how far the proposition holds, `ranks[i]` higher for better, and
    `prompts[i]` which prompt it answers; a pair is two answers to one prompt with different ranks. AdamW without decay
    (the settings of https://github.com/openai/safety-rbr-code-and-data); whole prompts are held out, two or more.
    Raises InputError for unequal lengths, values that are not finite, or too few ordered pairs on either side.
    """
    names = list(features)
    if not names:
        raise InputError("rules need at least one proposition")
    x = torch.tensor([list(features[name]) for name in names], dtype=torch.double).T
    r = torch.zeros(len(x), dtype=torch.double) if base is None else torch.tensor(list(base), dtype=torch.double)
    if not len(x) == len(r) == len(ranks) == len(prompts):
        raise InputError(f"each completion needs features, rank and prompt: got {len(x)}, {len(ranks)}, {len(prompts)}")
    if not (x.isfinite().all() and r.isfinite().all()):
        raise InputError("every feature and base score must be a finite number")
    order = list(dict.fromkeys(prompts))
    drawn = np.random.default_rng(seed).permutation(len(order))[: max(2, round(held_out * len(order)))]
    test = {order[i] for i in drawn}
    sides = [_pairs(ranks, prompts, [p for p in order if (p in test) == side]) for side in (False, True)]
    if min(map(len, sides)) == 0:
        raise InputError(f"ordered pairs: {len(sides[0])} to fit and {len(sides[1])} held out; both are needed")
    w = torch.zeros(len(names), dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.AdamW([w], lr=lr, weight_decay=0.0)
    better, worse = sides[0].T
    ahead, more = r[better] - r[worse], x[better] - x[worse]
    for _ in range(steps):
        optimizer.zero_grad()
        (margin - ahead - more @ w).relu().mean().backward()
        optimizer.step()
    final = (r + x @ w).detach()
    return FittedRules(
        dict(zip(names, w.tolist(), strict=True)),
        _ordered(r, sides[1]),
        _ordered(final, sides[1]),
        len(sides[0]) + len(sides[1]),
        len(sides[1]),
    )


def _pairs(ranks: Sequence[float], prompts: Sequence[Hashable], chosen: Sequence[Hashable]) -> Tensor:
    """(better, worse) row numbers, [n, 2]."""
    rows: dict[Hashable, list[int]] = {prompt: [] for prompt in chosen}
    for i, prompt in enumerate(prompts):
        if prompt in rows:
            rows[prompt].append(i)
    found = [(i, j) for group in rows.values() for i in group for j in group if ranks[i] > ranks[j]]
    return torch.tensor(found, dtype=torch.long).reshape(-1, 2)


def _ordered(score: Tensor, pairs: Tensor) -> float:
    difference = score[pairs[:, 0]] - score[pairs[:, 1]]
    return float((difference.sign() + 1).mean() / 2)


def proposition(question: str, model: str = "builtin", **options: Any) -> Callable[..., list[float | None]]:
    """Makes the reward that says how likely a language model finds that a proposition holds, 0..1.

    `question` is asked about the prompt and its answer; the score is p(yes) / (p(yes) + p(no)) of the model's
    reply. Only as good as the model: fit the weight on answers that people have put in order.
    """
    return rubric(f"{question} Say yes or no.", {"yes": 1.0, "no": 0.0}, model, **options)


def rubric(
    question: str, classes: Mapping[str, float], model: str = "builtin", *, column: str | None = None, **options: Any
) -> Callable[..., list[float | None]]:
    """Makes the reward of a rubric: what an answer's class is worth, on average over what a language model finds.

    GPT-4's rule-based reward models (OpenAI 2023, arXiv 2303.08774, section 6): a classifier without examples reads
    prompt, answer and rubric and names a class, such as A, a refusal as it should be, B, one that should not be, C,
    what is not allowed, D, a safe answer. `classes` are the names and their worth; the score is the sum of
    p(name) * worth, p being the softmax of the log-probabilities of the names as the model's reply. With `column` it
    applies only to rows in which that column is true, and says None of the others.
    Raises InputError for fewer than two classes, or names that are no text (in YAML, yes and no are none: quote them).
    """
    if len(classes) < 2 or not all(isinstance(name, str) for name in classes):
        raise InputError(
            f'a rubric needs two classes or more by name, such as {{"A": 1, "B": -1}}; got {dict(classes)}'
        )
    judge = ReferenceModel(model, **options)
    worth = torch.tensor(list(classes.values()), dtype=torch.float32)

    def score(
        prompts: Sequence[Sequence[Message]], completions: Sequence[str], **columns: Sequence[Any]
    ) -> list[float | None]:
        if column is not None and column not in columns:
            raise InputError(f"the data have no column {column!r}, which says where the rubric applies")
        rows = [i for i in range(len(completions)) if column is None or columns[column][i] is True]
        asked: list[list[Message]] = [
            [{"role": "user", "content": f"{prompts[i][-1]['content']}\n\nAnswer: {completions[i]}\n\n{question}"}]
            for i in rows
        ]
        result: list[float | None] = [None] * len(completions)
        if rows:
            named = [judge.logprobs(judge.encoded(asked, [name] * len(asked))) for name in classes]
            for i, value in zip(rows, (torch.stack(named, dim=1).softmax(dim=1) @ worth).tolist(), strict=True):
                result[i] = value
        return result

    return score
