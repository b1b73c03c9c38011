"""What several answers to one comparison say together, and how far people agree.

Kept simple on purpose: the share of votes, each at its annotator's weight. Models of the annotators (davidson.py,
dawid_skene.py) stand beside this.

Two numbers come out, because they answer two questions. `label` is the plain share of votes for the first candidate,
ties counting half: what a loss is trained on, so that one lone answer is a hard label. `low` and `high` bound
the probability that the next person prefers the first candidate: what decides whether to ask one more.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prefloop.errors import InputError

VOTES = {"a": 1.0, "tie": 0.5, "b": 0.0}
"""What a choice adds to the share of the first candidate. `both_bad` and `unsure` are no votes."""
NO_VOTE = ("both_bad", "unsure")


@dataclass(frozen=True, kw_only=True)
class Consensus:
    """What the votes of one question say together. `a` is the first candidate in stored order."""

    label: float | None
    """Share of the votes for `a`, ties counting half, 0..1; None when nobody voted."""
    ties: float
    """Share of the votes that are ties; half of them is in `label`."""
    weight: float
    """Share of this question in a loss: the largest weight of those who voted, so 1 however many they are; 0 when
    nobody did. More votes sharpen the label."""
    n: int
    """Votes: answers of a, b or tie."""
    mean: float
    """Posterior mean of the probability that the next person prefers `a` (uniform prior; a tie is half a vote each)."""
    low: float
    high: float
    """Central 90 % interval of that posterior."""
    uncertain: bool
    """0.5 lies inside the interval: one more answer could turn the majority."""
    strength: float | None
    """Mean strength, 1 (slightly) to 3 (much), of the votes for the side that won; None for a tie or where not said."""
    counts: Mapping[str, int]
    """Answers by choice, no-votes included."""

    @property
    def tie(self) -> bool:
        return self.label == 0.5


def comparison_consensus(
    answers: Iterable[tuple[str, str, int | None]], weights: Mapping[str, float] | None = None
) -> Consensus:
    """The consensus of one question from its answers (annotator, choice in stored order, strength or None).

    Each annotator has one vote: where one appears twice (a correction), the last answer counts. The votes a, b and
    tie make the label; both_bad and unsure are counted but do not vote. The posterior is
    Beta(1 + a + tie/2, 1 + b + tie/2). weights: annotator -> what a vote of theirs counts, above 0 and at most 1;
    1 for those who are not named.

    Raises InputError for a choice that does not exist.
    """
    last = {annotator: (choice, strength) for annotator, choice, strength in answers}
    counts = Counter(choice for choice, _ in last.values())
    unknown = sorted(set(counts) - set(VOTES) - set(NO_VOTE))
    if unknown:
        raise InputError(f"unknown choice {unknown[0]!r}; a comparison is answered with a, b, tie, both_bad or unsure")
    n = sum(counts[choice] for choice in VOTES)
    worth = [(VOTES[choice], (weights or {}).get(who, 1.0)) for who, (choice, _) in last.items() if choice in VOTES]
    total = sum(weight for _, weight in worth)
    tied = sum(weight for share, weight in worth if share == 0.5)
    wins = sum(share * weight for share, weight in worth)
    label = wins / total if total else None
    alpha, beta = 1.0 + wins, 1.0 + total - wins
    low, high = beta_quantile(0.05, alpha, beta), beta_quantile(0.95, alpha, beta)
    winner = None if label is None or label == 0.5 else ("a" if label > 0.5 else "b")
    strengths = [s for choice, s in last.values() if choice == winner and s is not None]
    return Consensus(
        label=label,
        ties=tied / total if total else 0.0,
        weight=max((weight for _, weight in worth), default=0.0),
        n=n,
        mean=alpha / (alpha + beta),
        low=low,
        high=high,
        uncertain=low <= 0.5 <= high,
        strength=sum(strengths) / len(strengths) if strengths else None,
        counts=dict(sorted(counts.items())),
    )


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How often two people who answered the same question said the same."""

    agree: int
    """Pairs of annotators, over all questions, with the same choice."""
    n: int
    """Pairs of annotators who both voted on one question."""
    questions: int
    """Questions with two votes or more."""

    @property
    def value(self) -> float | None:
        """Share 0..1, or None where nothing can be said because no question has two votes."""
        return self.agree / self.n if self.n else None


def pairwise_agreement(questions: Iterable[Sequence[tuple[str, str]]], *, ties: bool = True) -> Agreement:
    """The human ceiling: over every question's (annotator, choice) pairs, how often two annotators chose alike.

    A reward model cannot be expected to agree with people more often than they agree with one another. `ties=False`
    leaves ties out, as published figures mostly do. Answers of both_bad and unsure are left out; a question that
    many answered counts with all its pairs.
    """
    kept = ("a", "b", "tie") if ties else ("a", "b")
    agree = n = several = 0
    for answers in questions:
        votes = [choice for choice in dict(answers).values() if choice in kept]
        pairs = list(itertools.combinations(votes, 2))
        several += bool(pairs)
        n += len(pairs)
        agree += sum(one == other for one, other in pairs)
    return Agreement(agree=agree, n=n, questions=several)


@functools.lru_cache(maxsize=4096)
def beta_quantile(share: float, alpha: float, beta: float) -> float:
    """The point below which a Beta(alpha, beta) variable lies with probability `share`; within 1e-9.

    alpha, beta >= 1 (so that the density is bounded). By bisection on the regularised incomplete beta function.
    """
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if beta_below(middle, alpha, beta) < share else (low, middle)
    return (low + high) / 2


def beta_below(x: float, alpha: float, beta: float) -> float:
    """P(X <= x) for X ~ Beta(alpha, beta): the continued fraction of Numerical Recipes, section 6.4 (Lentz)."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (alpha + 1) / (alpha + beta + 2):
        return 1.0 - beta_below(1.0 - x, beta, alpha)
    log_front = (
        math.lgamma(alpha + beta) - math.lgamma(alpha) - math.lgamma(beta) + alpha * math.log(x) + beta * math.log1p(-x)
    )
    tiny = 1e-300
    c, d = 1.0, 1.0 / _away(1.0 - (alpha + beta) * x / (alpha + 1), tiny)
    fraction = d
    for m in range(1, 1000):
        even = m * (beta - m) * x / ((alpha + 2 * m - 1) * (alpha + 2 * m))
        odd = -(alpha + m) * (alpha + beta + m) * x / ((alpha + 2 * m) * (alpha + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _away(1.0 + term * d, tiny)
            c = _away(1.0 + term / c, tiny)
            fraction *= d * c
        if abs(d * c - 1.0) < 1e-14:
            break
    return math.exp(log_front) * fraction / alpha


def _away(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
