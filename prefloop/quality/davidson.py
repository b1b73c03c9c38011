"""Which of two completions is better, and how sure: Davidson's ties, with a discrimination per annotator.

Davidson 1970, https://doi.org/10.1080/01621459.1970.10481082. With d the difference of the two completions and beta the
annotator's discrimination,

    P(a) : P(tie) : P(b)  =  exp(beta d / 2) : nu : exp(-beta d / 2).

Every pair has a d of its own with a normal prior, integrated over a grid, so that one vote leaves it open; beta and nu
are fitted by expectation maximisation (marginal likelihood: with a d per pair, fitting both at once would not be
consistent). beta is at least 0: nobody's answer is ever counted as its opposite.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prefloop.quality.evidence import Floats, Votes

SPREAD = 2.0
"""Standard deviation of d beforehand: with beta 1, two thirds of the pairs are decided less than 9 to 1."""
POINTS = np.linspace(-6.0, 6.0, 25)
CLEAR = 1.0
"""A gold pair's d is at least this much on its known side."""
STEPS = 25
PRIOR_MEAN, PRIOR_SD = 1.0, 0.7
"""Of beta, before anything is known of an annotator."""
MOST = 5.0
CHUNK = 100_000
"""Votes looked at together: 25 points of each are 20 MB."""


@dataclass(frozen=True)
class Davidson:
    """The fitted model."""

    better: Floats
    """By item: probability that d > 0, that "a" is the better one; its ties are split evenly."""
    preferred: Floats
    """By item: probability that an annotator of discrimination 1 prefers "a", a tie counting half."""
    difference: Floats
    """By item: posterior mean of d."""
    beta: Floats
    """By annotator."""
    nu: float
    """How common ties are between equals: nu / (nu + 2)."""


def fit(votes: Votes, annotators: int, weights: Floats) -> Davidson:
    """Fit pairs (labels a, b, tie). weights (annotators,), 0..1: the power to which each one's votes are taken.

    The votes of a ranking of K are K - 1 for each of its completions and count in full.
    """
    sign = np.array([1.0, -1.0, 0.0])[votes.label]
    tie = votes.label == 2
    power = weights[votes.who]
    beta = np.full(annotators, PRIOR_MEAN)
    nu = max(0.05, 2 * float(tie.mean()))
    start = _start(votes)
    posterior = start
    for _ in range(STEPS):
        posterior = _posterior(votes, sign, tie, power, beta, nu, start)
        new_beta, new_nu = _maximise(votes, sign, tie, power, beta, nu, posterior, annotators)
        done = float(np.abs(new_beta - beta).max(initial=0.0)) < 1e-3 and abs(new_nu - nu) < 1e-3
        beta, nu = new_beta, new_nu
        if done:
            break
    posterior = _posterior(votes, sign, tie, power, beta, nu, start)
    chance = _chances(POINTS, nu)
    above = (POINTS > 0) + 0.5 * (POINTS == 0)
    return Davidson(
        better=posterior @ above,
        preferred=posterior @ (chance[0] + 0.5 * chance[2]),
        difference=posterior @ POINTS,
        beta=beta,
        nu=nu,
    )


def _start(votes: Votes) -> Floats:
    """(items, points): log-prior of d; a gold item's lies on its known side, near 0 for a known tie."""
    log = np.tile(-0.5 * (POINTS / SPREAD) ** 2, (len(votes.items), 1))
    for label, outside in ((0, POINTS < CLEAR), (1, POINTS > -CLEAR), (2, np.abs(POINTS) > CLEAR / 2)):
        log[np.ix_(votes.gold == label, outside)] = -np.inf
    return log


def _chances(d: Floats, nu: float) -> tuple[Floats, Floats, Floats]:
    """P(a), P(b), P(tie) at the scaled differences d, any shape."""
    half = np.clip(d / 2, -30, 30)
    a, b = np.exp(half), np.exp(-half)
    total = a + b + nu
    return a / total, b / total, nu / total


def _posterior(
    votes: Votes, sign: Floats, tie: Floats, power: Floats, beta: Floats, nu: float, start: Floats
) -> Floats:
    log = start.copy()
    for at in range(0, len(votes), CHUNK):
        part = slice(at, at + CHUNK)
        half = np.clip(beta[votes.who[part], None] * POINTS / 2, -30, 30)
        total = np.log(np.exp(half) + np.exp(-half) + nu)
        each = sign[part, None] * half + np.log(nu) * tie[part, None] - total
        np.add.at(log, votes.item[part], power[part, None] * each)
    weight = np.exp(log - log.max(axis=1, keepdims=True))
    result: Floats = weight / weight.sum(axis=1, keepdims=True)
    return result


def _maximise(
    votes: Votes,
    sign: Floats,
    tie: Floats,
    power: Floats,
    beta: Floats,
    nu: float,
    posterior: Floats,
    annotators: int,
) -> tuple[Floats, float]:
    """One Newton step on the expected log-likelihood: for each beta alone, and for log nu."""
    slope = np.zeros(annotators)
    bend = np.zeros(annotators)
    nu_slope = nu_bend = 0.0
    for at in range(0, len(votes), CHUNK):
        part = slice(at, at + CHUNK)
        who, q, w = votes.who[part], posterior[votes.item[part]], power[part]
        a, b, t = _chances(beta[who, None] * POINTS, nu)
        mean = (a - b) / 2
        variance = (a + b) / 4 - mean**2
        slope += np.bincount(who, (w[:, None] * q * (sign[part, None] / 2 - mean) * POINTS).sum(1), annotators)
        bend += np.bincount(who, (w[:, None] * q * variance * POINTS**2).sum(1), annotators)
        nu_slope += float((w[:, None] * q * (tie[part, None] - t)).sum())
        nu_bend += float((w[:, None] * q * t * (1 - t)).sum())
    slope -= (beta - PRIOR_MEAN) / PRIOR_SD**2
    bend += 1 / PRIOR_SD**2
    beta = np.clip(beta + np.clip(slope / bend, -1, 1), 0.0, MOST)
    # One more tie in two is supposed, so that data without any leaves nu above 0.
    log_nu = np.log(nu) + np.clip((nu_slope + 0.5 - nu / (nu + 2)) / (nu_bend + 0.25), -1, 1)
    nu = float(np.exp(np.clip(log_nu, -6, 3)))
    return beta, nu
