"""Habits that do not look at the question: always the same place, the same place as before, the longer text.

For each annotator a logistic regression of "took what was shown first" on what the others think of the pair, and on the
place, the place taken last time, and which text is longer. A habit is found when leaving its term out makes the answers
so much less likely that chance would do so once in ten thousand (likelihood ratio, chi-square with one degree), *and*
the habit rules the answers: people lean to a side a little, and that is no finding.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from prefloop.quality.evidence import Floats, Ints
from prefloop.quality.guessing import Panel

CRITICAL = 15.14
"""Chi-square with one degree of freedom, 1 - 1e-4."""
FEWEST = 20
"""Decided answers below which no habit is looked for."""
PLACE = 0.7
"""Share of the answers in one place."""
STICKY = 0.7
"""Share of the answers in the same place as the one before."""
LENGTH = 0.85
"""Share of the answers for the longer text, or for the shorter one."""
RIDGE = 0.05
"""Keeps coefficients finite where a habit is perfect."""
ONE, PLACED, BEFORE, LONGER = 0, 1, 2, 3
"""Columns: what the others think, and the three habits."""


@dataclass(frozen=True)
class Habit:
    """The habits of one annotator. Shares are None where there was nothing to see."""

    n: int
    """Answers that took a side, where the order shown is known."""
    first: float | None = None
    """Share that took what was shown first; 0.5 is no habit."""
    same: float | None = None
    """Share in the same place as the answer before; 0.5 is no habit."""
    longer: float | None = None
    """Share that took the longer text."""
    position: bool = False
    sticky: bool = False
    length: bool = False


def habits(panel: Panel, annotators: int) -> list[Habit]:
    """The habits of every annotator, from their votes on pairs."""
    pairs = next((one for one in panel.fits if one.votes.family == "pair"), None)
    if pairs is None:
        return [Habit(0)] * annotators
    votes = pairs.votes
    chosen = np.flatnonzero(votes.label < 2)
    chosen = chosen[np.lexsort((votes.number[chosen], votes.who[chosen]))]
    # As stored where the order shown is not known: length still shows then, a place does not.
    side = np.where(votes.first[chosen] == 0, 1, votes.first[chosen])
    first = np.where((votes.label[chosen] == 0) == (side == 1), 1.0, 0.0)
    view = pairs.others[chosen]
    x = np.zeros((len(chosen), 4))
    x[:, ONE] = side * np.clip(np.log((view[:, 0] + 0.02) / (view[:, 1] + 0.02)), -4, 4)
    x[:, PLACED] = votes.first[chosen] != 0
    x[:, LONGER] = side * np.sign(votes.longer[chosen])
    same_person = np.r_[False, votes.who[chosen][1:] == votes.who[chosen][:-1]]
    x[:, BEFORE] = np.where(same_person & (votes.first[chosen] != 0), np.r_[0.0, 2 * first[:-1] - 1], 0.0)
    rows = np.searchsorted(votes.who[chosen], np.arange(annotators + 1))
    usual = _usual_length(x, first, rows)
    return [_habit(x[rows[i] : rows[i + 1]], first[rows[i] : rows[i + 1]], usual) for i in range(annotators)]


def _habit(x: Floats, first: Floats, usual: float) -> Habit:
    """usual: the share of the longer text that is usual on this panel."""
    placed = x[:, PLACED] != 0
    known = first[placed]
    step = x[:, BEFORE]
    took_longer = np.where(x[:, LONGER] > 0, first, 1 - first)[x[:, LONGER] != 0]
    share = float(known.mean()) if len(known) else None
    same = float(np.mean((2 * first - 1)[step != 0] == step[step != 0])) if (step != 0).any() else None
    longer = float(took_longer.mean()) if len(took_longer) else None
    if len(first) < FEWEST:
        return Habit(len(known), share, same, longer)

    def matters(column: int, beside: list[int]) -> bool:
        """Whether a habit explains what the columns `beside` it do not."""
        return 2 * (_log_likelihood(x[:, [*beside, column]], first) - _log_likelihood(x[:, beside], first)) > CRITICAL

    beyond = longer is not None and abs(longer - 0.5) > abs(usual - 0.5) + 0.1
    return Habit(
        n=len(known),
        first=share,
        same=same,
        longer=longer,
        position=share is not None
        and len(known) >= FEWEST
        and max(share, 1 - share) >= PLACE
        and matters(PLACED, [ONE, LONGER]),
        # Always the same place is a position; staying where one is, on either side, is stickiness.
        sticky=same is not None
        and len(known) >= FEWEST
        and max(same, 1 - same) >= STICKY
        and matters(BEFORE, [ONE, PLACED, LONGER]),
        length=longer is not None and beyond and max(longer, 1 - longer) >= LENGTH and matters(LONGER, [ONE, PLACED]),
    )


def _usual_length(x: Floats, first: Floats, rows: Ints) -> float:
    """The median annotator's share of longer texts."""
    took = np.where(x[:, LONGER] > 0, first, 1 - first)
    shares = [
        took[a:b][x[a:b, LONGER] != 0].mean()
        for a, b in itertools.pairwise(rows.tolist())
        if (x[a:b, LONGER] != 0).sum() >= FEWEST
    ]
    return float(np.median(shares)) if shares else 0.5


def _log_likelihood(x: Floats, y: Floats) -> float:
    """Of a logistic regression of y on x with a little ridge, by Newton's method."""
    w = np.zeros(x.shape[1])
    for _ in range(25):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        gradient = x.T @ (y - p) - RIDGE * w
        bend = (x.T * (p * (1 - p))) @ x + (RIDGE + 1e-9) * np.eye(len(w))
        step = np.linalg.solve(bend, gradient)
        w = w + np.clip(step, -2, 2)
        if float(np.abs(step).max(initial=0.0)) < 1e-6:
            break
    z = np.clip(x @ w, -30, 30)
    return float((y * z - np.logaddexp(0, z)).sum())
