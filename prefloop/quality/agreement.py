"""How far people agree: percent, and Krippendorff's alpha, which takes away what chance would give.

alpha = 1 - observed disagreement / expected disagreement, from the coincidences of labels within items. Krippendorff
2011, "Computing Krippendorff's Alpha-Reliability", https://repository.upenn.edu/asc_papers/43: 1 is perfect, 0 is
what chance gives, below 0 is systematic disagreement. Items with fewer than two labels say nothing and are left out.

Intervals are 95 % percentile bootstraps over questions, since items of one question are not independent.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from prefloop.quality.evidence import LABELS, SCALES, Family, Floats, Judgement

Level = Literal["nominal", "ordinal"]
RESAMPLES = 1000
FAMILY_OF: dict[str, Family] = {
    "comparison": "pair",
    "ranking": "pair",
    "approval": "approval",
    "rating": "rating",
    "flags": "flag",
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A figure with its 95 % interval. `value` is None where it is undefined, and `why` says the reason."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    """Pairs of labels for percent, labels for alpha."""
    questions: int
    why: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The form of `--json`; `why` appears only where there is something to explain."""
        plain = {"value": self.value, "low": self.low, "high": self.high, "n": self.n, "questions": self.questions}
        return plain if self.why is None else {**plain, "why": self.why}


def krippendorff_alpha(
    items: Iterable[tuple[Hashable, Sequence[str]]],
    labels: Sequence[str],
    *,
    level: Level = "nominal",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Measured:
    """alpha of items, each given as (its question, the labels that different people gave it).

    `labels`: all that there are, from low to high when level is "ordinal". Undefined, with the reason, where no item
    has two labels or where all labels are the same one: with nothing to disagree about, agreement means nothing.
    """
    place = {label: index for index, label in enumerate(labels)}
    sums: dict[Hashable, Floats] = {}
    n = 0
    for question, given in items:
        counts = np.bincount([place[label] for label in given], minlength=len(labels)).astype(float)
        m = counts.sum()
        if m >= 2:
            n += int(m)
            coincidences = (np.outer(counts, counts) - np.diag(counts)) / (m - 1)
            sums[question] = sums[question] + coincidences if question in sums else coincidences
    if not sums:
        return Measured(value=None, low=None, high=None, n=0, questions=0, why="no item has answers from two people")
    cells = np.stack(list(sums.values()))
    value = float(_alpha(cells.sum(axis=0)[None], level)[0])
    if not np.isfinite(value):
        only = labels[int(np.diag(cells.sum(axis=0)).argmax())]
        why = f"every answer is {only!r}: where nothing varies, agreement cannot be told from habit"
        return Measured(value=None, low=None, high=None, n=n, questions=len(sums), why=why)
    flat = cells.reshape(len(cells), -1)
    low, high = _interval(flat, lambda s: _alpha(s.reshape(-1, *cells.shape[1:]), level), seed, resamples)
    return Measured(value=value, low=low, high=high, n=n, questions=len(sums))


def percent_agreement(
    items: Iterable[tuple[Hashable, Sequence[str]]], *, seed: int = 0, resamples: int = RESAMPLES
) -> Measured:
    """How often two people who judged the same item said the same: the share of all such pairs of people, 0..1."""
    sums: dict[Hashable, Floats] = defaultdict(lambda: np.zeros(2))
    for question, given in items:
        m = len(given)
        if m >= 2:
            same = sum(k * (k - 1) / 2 for k in Counter(given).values())
            sums[question] = sums[question] + np.array([same, m * (m - 1) / 2])
    if not sums:
        return Measured(value=None, low=None, high=None, n=0, questions=0, why="no item has answers from two people")
    cells = np.stack(list(sums.values()))
    agree, pairs = cells.sum(axis=0)
    low, high = _interval(cells, lambda s: s[:, 0] / s[:, 1], seed, resamples)
    return Measured(value=float(agree / pairs), low=low, high=high, n=int(pairs), questions=len(sums))


def _alpha(coincidences: Floats, level: Level) -> Floats:
    """alpha of coincidence matrices (R, C, C); NaN where all labels are one."""
    margins = coincidences.sum(axis=2)
    total = margins.sum(axis=1)
    c = margins.shape[1]
    if level == "nominal":
        distance = np.broadcast_to(1.0 - np.eye(c), coincidences.shape)
    else:
        # Ordinal: the square of how many labels stand between two, half of each end counted.
        below = np.cumsum(margins, axis=1) - margins / 2
        distance = (below[:, :, None] - below[:, None, :]) ** 2
    observed = (coincidences * distance).sum(axis=(1, 2))
    expected = (margins[:, :, None] * margins[:, None, :] * distance).sum(axis=(1, 2)) / np.maximum(total - 1, 1e-12)
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Floats = np.where(expected > 0, 1.0 - observed / expected, np.nan)
    return result


def _interval(
    rows: Floats, figure: Callable[[Floats], Floats], seed: int, resamples: int
) -> tuple[float | None, float | None]:
    """The percentile interval of a figure of summed rows. Equal rows are drawn together, as they are few."""
    kinds, counts = np.unique(rows, axis=0, return_counts=True)
    n = int(counts.sum())
    if n < 2 or len(kinds) < 2:
        return None, None
    rng = np.random.default_rng(seed)
    values = []
    step = max(1, 2_000_000 // len(kinds))
    for start in range(0, resamples, step):
        drawn = rng.multinomial(n, counts / n, size=min(step, resamples - start)).astype(float)
        values.append(figure(drawn @ kinds))
    found = np.concatenate(values)
    found = found[np.isfinite(found)]
    if len(found) < resamples / 2:
        return None, None
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


# --- of judgements -------------------------------------------------------------------------------------------------


def agreement_of(judgements: Sequence[Judgement], *, seed: int = 0) -> dict[str, Any]:
    """percent and alpha of all answers together, by kind of question, by guideline version and by slice.

    `{"percent", "alpha", "kinds": {kind: {"percent", "alpha", "ordinal"}}, "guidelines": {...}, "slices": {column:
    {value: {...}}}, "ceiling": {"all", "slices"}, "simulated"}`. Machines' answers count only where no person
    answered anything; `simulated` then is true. The figures of all kinds together are those of the kind with most
    answers, for an alpha of different labels has no meaning; `kind` names it.
    """
    judging = [one for one in judgements if one.atoms and not one.adjudication]
    people = [one for one in judging if one.person]
    used = people or judging
    kinds = {kind: [one for one in used if one.kind == kind] for kind in sorted({one.kind for one in used})}
    measured = {kind: _both(ones, kind, seed) for kind, ones in kinds.items()}
    main = max(kinds, key=lambda kind: len(kinds[kind]), default=None)
    nothing = percent_agreement([]).as_dict()
    result: dict[str, Any] = {
        "percent": nothing if main is None else measured[main]["percent"],
        "alpha": nothing if main is None else measured[main]["alpha"],
        "kind": main,
        "simulated": bool(used) and not people,
        "kinds": measured,
        "guidelines": _split(kinds, lambda one: None if one.guideline is None else f"version {one.guideline}", seed),
        "slices": {
            name: _split(kinds, lambda one, name=name: one.slices.get(name), seed)  # type: ignore[misc]
            for name in sorted({name for one in used for name in one.slices})
        },
        "ceiling": human_ceiling(used, seed=seed),
    }
    return result


def human_ceiling(judgements: Sequence[Judgement], *, seed: int = 0) -> dict[str, Any]:
    """How often two people agree on which completion is better, ties left out, as reward models are measured.

    `{"all": figure, "slices": {column: {value: figure}}}`. A reward model that agrees with single answers more often
    than this has learned something else than what people agree about.
    """
    pairs = [one for one in judgements if FAMILY_OF.get(one.kind) == "pair"]

    def figure(ones: Sequence[Judgement]) -> dict[str, Any]:
        return percent_agreement(_items(ones, without="tie"), seed=seed).as_dict()

    names = sorted({name for one in pairs for name in one.slices})
    return {
        "all": figure(pairs),
        "slices": {
            name: {value: figure(ones) for value, ones in sorted(_by(pairs, lambda o, n=name: o.slices.get(n)).items())}  # type: ignore[misc]
            for name in names
        },
    }


def _split(
    kinds: Mapping[str, Sequence[Judgement]], key: Callable[[Judgement], str | None], seed: int
) -> dict[str, dict[str, Any]]:
    """Value -> kind -> figures."""
    result: dict[str, dict[str, Any]] = defaultdict(dict)
    for kind, ones in kinds.items():
        for value, some in _by(ones, key).items():
            result[value][kind] = _both(some, kind, seed)
    return dict(sorted(result.items()))


def _by(ones: Sequence[Judgement], key: Callable[[Judgement], str | None]) -> dict[str, list[Judgement]]:
    found: dict[str, list[Judgement]] = defaultdict(list)
    for one in ones:
        value = key(one)
        if value is not None:
            found[value].append(one)
    return found


def _both(ones: Sequence[Judgement], kind: str, seed: int) -> dict[str, Any]:
    family = FAMILY_OF[kind]
    items = _items(ones)
    result = {
        "percent": percent_agreement(items, seed=seed).as_dict(),
        "alpha": krippendorff_alpha(items, LABELS[family], seed=seed).as_dict(),
    }
    scale = SCALES[family]
    if scale is not None:
        result["ordinal"] = krippendorff_alpha(items, scale, level="ordinal", seed=seed).as_dict()
    return result


def _items(ones: Iterable[Judgement], without: str | None = None) -> list[tuple[str, list[str]]]:
    """(question, labels) of each item: each annotator's first word on it."""
    said: dict[str, dict[str, str]] = defaultdict(dict)
    question: dict[str, str] = {}
    for one in ones:
        if not one.repeat:
            for atom in one.atoms:
                question.setdefault(atom.item, one.question)
                said[atom.item].setdefault(one.annotator, atom.label)
    return [(question[item], [label for label in by.values() if label != without]) for item, by in said.items()]
