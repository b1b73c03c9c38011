"""The true label of each item, when annotators confuse labels in ways of their own. Dawid, Skene 1979.

Expectation maximisation over a matrix per annotator, P(said | true). https://doi.org/10.2307/2346806, equations 2.3
to 2.5, with two additions: a prior on every matrix that expects the true label (few answers leave it at that), and a
weight per annotator as a power of the likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prefloop.quality.evidence import Floats, Votes

STEPS = 50
RIGHT, WRONG = 4.0, 1.0
"""Answers supposed beforehand for each true label: so many right, so many spread over the other labels."""


@dataclass(frozen=True)
class DawidSkene:
    """The fitted model."""

    truth: Floats
    """(items, labels): posterior of each item's true label."""
    confusion: Floats
    """(annotators, true label, said)."""


def fit(votes: Votes, annotators: int, weights: Floats, *, right: float = RIGHT, wrong: float = WRONG) -> DawidSkene:
    """Fit one family of votes. weights (annotators,), 0..1. With right = wrong = 0 it is Dawid and Skene's own."""
    c = votes.categories
    power = weights[votes.who]
    truth = _from_votes(votes, power)
    prior = np.full((c, c), wrong / max(c - 1, 1)) + np.eye(c) * (right - wrong / max(c - 1, 1))
    confusion = np.tile(np.eye(c), (annotators, 1, 1))
    for _ in range(STEPS):
        counts = np.tile(prior, (annotators, 1, 1))
        np.add.at(counts.transpose(0, 2, 1), (votes.who, votes.label), power[:, None] * truth[votes.item])
        total = counts.sum(axis=2, keepdims=True)
        confusion = np.divide(counts, total, out=np.full_like(counts, 1 / c), where=total > 0)
        share = truth.mean(axis=0)
        log = np.tile(np.log(np.maximum(share, 1e-12)), (len(votes.items), 1))
        said = np.log(np.maximum(confusion[votes.who, :, votes.label], 1e-12))
        np.add.at(log, votes.item, power[:, None] * said)
        new = np.exp(log - log.max(axis=1, keepdims=True))
        new /= new.sum(axis=1, keepdims=True)
        known = votes.gold >= 0
        new[known] = np.eye(c)[votes.gold[known]]
        done = float(np.abs(new - truth).max(initial=0.0)) < 1e-6
        truth = new
        if done:
            break
    return DawidSkene(truth, confusion)


def _from_votes(votes: Votes, power: Floats) -> Floats:
    counts = np.full((len(votes.items), votes.categories), 1e-9)
    np.add.at(counts, (votes.item, votes.label), power)
    result: Floats = counts / counts.sum(axis=1, keepdims=True)
    return result
