"""Planted annotators: panels whose careless, biased and colluding members are known, to measure what is found.

Two worlds, so that what is tuned on one is measured on the other:

* `tuning_panel`: one quality per completion; people are Boltzmann choosers; dissenters have a taste of their own about
  a part of the questions; the sticky take the left place four times in five.
* `proof_panel`: two qualities (substance, style) that people weigh each in their own way; mistakes beside noise;
  dissenters are those who weigh style the other way round; half of the sticky take the left place four times in five,
  the others stay where they were; rings copy with slips.

Every planted annotator is simulated, and its id says so. Kinds: honest, dissenter, random, left, sticky, length,
inverted, ring.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from prefloop.quality.evidence import Atom, Floats, Ints, Judgement, Mask

BAD = ("random", "left", "sticky", "length", "inverted", "ring")
GOOD = ("honest", "dissenter")
ANSWERS = 120
GOLD = 24
RING = 4
OVERLAP = 5


@dataclass(frozen=True)
class Planted:
    """A panel's answers, and what is true of it."""

    judgements: list[Judgement]
    kinds: dict[str, str]
    """Annotator -> kind."""
    truth: dict[str, str]
    """Item -> "a" or "b": what honest people would agree on in the long run."""


@dataclass(frozen=True)
class _World:
    """Differences between the two candidates of each question, "a" minus "b"."""

    honest: Floats
    """What most people see."""
    dissent: Floats
    """What dissenters see."""
    longer: Floats
    """log of the ratio of lengths."""
    noise: float
    """An answer's chance of being a slip: the other side."""
    tie: float
    """Differences smaller than this are called a tie half of the time."""
    seconds: float
    slip: float
    """Chance that somebody who follows a habit, or copies, once does not."""


def tuning_panel(seed: int, *, honest: int = 14, dissenters: int = 2, each: int = 1) -> Planted:
    """A panel of the first world: `each` of every bad kind (rings of four), honest people and dissenters."""
    rng = np.random.default_rng([1, seed])
    kinds = _kinds(honest, dissenters, each)
    n, gold = _sizes(len(kinds))
    quality = rng.normal(0, 1.6, n)
    quality[:gold] = np.where(rng.random(gold) < 0.5, -1, 1) * rng.uniform(2.2, 3.5, gold)
    own = np.where(rng.random(n) < 0.45, rng.normal(0, 1.6, n), quality)
    own[:gold] = quality[:gold]
    longer = 0.15 * quality + rng.normal(0, 0.4, n)
    world = _World(quality, own, longer, 0.02, 0.15, 25.0, 0.0)
    return _planted(rng, kinds, world, gold, lambda who: "left")


def proof_panel(seed: int, *, honest: int = 14, dissenters: int = 2, each: int = 1) -> Planted:
    """A panel of the second world."""
    rng = np.random.default_rng([2, seed])
    kinds = _kinds(honest, dissenters, each)
    n, gold = _sizes(len(kinds))
    substance, style = rng.normal(0, 1.5, n), rng.normal(0, 1.2, n)
    side = np.where(rng.random(gold) < 0.5, -1, 1)
    substance[:gold], style[:gold] = side * rng.uniform(2.5, 4.5, gold), 0.0
    longer = 0.2 * style + rng.gumbel(0, 0.35, n) - 0.2
    world = _World(
        1.1 * substance + 0.5 * style,
        0.9 * substance - 1.4 * style,
        longer,
        0.04,
        0.2,
        float(rng.uniform(10, 60)),
        0.02,
    )
    return _planted(rng, kinds, world, gold, lambda who: "left" if (seed + who) % 2 else "stay")


def inverters_panel(seed: int, *, people: int = 30, inverted: int = 3, overlap: int = OVERLAP) -> Planted:
    """Honest people of the second world, of whom `inverted` answer the opposite: what the consensus makes of it."""
    rng = np.random.default_rng([3, seed])
    kinds = ["inverted"] * inverted + ["honest"] * (people - inverted)
    n, gold = _sizes(people, overlap)
    substance, style = rng.normal(0, 1.5, n), rng.normal(0, 1.2, n)
    substance[:gold] = np.where(rng.random(gold) < 0.5, -1, 1) * rng.uniform(2.5, 4.5, gold)
    style[:gold] = 0.0
    seen = 1.1 * substance + 0.5 * style
    world = _World(seen, seen, 0.2 * style + rng.normal(0, 0.4, n), 0.04, 0.2, 30.0, 0.0)
    return _planted(rng, kinds, world, gold, lambda who: "left")


def _kinds(honest: int, dissenters: int, each: int) -> list[str]:
    bad = [kind for kind in BAD for _ in range(each * (RING if kind == "ring" else 1))]
    return bad + ["honest"] * honest + ["dissenter"] * dissenters


def _sizes(annotators: int, overlap: int = OVERLAP) -> tuple[int, int]:
    """(questions, gold questions among them, which come first)."""
    gold = 2 * GOLD
    return gold + max(ANSWERS - GOLD, annotators * (ANSWERS - GOLD) // overlap), gold


def _planted(
    rng: np.random.Generator, kinds: Sequence[str], world: _World, gold: int, sticky: Callable[[int], str]
) -> Planted:
    n = len(world.honest)
    truth = {_item(q): "a" if world.honest[q] > 0 else "b" for q in range(n)}
    asked = _assign(rng, kinds, n, gold)
    keys = [rng.random(n) < 0.5 for _ in range(kinds.count("ring") // RING + 1)]
    """What the first member of each ring says."""
    judgements: list[Judgement] = []
    names: dict[str, str] = {}
    number = 0
    members = 0
    for who, kind in enumerate(kinds):
        name = f"simulated:planted-{who:03d}"
        names[name] = kind
        copied = keys[members // RING]
        members += kind == "ring"
        way = sticky(who) if kind == "sticky" else ""
        last = bool(rng.random() < 0.5)
        for q in asked[who]:
            number += 1
            a_first = bool(rng.random() < 0.5)
            label, last = _answer(rng, kind, world, int(q), a_first, last, way, copied)
            item = _item(int(q))
            judgements.append(
                Judgement(
                    answer=f"answer-{number}",
                    question=item,
                    kind="comparison",
                    annotator=name,
                    number=number,
                    atoms=(Atom(item, "pair", label, 1 if a_first else -1, float(world.longer[q])),),
                    gold={item: truth[item]} if q < gold else {},
                    person=False,
                    seconds=float(world.seconds * rng.lognormal(-0.125, 0.5)),
                )
            )
    return Planted(judgements, names, truth)


def _assign(rng: np.random.Generator, kinds: Sequence[str], n: int, gold: int) -> list[Ints]:
    """The questions of each annotator: 24 of gold and 96 others, dealt so that each question has about as many."""
    deck = rng.permutation(np.arange(gold, n))
    place = 0
    result: list[Ints] = []
    for kind in kinds:
        wanted = ANSWERS - GOLD
        if place + wanted > len(deck):
            deck, place = rng.permutation(np.arange(gold, n)), 0
        if kind == "ring" and result and len(result) % RING and kinds[len(result) - 1] == "ring":
            others = result[-1][result[-1] >= gold] if rng.random() < 0.5 else deck[place : place + wanted]
        else:
            others = deck[place : place + wanted]
        place += wanted
        result.append(rng.permutation(np.r_[rng.choice(gold, GOLD, replace=False), others]))
    return result


def _answer(
    rng: np.random.Generator,
    kind: str,
    world: _World,
    q: int,
    a_first: bool,
    last_first: bool,
    way: str,
    copied: Mask,
) -> tuple[str, bool]:
    """(label in stored order, whether it was what was shown first)."""
    view = world.dissent[q] if kind == "dissenter" else world.honest[q]
    p = 1 / (1 + math.exp(-1.5 * float(view)))
    own = bool(rng.random() < p * (1 - world.noise) + (1 - p) * world.noise)
    if kind in ("honest", "dissenter", "inverted") and abs(view) < world.tie and rng.random() < 0.5:
        return "tie", last_first
    habit = kind in ("left", "length", "ring") and rng.random() >= world.slip
    is_a = own
    if kind == "inverted":
        is_a = not own
    elif kind == "random" or (kind == "ring" and not habit):
        is_a = bool(rng.random() < 0.5)
    elif kind == "left" and habit:
        is_a = a_first
    elif kind == "length" and habit:
        is_a = bool(world.longer[q] > 0)
    elif kind == "ring":
        is_a = bool(copied[q])
    elif kind == "sticky" and rng.random() < 0.8:
        is_a = a_first if way == "left" else a_first == last_first
    return ("a" if is_a else "b"), is_a == a_first


def _item(q: int) -> str:
    return f"pair:{q:06d}"
