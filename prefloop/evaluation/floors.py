"""What no reward model should be below: the same pairs judged by word counts, or by length alone.

A reward model that does not beat these has learned nothing that a bag of words does not know. Both are computed on
the split the model is tested on, the word counts from the split it was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from prefloop.errors import InputError
from prefloop.evaluation.interval import share_interval, sliced_shares
from prefloop.records import Comparison, prompt_id

Floats = npt.NDArray[np.float64]


def tfidf_length_floor(
    train: Sequence[Comparison], test: Sequence[Comparison], *, column: str = "subset", seed: int = 0
) -> dict[str, Any]:
    """Accuracy on `test` of logistic regression on TF-IDF differences and the log-length difference, fitted on `train`.

    Features are those of the completion alone: unigrams and bigrams with sublinear counts, seen in at least two
    training texts; log(1 + characters), its difference divided by its standard deviation. No intercept, so swapping a
    pair swaps the answer. Ties (label 0.5) are left out of both. Each value of `column` has a regression of its own,
    because subsets disagree (people prefer the longer answer in one and the shorter in the next); rows of a subset
    without two training pairs, or without that column, are judged by one regression on everything.

    Returns {"value", "low", "high", "n", "prompts", "ties_excluded", "trained_on",
    "slices": {value of `column`: {"value", "low", "high", "n", "prompts"}},
    "joint": {"value", ...}}, the last with that one regression for all rows, which is not told the subset.
    Raises InputError where scikit-learn is not installed (extra `prefloop[floors]`) or either side has no decided pair.
    """
    learn, seen = _decided(train, "train"), _decided(test, "test")
    own, for_all = tfidf_length_odds(learn, seen, column=column)
    joint = _scored(for_all, seen, seed)[0]
    return _result(own, seen, test, column, seed) | {"trained_on": len(learn), "joint": joint}


def tfidf_length_odds(
    train: Sequence[Comparison], test: Sequence[Comparison], *, column: str = "subset"
) -> tuple[Floats, Floats]:
    """(by each subset's own regression, by the one on everything): log-odds (n,) that each pair's chosen is better.

    Both sides decided pairs only; see `tfidf_length_floor`.
    """
    if len(train) < 2:
        raise InputError(f"the TF-IDF floor needs at least two decided training pairs, got {len(train)}")
    for_all = _fit(train)(test)
    own = for_all.copy()
    for name in {row.columns[column] for row in test if row.columns.get(column) is not None}:
        taught = [row for row in train if row.columns.get(column) == name]
        asked = [i for i, row in enumerate(test) if row.columns.get(column) == name]
        if len(taught) >= 2:
            own[asked] = _fit(taught)([test[i] for i in asked])
    return own, for_all


def length_floor(test: Sequence[Comparison], *, column: str = "subset", seed: int = 0) -> dict[str, Any]:
    """Accuracy of always choosing the longer completion (characters; equal lengths count half).

    Returns {"value", "low", "high", "n", "prompts", "ties_excluded", "slices": {value of `column`: {...}}}.
    """
    seen = _decided(test, "test")
    return _result(_log_lengths(seen), seen, test, column, seed)


def _fit(rows: Sequence[Comparison]) -> Callable[[Sequence[Comparison]], Floats]:
    """Logistic regression on the pair differences of `rows` (at least 2) -> log-odds (n,) that chosen is better."""
    try:
        from scipy.sparse import csr_matrix, hstack  # type: ignore[import-untyped, unused-ignore]
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise InputError(
            "the TF-IDF floor needs scikit-learn, which is not installed; pip install 'prefloop[floors]'"
        ) from None
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    texts = [text for row in rows for text in (row.chosen, row.rejected)]
    try:
        words.fit(texts)
    except ValueError:  # no word occurs twice: then every word counts
        words = TfidfVectorizer(analyzer=str.split, sublinear_tf=True).fit([*texts, "a"])
    scale = float(np.std(_log_lengths(rows))) or 1.0

    def features(of: Sequence[Comparison]) -> Any:
        counted = words.transform([r.chosen for r in of]) - words.transform([r.rejected for r in of])
        return hstack([counted, csr_matrix(_log_lengths(of)[:, None] / scale)]).tocsr()

    # Pairs are turned so that half of the answers are yes: the regression needs both, its loss is the same either way.
    turn = np.where(np.arange(len(rows)) % 2 == 0, 1.0, -1.0) * _signs(rows)
    model = LogisticRegression(C=1.0, fit_intercept=False, max_iter=1000)
    model.fit(features(rows).multiply(turn[:, None]).tocsr(), turn * _signs(rows) > 0, [row.weight for row in rows])

    def decide(of: Sequence[Comparison]) -> Floats:
        return np.asarray(model.decision_function(features(of)), dtype=np.float64)

    return decide


def _result(
    preference: Floats, seen: Sequence[Comparison], test: Sequence[Comparison], column: str, seed: int
) -> dict[str, Any]:
    whole, correct, prompts = _scored(preference, seen, seed)
    slices = sliced_shares(correct, prompts, [row.columns.get(column) for row in seen], seed=seed)
    return whole | {"ties_excluded": len(test) - len(seen), "slices": slices}


def _scored(preference: Floats, seen: Sequence[Comparison], seed: int) -> tuple[dict[str, Any], Floats, list[str]]:
    """Accuracy of a preference (n,) for `chosen` (above 0) over `rejected` (below 0); 0 counts half."""
    margin = preference * _signs(seen)
    correct = np.where(margin > 0, 1.0, np.where(margin == 0, 0.5, 0.0))
    prompts = [prompt_id(row.prompt) for row in seen]
    return share_interval(correct, prompts, seed=seed).as_dict(), correct, prompts


def _decided(rows: Sequence[Comparison], name: str) -> list[Comparison]:
    decided = [row for row in rows if row.label != 0.5]
    if not decided:
        raise InputError(f"the {name} split has {len(rows)} comparisons and none with a winner; a floor needs some")
    return decided


def _signs(rows: Sequence[Comparison]) -> Floats:
    return np.array([1.0 if row.label > 0.5 else -1.0 for row in rows])


def _log_lengths(rows: Sequence[Comparison]) -> Floats:
    return np.array([np.log1p(len(r.chosen)) - np.log1p(len(r.rejected)) for r in rows], dtype=np.float64)
