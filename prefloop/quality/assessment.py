"""What the answers are worth: every annotator's standing, the weights that follow, and the consensus under them.

A finding has a name, lowers a weight and asks a lead to look, whose ruling then holds (store/rulings.py). It deletes
nobody, and it never counts an answer as its opposite. Disagreeing with the others is no finding where gold questions
show that somebody looks: agreement speaks for a person, its absence does not speak against one. Only without gold does
answering no better than chance count.

| finding | what was seen |
|---|---|
| gold | too many gold questions wrong for somebody who looks |
| inverted | gold questions wrong far more often than by chance; without gold, the others' opposite |
| guessing | too few gold questions, and no sign that the answers follow the question |
| position, sticky, length | one place, the place of the answer before, or the longer text rules the answers |
| one_answer | the same label nearly always, where others give several |
| ring | copies from others: a group whose shared answers are all but identical |
| repeats | the same question, swapped, gets another answer too often |
| drift | answers follow the question much less in the second half than in the first |
| fast | a fifth of the panel's usual time, or less |
| duplicate_text | writes nearly the same text again and again |
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefloop.quality import davidson, dawid_skene, guessing
from prefloop.quality.evidence import Floats, Judgement, Mask, Votes, coarse, votes_of
from prefloop.quality.guessing import GRID, Panel
from prefloop.quality.habits import Habit, habits
from prefloop.quality.rings import rings
from prefloop.quality.texts import repeated
from prefloop.store.rulings import Decision, Ruling

SERIOUS, MILD = 0.1, 0.5
WEIGHTS = {
    "gold": SERIOUS,
    "inverted": SERIOUS,
    "guessing": SERIOUS,
    "position": SERIOUS,
    "sticky": SERIOUS,
    "length": SERIOUS,
    "one_answer": SERIOUS,
    "repeats": MILD,
    "drift": MILD,
    "fast": MILD,
    "duplicate_text": MILD,
}
"""What a finding leaves of a weight of 1; the lowest holds. A ring of K counts as one: 1/K each."""
ENOUGH_GOLD = 8
"""Gold answers from which on gold decides."""
ATTENTIVE = (27.0, 3.0)
"""Beta prior of the share of gold questions that somebody who looks gets right."""
SURELY = 0.9
"""Somebody who looks gets this share right; a result that is rarer than RARE under it is too many wrong."""
RARE = 0.01
CONSISTENT = (8.0, 2.0)
"""Beta prior of how often the same question, swapped, gets the same answer from somebody who looks."""
MIN_REPEATS = 8
MIN_GUESSES = 30
FOLLOWS = 0.3
"""Somebody whose reliability is below this with 97.5 % certainty does not follow the question."""
MIN_TIMES = 20
FAST = 0.2
FAST_SECONDS = 2.0
MIN_TEXTS = 5
COPIES = 0.5
"""Share of an annotator's texts that are nearly alike."""
DRIFT = 0.3
CHI_SQUARE = 15.14
"""One degree of freedom, 1 - 1e-4."""
WARN_REMOVED = 0.05
CERTAIN = 0.95


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One annotator: how far the answers follow the question, and what was found."""

    id: str
    n: int
    """Answers, repeats included; skips and late ones are none."""
    reliability: float
    """Share of the answers that follow the question and no habit, 0..1: 0 is what guessing gives."""
    low: float
    high: float
    """95 % interval; 0.03 to 0.98 when nothing is known."""
    flags: tuple[str, ...]
    weight: float
    gold: int
    gold_right: int
    """Gold items judged, and those judged rightly; a tie where there is a better one is neither."""
    repeats: int
    repeats_same: int
    first: float | None
    """Share of choices of what was shown first."""
    longer: float | None
    """Share of choices of the longer text."""
    seconds: float | None
    """Median time per answer."""
    drift: float | None
    """Reliability in the second half of the answers minus that in the first."""
    alike: float | None
    """Share of written texts that nearly repeat another one of theirs."""
    ring: tuple[str, ...] = ()
    """The others of the ring."""
    ruling: Decision | None = None
    """What a lead decided about the findings."""

    def as_dict(self) -> dict[str, Any]:
        """What `quality --json` prints of an annotator."""
        return {
            "id": self.id,
            "n": self.n,
            "reliability": self.reliability,
            "low": self.low,
            "high": self.high,
            "flags": list(self.flags),
            "weight": self.weight,
            "gold": {"n": self.gold, "right": self.gold_right},
            "repeats": {"n": self.repeats, "same": self.repeats_same},
            "first": self.first,
            "longer": self.longer,
            "seconds": self.seconds,
            "drift": self.drift,
            "alike": self.alike,
            "ring": list(self.ring),
            "ruling": self.ruling,
        }


@dataclass(frozen=True, kw_only=True)
class ItemConsensus:
    """What everybody's answers say together about one item, each taken at its annotator's weight."""

    item: str
    question: str
    label: str
    """The most probable one; "a" or "b" for a pair."""
    probability: float
    """Of that label."""
    preferred: float | None
    """Pairs: probability that a reliable person prefers "a", ties counting half."""
    n: int
    uncertain: bool


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """All of it."""

    annotators: list[Standing]
    consensus: dict[str, ItemConsensus]
    removed: float
    """Share of the answers' weight that findings and exclusions take away."""
    warnings: list[str]

    def uncertain(self) -> tuple[int, int]:
        """(questions with a consensus, those of them with an item that is not yet certain)."""
        by: dict[str, bool] = defaultdict(bool)
        for one in self.consensus.values():
            by[one.question] |= one.uncertain
        return len(by), sum(by.values())


def assess(judgements: Sequence[Judgement], rulings: Mapping[str, Ruling] | None = None) -> Assessment:
    """Look at every answer and every annotator. The same judgements and rulings give the same assessment."""
    standings = standings_of(judgements, rulings)
    total = sum(one.n for one in standings)
    removed = sum((1 - one.weight) * one.n for one in standings) / total if total else 0.0
    weights = {one.id: one.weight for one in standings}
    return Assessment(
        annotators=standings,
        consensus=consensus_of([one for one in judgements if weights[one.annotator] > 0], weights),
        removed=removed,
        warnings=_warnings(removed),
    )


def standings_of(judgements: Sequence[Judgement], rulings: Mapping[str, Ruling] | None = None) -> list[Standing]:
    """Every annotator's standing, by id. `rulings`: annotator -> what a lead decided, which overrides findings.

    Twice: what the first look finds lowers weights, so that the second sees the truth less disturbed.
    """
    names = sorted({one.annotator for one in judgements})
    families = [coarse(votes) for votes in votes_of(judgements, names)]
    seen = _Seen(judgements, names, families)
    weights = np.where((seen.gold_n >= ENOUGH_GOLD) & (seen.gold_tail < RARE), SERIOUS, 1.0)
    panel = guessing.fit(families, len(names), weights)
    ruled = [(rulings or {}).get(name) for name in names]
    found = _findings(seen, panel, rings(panel, len(names)))
    weights = np.array([_weight(one, ruling) for one, ruling in zip(found, ruled, strict=True)])
    panel = guessing.fit(families, len(names), weights)
    groups = rings(panel, len(names))
    return _standings(seen, panel, names, _findings(seen, panel, groups), groups, ruled)


def _weight(found: Mapping[str, float], ruling: Ruling | None) -> float:
    """The lowest that the findings leave, unless a lead ruled otherwise on those that were there to be seen."""
    if ruling is not None and ruling.decision == "exclude":
        return 0.0
    seen = ruling.findings if ruling is not None and ruling.decision == "keep" else frozenset()
    return min((weight for name, weight in found.items() if name not in seen), default=1.0)


class _Seen:
    """What can be counted without a model of the truth."""

    def __init__(self, judgements: Sequence[Judgement], names: Sequence[str], families: Sequence[Votes]) -> None:
        self.names = names
        count = len(names)
        place = {name: index for index, name in enumerate(names)}
        self.n = np.zeros(count, dtype=int)
        times: list[list[float]] = [[] for _ in names]
        texts: list[list[tuple[int, ...]]] = [[] for _ in names]
        first_said: dict[tuple[int, str], str] = {}
        self.repeats, self.same = np.zeros(count, dtype=int), np.zeros(count, dtype=int)
        for one in judgements:
            who = place[one.annotator]
            self.n[who] += 1
            if one.adjudication:
                continue
            if one.seconds is not None:
                times[who].append(one.seconds)
            texts[who].extend(one.texts)
            for atom in one.atoms:
                if one.repeat and (who, atom.item) in first_said:
                    self.repeats[who] += 1
                    self.same[who] += first_said[who, atom.item] == atom.label
                first_said.setdefault((who, atom.item), atom.label)
        self.seconds = [float(np.median(some)) if some else None for some in times]
        self.timed = [len(some) for some in times]
        known = [s for s, n in zip(self.seconds, self.timed, strict=True) if s is not None and n >= MIN_TIMES]
        self.usual_seconds = float(np.median(known)) if known else 0.0
        self.alike = [sum(repeated(some)) / len(some) if len(some) >= MIN_TEXTS else None for some in texts]
        self.gold_n, self.gold_right = np.zeros(count, dtype=int), np.zeros(count, dtype=int)
        self.careless = np.zeros(count)
        """Log-likelihood of the gold answers under guessing."""
        for votes in families:
            gold = votes.gold[votes.item]
            asked = gold >= 0
            sides = votes.categories
            if votes.family == "pair":
                asked &= ~((votes.label == 2) & (gold != 2))  # a tie is no wrong choice, and no right one
                sides = 2
            right = asked & (votes.label == gold)
            self.gold_n += np.bincount(votes.who[asked], minlength=count)
            self.gold_right += np.bincount(votes.who[right], minlength=count)
            each = np.where(right, math.log(1 / sides), math.log(1 - 1 / sides))[asked]
            self.careless += np.bincount(votes.who[asked], weights=each, minlength=count)
        pairs = zip(self.gold_right.tolist(), self.gold_n.tolist(), strict=True)
        self.gold_tail = np.array([binomial_below(k, n, SURELY) for k, n in pairs])


def _findings(seen: _Seen, panel: Panel, groups: Sequence[Sequence[int]]) -> list[dict[str, float]]:
    """For each annotator: finding -> the weight that it leaves."""
    count = len(seen.names)
    usual = habits(panel, count)
    against = _without_gold(panel, count)
    log = guessing.theta_likelihood(panel, count)
    _, _, high = guessing.posterior_interval(log)
    drift, drifts = _drift(panel, count)
    constant = _one_answer(panel, count)
    ring_of = {who: len(group) for group in groups for who in group}
    items = sum((np.bincount(one.votes.who, minlength=count) for one in panel.fits), np.zeros(count))
    opposed = _opposed(panel, count)
    result = []
    for who in range(count):
        flags: set[str] = set()
        if seen.gold_n[who] >= ENOUGH_GOLD:
            if binomial_below(int(seen.gold_right[who]), int(seen.gold_n[who]), 0.5) < 1e-3:
                flags.add("inverted")
            elif _looks_careless(seen, panel, who, float(against[who])):
                flags.add("gold")
        elif opposed[who]:
            flags.add("inverted")
        elif items[who] >= MIN_GUESSES and high[who] < FOLLOWS:
            flags.add("guessing")
        habit = usual[who]
        flags |= {name for name in ("position", "sticky", "length") if getattr(habit, name)}
        if constant[who] and "position" not in flags:
            flags.add("one_answer")
        if (
            seen.repeats[who] >= MIN_REPEATS
            and binomial_below(int(seen.same[who]), int(seen.repeats[who]), 0.75) < 1e-3
        ):
            flags.add("repeats")
        if drifts[who] and drift[who] <= -DRIFT:
            flags.add("drift")
        if _is_fast(seen, who):
            flags.add("fast")
        alike = seen.alike[who]
        if alike is not None and alike >= COPIES:
            flags.add("duplicate_text")
        lowered = {name: WEIGHTS[name] for name in sorted(flags)}
        if who in ring_of:
            lowered["ring"] = 1 / ring_of[who]
        result.append(lowered)
    return result


def _looks_careless(seen: _Seen, panel: Panel, who: int, for_them: float) -> bool:
    """Whether guessing explains the gold answers better than looking does, all that speaks for them counted.

    for_them: log of the odds that agreement with the others gives; below 0 it says nothing, for dissent is no fault.
    """
    if seen.gold_tail[who] >= RARE:
        return False
    n, k = int(seen.gold_n[who]), int(seen.gold_right[who])
    looked = _beta_log(k, n, *ATTENTIVE) - float(seen.careless[who])
    m, same = int(seen.repeats[who]), int(seen.same[who])
    consistent = max(-2.0, _beta_log(same, m, *CONSISTENT) - m * math.log(0.5))
    return looked + consistent + max(0.0, for_them, _company(seen, panel, who)) < 0


def _company(seen: _Seen, panel: Panel, who: int) -> float:
    """Log of the odds that somebody else, who gets the gold questions right, shares this annotator's mind.

    Dissenters who share a taste agree with one another far more than with the rest; nobody agrees with guessing. For
    each of the others: answers alike with any chance from a half to 1, against a half; the mean over them all.
    """
    count = len(seen.names)
    pairs = next((one.votes for one in panel.fits if one.votes.family == "pair"), None)
    if pairs is None:
        return 0.0
    decided = (pairs.label < 2) & (pairs.gold[pairs.item] < 0)
    mine = np.full(len(pairs.items), -1)
    own = decided & (pairs.who == who)
    mine[pairs.item[own]] = pairs.label[own]
    both = decided & (pairs.who != who) & (mine[pairs.item] >= 0)
    n = np.bincount(pairs.who[both], minlength=count)
    alike = np.bincount(pairs.who[both], weights=pairs.label[both] == mine[pairs.item[both]], minlength=count)
    trusted = np.flatnonzero((n >= 10) & (seen.gold_n >= ENOUGH_GOLD) & (seen.gold_tail >= RARE))
    if len(trusted) == 0:
        return 0.0
    share = np.linspace(0.5, 0.99, 50)
    k, m = alike[trusted, None], n[trusted, None]
    ratio = np.exp(k * np.log(share) + (m - k) * np.log(1 - share) - m * math.log(0.5)).mean(axis=1)
    return math.log(float(ratio.mean()))


def _is_fast(seen: _Seen, who: int) -> bool:
    median = seen.seconds[who]
    limit = max(FAST_SECONDS, FAST * seen.usual_seconds)
    return median is not None and seen.timed[who] >= MIN_TIMES and median < min(limit, 0.5 * seen.usual_seconds)


def _without_gold(panel: Panel, count: int) -> Floats:
    """Log of the Bayes factor of following the question at all against guessing, from the items without gold."""
    log = guessing.theta_likelihood(panel, count, lambda votes: votes.gold[votes.item] < 0)
    top = log.max(axis=1)
    result: Floats = top + np.log(np.exp(log - top[:, None]).mean(axis=1)) - log[:, 0]
    return result


def _opposed(panel: Panel, count: int) -> list[bool]:
    """Who takes the other side far more often than chance, of pairs whose better side the others agree on."""
    against, n = np.zeros(count, dtype=int), np.zeros(count, dtype=int)
    for one in panel.fits:
        if one.votes.family == "pair":
            view, label, who = one.others, one.votes.label, one.votes.who
            clear = (label < 2) & (np.maximum(view[:, 0], view[:, 1]) > 0.75)
            other = clear & (view[:, :2].argmax(axis=1) != label)
            n += np.bincount(who[clear], minlength=count)
            against += np.bincount(who[other], minlength=count)
    return [b >= 20 and binomial_below(b - a, b, 0.5) < 1e-5 for a, b in zip(against.tolist(), n.tolist(), strict=True)]


def _drift(panel: Panel, count: int) -> tuple[Floats, list[bool]]:
    """(reliability of the second half minus the first's, whether that is more than chance) for every annotator."""
    numbers: list[list[int]] = [[] for _ in range(count)]
    for one in panel.fits:
        for who, number in zip(one.votes.who.tolist(), one.votes.number.tolist(), strict=True):
            numbers[who].append(number)
    middle = np.array([np.median(some) if some else 0.0 for some in numbers])

    def early(votes: Votes) -> Mask:
        result: Mask = votes.number <= middle[votes.who]
        return result

    first = guessing.theta_likelihood(panel, count, early)
    second = guessing.theta_likelihood(panel, count, lambda votes: ~early(votes))
    ratio = 2 * (first.max(axis=1) + second.max(axis=1) - (first + second).max(axis=1))
    change: Floats = GRID[second.argmax(axis=1)] - GRID[first.argmax(axis=1)]
    return change, (ratio > CHI_SQUARE).tolist()


def _one_answer(panel: Panel, count: int) -> list[bool]:
    """Who gives one label nearly always, where the others' views would have several."""
    result = [False] * count
    for one in panel.fits:
        votes = one.votes
        n = np.bincount(votes.who, minlength=count)
        for label in range(votes.categories):
            if votes.family == "pair" and label < 2:
                continue  # a place is found as a habit; "a" in stored order means nothing
            said = np.bincount(votes.who, weights=votes.label == label, minlength=count)
            view = np.bincount(votes.who, weights=one.others[:, label], minlength=count)
            for who in np.flatnonzero((n >= 20) & (said >= 0.95 * n)):
                expected = view[who] / n[who]
                spread = math.sqrt(max(expected * (1 - expected), 0.01) / n[who])
                result[who] |= bool(expected < 0.75 and said[who] / n[who] - expected > 4 * spread)
    return result


def _standings(
    seen: _Seen,
    panel: Panel,
    names: Sequence[str],
    found: Sequence[dict[str, float]],
    groups: Sequence[Sequence[int]],
    ruled: Sequence[Ruling | None],
) -> list[Standing]:
    count = len(names)
    mean, low, high = guessing.posterior_interval(guessing.theta_likelihood(panel, count))
    usual: list[Habit] = habits(panel, count)
    change, _ = _drift(panel, count)
    ring_of = {who: group for group in groups for who in group}
    return [
        Standing(
            id=name,
            n=int(seen.n[who]),
            reliability=float(mean[who]),
            low=float(low[who]),
            high=float(high[who]),
            flags=tuple(sorted(found[who])),
            weight=_weight(found[who], ruled[who]),
            gold=int(seen.gold_n[who]),
            gold_right=int(seen.gold_right[who]),
            repeats=int(seen.repeats[who]),
            repeats_same=int(seen.same[who]),
            first=usual[who].first,
            longer=usual[who].longer,
            seconds=seen.seconds[who],
            drift=float(change[who]) if seen.n[who] >= MIN_GUESSES else None,
            alike=seen.alike[who],
            ring=tuple(names[other] for other in ring_of.get(who, ()) if other != who),
            ruling=None if (ruling := ruled[who]) is None else ruling.decision,
        )
        for who, name in enumerate(names)
    ]


def consensus_of(judgements: Sequence[Judgement], weights: Mapping[str, float]) -> dict[str, ItemConsensus]:
    """Item -> what the answers say together: Davidson for pairs, Dawid and Skene for labels.

    weights: annotator -> weight, 0..1; 1 for those who are not named.
    """
    names = sorted({one.annotator for one in judgements})
    worth = np.array([weights.get(name, 1.0) for name in names])
    question: dict[str, str] = {}
    for one in judgements:
        for atom in one.atoms:
            question.setdefault(atom.item, one.question)
    result: dict[str, ItemConsensus] = {}
    settled = {atom.item: atom.label for one in judgements if one.adjudication for atom in one.atoms}
    for votes in votes_of(judgements, names):
        n = np.bincount(votes.item, minlength=len(votes.items))
        preferred: Floats | None = None
        if votes.family == "pair":
            fitted = davidson.fit(votes, len(names), worth)
            truth = np.stack([fitted.better, 1 - fitted.better], axis=1)
            preferred = fitted.preferred
        else:
            truth = dawid_skene.fit(votes, len(names), worth).truth
        for index, item in enumerate(votes.items):
            top = int(truth[index].argmax())
            if item in settled:
                result[item] = _settled(item, question[item], settled[item], int(n[index]))
                continue
            result[item] = ItemConsensus(
                item=item,
                question=question[item],
                label=votes.labels[top],
                probability=float(truth[index, top]),
                preferred=None if preferred is None else float(preferred[index]),
                n=int(n[index]),
                uncertain=bool(truth[index, top] < CERTAIN),
            )
    return result


def _settled(item: str, question: str, label: str, n: int) -> ItemConsensus:
    """What an adjudicator said, whatever the votes were."""
    preferred = {"a": 1.0, "b": 0.0, "tie": 0.5}.get(label)
    return ItemConsensus(
        item=item, question=question, label=label, probability=1.0, preferred=preferred, n=n, uncertain=False
    )


def _warnings(removed: float) -> list[str]:
    if removed <= WARN_REMOVED:
        return []
    return [
        (
            f"findings and exclusions take away {removed:.1%} of the answers' weight, more than {WARN_REMOVED:.0%}: so "
            "many are more often a sign of unclear questions, a wrong gold answer or a divided panel than of careless "
            "people; look at them before you use the answers"
        )
    ]


def binomial_below(k: int, n: int, p: float) -> float:
    """P(X <= k) for X ~ Binomial(n, p); 1 for n = 0."""
    if k >= n:
        return 1.0
    logs = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(k + 1)
    ]
    return min(1.0, sum(math.exp(one) for one in logs))


def _beta_log(k: int, n: int, a: float, b: float) -> float:
    """Log-probability of a given sequence with k of n right, when the share right is Beta(a, b)."""
    return (
        math.lgamma(a + k) + math.lgamma(b + n - k) - math.lgamma(a + b + n)
        - math.lgamma(a) - math.lgamma(b) + math.lgamma(a + b)
    )  # fmt: skip


def flag_counts(standings: Sequence[Standing]) -> dict[str, int]:
    """Finding -> how many annotators have it, the most frequent first."""
    return dict(Counter(flag for one in standings for flag in one.flags).most_common())
