"""Rings: annotators who copy from one another, so that many answers are one.

People of one taste agree often; people who copy agree always. Two findings must meet before a group is called a ring.
Its answers on items that they share are all but identical, more so than two careful people of the same mind would be.
And copying explains them far better than agreement does: a label that the others' votes make unlikely, given twice, is
much stronger evidence than a likely one. What only the group's members have answered tells nothing and is left out, and
a group of more than half of the annotators is no ring: where nearly all are of one mind, nobody can tell who copied.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from prefloop.quality.evidence import Floats, Ints, Mask
from prefloop.quality.guessing import Guessing, Panel, without

COPIED = 0.97
"""Chance that a member gives the copied answer and not one of their own."""
LIKE_MINDED = 0.85
"""How often two careful people of one mind say the same, at most."""
IDENTICAL = 0.95
"""Share of identical answers from which on two people may be of one ring."""
SHARED = 12
"""Items that two people must share before they are compared."""
EVIDENCE = math.log(1e5)
"""Log of the odds of copying against agreeing, beyond the number of pairs that were looked at."""
CROWDED = 40
"""Answers to an item from which on its pairs of annotators are counted by a product of matrices."""
UNLIKELY = 1e-4
"""Chance that like-minded people would be so much alike."""


def rings(panel: Panel, annotators: int) -> list[list[int]]:
    """Groups of annotators (their indices) who copy from one another; the largest first."""
    close, compared = _close(panel, annotators)
    bar = EVIDENCE + math.log(max(1, compared))
    groups = [group for group in _groups(close, annotators) if 2 * len(group) <= annotators]
    found = [group for group in groups if _is_ring(panel, group, annotators, bar)]
    return sorted(found, key=len, reverse=True)


def _close(panel: Panel, annotators: int) -> tuple[list[tuple[int, int]], int]:
    """(pairs of annotators whose shared answers are all but identical, how many pairs were looked at)."""
    shared: Counter[tuple[int, int]] = Counter()
    alike: Counter[tuple[int, int]] = Counter()
    for one in panel.fits:
        crowded = np.bincount(one.votes.item, minlength=len(one.votes.items)) > CROWDED
        for members in _together(one, ~crowded):
            for (who, label), (other, second) in itertools.combinations(members, 2):
                shared[who, other] += 1
                alike[who, other] += label == second
        if crowded.any():
            together, same = _matrices(one, crowded, annotators)
            for who, other in np.argwhere(np.triu(together, 1)).tolist():
                shared[who, other] += int(together[who, other])
                alike[who, other] += int(same[who, other])
    return [pair for pair, n in shared.items() if n >= SHARED and alike[pair] >= IDENTICAL * n], len(shared)


def _together(fit: Guessing, wanted: Mask) -> list[list[tuple[int, int]]]:
    """The (annotator, label) of each wanted item with several answers, by annotator."""
    by: dict[int, list[tuple[int, int]]] = defaultdict(list)
    some = wanted[fit.votes.item]
    columns = (fit.votes.item[some].tolist(), fit.votes.who[some].tolist(), fit.votes.label[some].tolist())
    for item, who, label in zip(*columns, strict=True):
        by[item].append((who, label))
    return [sorted(members) for members in by.values() if len(members) > 1]


def _matrices(fit: Guessing, wanted: Mask, annotators: int) -> tuple[Ints, Ints]:
    """(annotators, annotators): answers to the same wanted items, and those that are the same.

    For items that many have answered, such as gold: a product of matrices where pairs one by one would take minutes.
    """
    votes = fit.votes
    place = np.cumsum(wanted) - 1
    some = wanted[votes.item]
    same = np.zeros((annotators, annotators), dtype=np.float32)
    answered = np.zeros((annotators, int(wanted.sum())), dtype=np.float32)
    for label in range(votes.categories):
        said = np.zeros_like(answered)
        those = some & (votes.label == label)
        said[votes.who[those], place[votes.item[those]]] = 1
        same += said @ said.T
        answered += said
    return (answered @ answered.T).astype(np.int64), same.astype(np.int64)


def _groups(pairs: Sequence[tuple[int, int]], annotators: int) -> list[list[int]]:
    """Connected components of the graph of pairs."""
    root = list(range(annotators))

    def top(one: int) -> int:
        while root[one] != one:
            root[one] = root[root[one]]
            one = root[one]
        return one

    for one, other in pairs:
        root[top(one)] = top(other)
    groups: dict[int, list[int]] = defaultdict(list)
    for one in sorted({who for pair in pairs for who in pair}):
        groups[top(one)].append(one)
    return list(groups.values())


def _is_ring(panel: Panel, group: Sequence[int], annotators: int, bar: float) -> bool:
    member = np.zeros(annotators)
    member[list(group)] = 1
    evidence = 0.0
    same = pairs = 0
    for fit in panel.fits:
        view = without(fit, member)
        seen = _seen_by_others(fit, member)
        for item, labels in _answers_of(fit, member).items():
            if len(labels) < 2:
                continue
            counts = np.bincount(labels, minlength=fit.votes.categories)
            top = int(counts.argmax())
            same += int(counts[top]) - 1
            pairs += len(labels) - 1
            if not seen[item]:
                continue
            alone = _chance(view[item], fit, panel)
            evidence += _copying(counts, alone)
    if pairs == 0:
        return False
    spread = math.sqrt(LIKE_MINDED * (1 - LIKE_MINDED) * pairs)
    chance = 1 - NormalDist().cdf((same - 0.5 - LIKE_MINDED * pairs) / spread)
    return evidence > bar and chance < UNLIKELY


def _chance(truth: Floats, fit: Guessing, panel: Panel) -> Floats:
    """How likely each label is from the median annotator, who answers alone."""
    theta = float(np.clip(np.median(panel.theta), 0.3, 0.99))
    result: Floats = theta * truth + (1 - theta) / fit.votes.categories
    return result


def _copying(counts: Ints, alone: Floats) -> float:
    """log P(labels | one answered, the others copied) - log P(labels | each answered alone)."""
    said = counts > 0
    independent = float((counts[said] * np.log(alone[said])).sum())
    n = int(counts.sum())
    # Whoever was copied said each label with the chance of one who answers alone.
    from_each = [
        math.log(alone[label])
        + (counts[label] - 1) * math.log(COPIED + (1 - COPIED) * alone[label])
        + sum(counts[other] * math.log((1 - COPIED) * alone[other]) for other in np.flatnonzero(said) if other != label)
        + math.log(counts[label] / n)
        for label in np.flatnonzero(said)
    ]
    return float(np.logaddexp.reduce(from_each)) - independent


def _answers_of(fit: Guessing, member: Floats) -> dict[int, list[int]]:
    """Item -> the members' labels."""
    votes = fit.votes
    inside = member[votes.who] == 1
    found: dict[int, list[int]] = defaultdict(list)
    for item, label in zip(votes.item[inside].tolist(), votes.label[inside].tolist(), strict=True):
        found[item].append(label)
    return found


def _seen_by_others(fit: Guessing, member: Floats) -> Mask:
    """Items on which somebody outside has voted, or whose answer is known."""
    votes = fit.votes
    outside = np.bincount(votes.item[member[votes.who] == 0], minlength=len(votes.items))
    result: Mask = (outside > 0) | (votes.gold >= 0)
    return result
