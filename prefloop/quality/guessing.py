"""Who answers from the question, and who by habit: MACE. Hovy et al. 2013, https://aclanthology.org/N13-1132

Each item has a true label. With probability theta an annotator gives it; else the label comes from a habit of theirs
that does not look at the question. Two changes: a habit is over labels *as shown* (the first, the second, a tie), so
that "always the left one" is a habit although the stored order was shuffled; and gold items have their label given.

`reliability` is the posterior of theta given what the *others* said about the same items, so that nobody vouches for
himself and a lone answer tells nothing. Fitted by expectation maximisation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from prefloop.quality.evidence import Floats, Mask, Votes

STEPS = 30
PULL = 4.0
"""Answers' worth of pull of each theta towards the panel's mean while the truth is estimated."""
SMOOTH = 3.0
"""Answers supposed in every habit beforehand, spread as the panel's answers are."""
GRID = np.linspace(0.0, 1.0, 101)
WRONG = 0.02
"""Chance that a person who looked gives another label than the truth: keeps one slip from counting as proof."""


@dataclass(frozen=True)
class Guessing:
    """The fitted model of one family."""

    votes: Votes
    truth: Floats
    """(items, labels): posterior of each item's true label."""
    others: Floats
    """(votes, labels): the same without the vote's own annotator."""
    log_vote: Floats
    """(votes, labels): log-likelihood of each vote for each true label, times the annotator's weight."""
    log_prior: Floats
    """(labels,) before any vote."""
    habit: Floats
    """(votes,): chance of the vote's label under its annotator's habit."""


@dataclass(frozen=True)
class Panel:
    """The models of all families, and theta of every annotator."""

    fits: list[Guessing]
    theta: Floats


def fit(families: Sequence[Votes], annotators: int, weights: Floats) -> Panel:
    """Fit all families together: theta is one per annotator, habits are one per annotator and family.

    weights (annotators,), 0..1: how much each one's votes count for the truth.
    """
    theta = np.full(annotators, 0.7)
    habits = [_habits(votes, annotators, np.ones(len(votes))) for votes in families]
    priors = [_prior(votes, None) for votes in families]
    fits: list[Guessing] = []
    for _ in range(STEPS):
        fits = [
            _expect(votes, theta, habit, prior, weights)
            for votes, habit, prior in zip(families, habits, priors, strict=True)
        ]
        looked, n = np.zeros(annotators), np.zeros(annotators)
        habits, priors = [], []
        for one in fits:
            votes = one.votes
            by_truth = theta[votes.who] * _hit(one.others, votes) + 1e-12
            share = by_truth / (by_truth + (1 - theta[votes.who]) * one.habit)
            looked += np.bincount(votes.who, weights=share, minlength=annotators)
            n += np.bincount(votes.who, minlength=annotators)
            habits.append(_habits(votes, annotators, 1 - share))
            priors.append(_prior(votes, one.truth))
        mean = np.clip(looked.sum() / max(n.sum(), 1.0), 0.2, 0.9)
        new = (looked + PULL * mean) / (n + PULL)
        done = float(np.abs(new - theta).max(initial=0.0)) < 1e-4
        theta = new
        if done:
            break
    return Panel(fits, theta)


def without(fit: Guessing, member: Floats) -> Floats:
    """(items, labels): the truth as those see it who are no members; `member` is 1 or 0 for each annotator."""
    gone = member[fit.votes.who] == 1
    log = np.tile(fit.log_prior, (len(fit.votes.items), 1))
    np.add.at(log, fit.votes.item[~gone], fit.log_vote[~gone])
    return _with_gold(_normal(log), fit.votes)


def theta_likelihood(panel: Panel, annotators: int, kept: Callable[[Votes], Mask] | None = None) -> Floats:
    """(annotators, grid): log-likelihood of each theta in GRID, given the others' view of the truth.

    kept: which votes to look at; all, when it is not given.
    """
    result = np.zeros((annotators, len(GRID)))
    for one in panel.fits:
        votes = one.votes
        # Where nobody else has answered there is nothing to compare with.
        some = (np.bincount(votes.item)[votes.item] > 1) | (votes.gold[votes.item] >= 0)
        if kept is not None:
            some &= kept(votes)
        hit = _hit(one.others, votes)[some, None]
        each = np.log(GRID[None, :] * hit + (1 - GRID[None, :]) * one.habit[some, None] + 1e-12)
        np.add.at(result, votes.who[some], each)
    return result


def posterior_interval(log_likelihood: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean, 2.5 % and 97.5 % points of theta under a uniform prior; each (annotators,)."""
    weight = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    below = np.cumsum(weight, axis=1)
    return (
        weight @ GRID,
        GRID[np.argmax(below >= 0.025, axis=1)],
        GRID[np.argmax(below >= 0.975, axis=1)],
    )


def _expect(votes: Votes, theta: Floats, habits: Floats, log_prior: Floats, weights: Floats) -> Guessing:
    habit = habits[votes.who, votes.shown]
    miss = np.log((1 - theta[votes.who]) * habit + theta[votes.who] * WRONG / (votes.categories - 1))
    hit = np.log((1 - theta[votes.who]) * habit + theta[votes.who] * (1 - WRONG))
    log_vote = np.tile(miss[:, None], (1, votes.categories))
    log_vote[np.arange(len(votes)), votes.label] = hit
    log_vote *= weights[votes.who][:, None]
    total = np.tile(log_prior, (len(votes.items), 1))
    np.add.at(total, votes.item, log_vote)
    others = _normal(total[votes.item] - log_vote)
    known = votes.gold[votes.item]
    others[known >= 0] = np.eye(votes.categories)[known[known >= 0]]
    return Guessing(votes, _with_gold(_normal(total), votes), others, log_vote, log_prior, habit)


def _with_gold(truth: Floats, votes: Votes) -> Floats:
    known = votes.gold >= 0
    truth[known] = np.eye(votes.categories)[votes.gold[known]]
    return truth


def _hit(others: Floats, votes: Votes) -> Floats:
    """P(the truth is what this vote says), as the others see it; a slip is possible either way."""
    said = others[np.arange(len(votes)), votes.label]
    result: Floats = said * (1 - WRONG) + (1 - said) * WRONG / (votes.categories - 1)
    return result


def _habits(votes: Votes, annotators: int, share: Floats) -> Floats:
    """(annotators, labels): how often each label as shown comes, among the answers given by habit."""
    usual = np.bincount(votes.shown, minlength=votes.categories) + 0.01
    counts = np.tile(SMOOTH * usual / usual.sum(), (annotators, 1))
    np.add.at(counts, (votes.who, votes.shown), share)
    result: Floats = counts / counts.sum(axis=1, keepdims=True)
    return result


def _prior(votes: Votes, truth: Floats | None) -> Floats:
    """log of how common each true label is; of a pair's two sides neither is the more likely one beforehand."""
    share = np.bincount(votes.label, minlength=votes.categories) if truth is None else truth.sum(axis=0)
    share = share + 0.5
    if votes.family == "pair":
        share = np.array([(share[0] + share[1]) / 2, (share[0] + share[1]) / 2, share[2]])
    result: Floats = np.log(share / share.sum())
    return result


def _normal(log: Floats) -> Floats:
    each = np.exp(log - log.max(axis=1, keepdims=True))
    result: Floats = each / each.sum(axis=1, keepdims=True)
    return result
