"""Real people's votes as several kinds of feedback: is a reward of all kinds as right as that of the best single kind?

usage: PREFLOOP_DATA=../shared/data python -m benchmarks.kinds linear|model [RUN.yaml] [OUT]

RUN.yaml is runs/kinds.yaml and OUT kinds-model where they are not given; a run that was stopped goes on.

UKPConvArg1 has five votes on each of 14,547 pairs of arguments. No public data have answers of several kinds about the
same texts, so the kinds are made of these votes, VOTES of them for each reward. In the mixture each kind has a quarter
of them; in "all kinds" each has as many as alone, as for somebody who has all this feedback and asks whether to use it
all. What people say who are asked for a rating may be another matter.

| kind | made of | votes |
|---|---|---|
| comparison | the votes on a pair, ties among them | 5 |
| approval | whether an argument won more than half of its votes against two others | 10 |
| rating | the share of votes that it won against six others, in five equal steps | 30 |
| ranking | four arguments by the share of votes that each won against the other three | 30 |

linear   a reward that is linear in word counts and length, under the package's likelihoods; seconds
model    `train reward_model`, once for each kind and fold

Five folds by topic, as in benchmarks/folds.py; a pair is right when the side that most people chose scores higher.
"""

from __future__ import annotations

import functools
import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.command import interval
from benchmarks.folds import DATA, FOLDS, LEARN, RUNS, SOURCES, fold_of
from prefloop.evaluation.interval import mean_interval, share_interval
from prefloop.evaluation.pair_scores import both_sides
from prefloop.functional.feedback import comparison_logprobs, cross_entropy, plackett_luce
from prefloop.models.feedback import Answers
from prefloop.records import Comparison, prompt_id

VOTES = 6000
KINDS = ("comparison", "approval", "rating", "ranking")
TOGETHER = ("mixture", "all kinds")
Row = dict[str, Any]
Scorer = Callable[[str, int, Sequence[Row], Sequence[Comparison]], np.ndarray]
"""(kind, fold, rows to learn from, test pairs) -> score of the first less that of the second."""


class Topic:
    """The arguments of one side of a debate, and how the votes on each pair of them went."""

    def __init__(self, pairs: Sequence[Comparison]) -> None:
        self.prompt = pairs[0].prompt
        self.won: dict[tuple[str, str], tuple[float, int]] = {}
        for pair in pairs:
            votes = int(pair.columns["n"])
            self.won[pair.chosen, pair.rejected] = pair.label, votes
            self.won[pair.rejected, pair.chosen] = 1 - pair.label, votes
        self.texts = sorted({text for text, _ in self.won})

    def against(self, text: str, others: Sequence[str]) -> tuple[float, int]:
        """(share of the votes that `text` won, votes)."""
        found = [self.won[text, other] for other in others]
        votes = sum(n for _, n in found)
        return sum(share * n for share, n in found) / votes, votes

    def drawn(self, rng: random.Random, k: int) -> list[str]:
        """A text and k others that it was compared with; fewer where there are not so many."""
        text = rng.choice(self.texts)
        others = [other for other in self.texts if (text, other) in self.won]
        return [text, *rng.sample(others, min(k, len(others)))]


def answers(pairs: Sequence[Comparison], kind: str, votes: int, seed: int) -> list[Row]:
    """Rows of one kind of feedback, as `prefloop train reward_model --data` reads them, made of so many votes."""
    by_topic: dict[str, list[Comparison]] = {}
    for pair in pairs:
        by_topic.setdefault(prompt_id(pair.prompt), []).append(pair)
    topics = [Topic(found) for found in by_topic.values()]
    rng = random.Random(f"{kind} {seed}")
    if kind == "comparison":
        order = rng.sample(list(pairs), len(pairs))
        taken = np.searchsorted(np.cumsum([pair.columns["n"] for pair in order]), votes) + 1
        return [_comparison(pair) for pair in order[: int(taken)]]
    rows: list[Row] = []
    spent = 0
    while spent < votes:
        topic = rng.choice(topics)
        texts = topic.drawn(rng, {"approval": 2, "rating": 6, "ranking": 3}[kind])
        if kind == "ranking":
            row, cost = _ranking(topic, texts)
        else:
            share, cost = topic.against(texts[0], texts[1:])
            said = {"label": share > 0.5} if kind == "approval" else {"scores": {"overall": min(5, int(5 * share) + 1)}}
            row = {"prompt": topic.prompt, "completion": texts[0], **said}
        if row is not None:
            rows.append({**row, "answers": [f"{kind} {len(rows)}"]})  # the same again is another answer
            spent += cost
    return rows


def _comparison(pair: Comparison) -> Row:
    known = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected, "label": pair.label}
    return {**known, "ties": pair.columns["ties"]}


def _ranking(topic: Topic, texts: Sequence[str]) -> tuple[Row | None, int]:
    whole = all((one, other) in topic.won for one in texts for other in texts if one != other)
    if len(texts) < 4 or not whole:
        return None, 0
    found = [topic.against(text, [other for other in texts if other != text]) for text in texts]
    shares = [round(share, 6) for share, _ in found]
    ranks = [1 + sum(other > share for other in shares) for share in shares]
    return {"prompt": topic.prompt, "completions": list(texts), "ranks": ranks}, sum(n for _, n in found) // 2


def linear(kind: str, fold: int, rows: Sequence[Row], test: Sequence[Comparison]) -> np.ndarray:
    """Ridge 1 on unigrams, bigrams and the length, thresholds and the share of ties fitted along, by LBFGS."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = list(dict.fromkeys(text for row in rows for text in _texts(row)))
    asked = [text for pair in test for text in (pair.chosen, pair.rejected)]
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True).fit(texts)
    centre, scale = (f([np.log1p(len(text)) for text in texts]) for f in (np.mean, np.std))

    def features(of: Sequence[str]) -> Tensor:
        long = (np.log1p([len(text) for text in of])[:, None] - centre) / scale
        return torch.tensor(np.hstack([words.transform(of).toarray(), long]), dtype=torch.double)

    weights = _fitted(rows, features(texts), {text: i for i, text in enumerate(texts)})
    score: np.ndarray = (features(asked) @ weights).numpy().reshape(-1, 2)
    difference: np.ndarray = score[:, 0] - score[:, 1]
    return difference


def _texts(row: Row) -> list[str]:
    return row.get("completions") or [row[name] for name in ("chosen", "rejected", "completion") if name in row]


def _fitted(rows: Sequence[Row], x: Tensor, at: dict[str, int]) -> Tensor:
    """The weights under which all of `rows` is likely."""
    said = {kind: [row for row in rows if _kind(row) == kind] for kind in KINDS}
    places = {
        kind: torch.tensor([[at[t] for t in _texts(row)] for row in found]) for kind, found in said.items() if found
    }
    questions = {}
    levels = torch.tensor([row["scores"]["overall"] - 1 for row in said["rating"]])
    good = torch.tensor([int(row["label"]) for row in said["approval"]])
    if said["rating"]:
        questions["rating:overall"] = torch.bincount(levels, minlength=5).tolist()
    if said["approval"]:
        questions["approval"] = torch.bincount(good, minlength=2).tolist()
    shares = torch.tensor([_shares(row) for row in said["comparison"]]).reshape(len(said["comparison"]), 3)
    thresholds = Answers(questions, float(shares[:, 2].mean()) if len(shares) else 0.0).double()
    weights = torch.zeros(x.shape[1], dtype=torch.double, requires_grad=True)
    parameters = [weights, *(p for p in thresholds.parameters() if p.requires_grad)]
    optimizer = torch.optim.LBFGS(parameters, max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = 0.5 * weights.square().sum()
        for name in questions:  # a free slope would take the ridge away: its logarithm is normal, too
            loss = loss + 0.5 * thresholds.slope(name).log().square()
        scores = x @ weights
        for kind, place in places.items():
            mine = scores[place]
            if kind == "comparison":
                logprobs = comparison_logprobs(mine[:, 0] - mine[:, 1], thresholds.log_ties)
                loss = loss + cross_entropy(logprobs, shares[:, : logprobs.shape[1]]).sum()
            elif kind == "ranking":
                ranks = torch.tensor([row["ranks"] for row in said[kind]]).float()
                loss = loss + plackett_luce(mine, ranks, torch.ones_like(mine).bool()).sum()
            else:
                name, told, n = ("rating:overall", levels, 5) if kind == "rating" else ("approval", good, 2)
                loss = (
                    loss
                    + cross_entropy(thresholds.logprobs(name, mine[:, 0]), nn.functional.one_hot(told, n).float()).sum()
                )
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


def _kind(row: Row) -> str:
    for kind, column in (("ranking", "completions"), ("comparison", "chosen"), ("rating", "scores")):
        if column in row:
            return kind
    return "approval"


def _shares(row: Row) -> list[float]:
    """Of the votes, for the first, for the second, for neither."""
    return [row["label"] - row["ties"] / 2, 1 - row["label"] - row["ties"] / 2, row["ties"]]


def model(
    kind: str, fold: int, rows: Sequence[Row], test: Sequence[Comparison], *, run: Path, folder: Path
) -> np.ndarray:
    """A reward model of these rows; what was trained already is not trained again."""
    from prefloop.rewards.learned import LearnedReward
    from prefloop.workflows.training import train

    name = f"{kind.replace(' ', '-')}-{fold}"
    file, out = folder / f"{name}.jsonl", folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made = train("reward_model", run, data=file, out=out, overrides=LEARN, resume=True)
    print(f"{kind}, fold {fold}: {len(rows)} rows, {made['seconds']} s", flush=True)
    settings = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["settings"]
    reward = LearnedReward(out, torch.float32, torch.device("cpu"), max_length=settings["max_length"])
    return np.subtract(*both_sides(reward, test))


def measured(pairs: Sequence[Comparison], scorer: Scorer, votes: int = VOTES, folds: int = FOLDS) -> list[str]:
    """Accuracy of each kind, of the mixture and of all kinds, and the paired differences; intervals over topics."""
    right: dict[str, list[float]] = {name: [] for name in (*KINDS, *TOGETHER)}
    topics: list[str] = []
    for fold in range(folds):
        learn = [pair for pair in pairs if fold_of(pair) != fold]
        test = [pair for pair in pairs if fold_of(pair) == fold and pair.label != 0.5]
        topics += [pair.columns["group"] for pair in test]
        sign = np.array([1.0 if pair.label > 0.5 else -1.0 for pair in test])
        for name, values in right.items():
            parts = KINDS if name in TOGETHER else (name,)
            each = votes // len(KINDS) if name == "mixture" else votes
            rows = [row for kind in parts for row in answers(learn, kind, each, fold)]
            values += ((np.sign(scorer(name, fold, rows, test) * sign) + 1) / 2).tolist()
    lines = [f"{name}: {interval(share_interval(values, topics).as_dict())}" for name, values in right.items()]
    for together in TOGETHER:
        for kind in KINDS:
            difference = np.subtract(right[together], right[kind])
            lines.append(f"{together} - {kind}: {interval(mean_interval(difference, topics).as_dict())}")
    return lines


def main(how: str, run: Path, folder: Path) -> None:
    if not DATA.is_dir():
        print(f"skipped: no {DATA}; set PREFLOOP_DATA to the folder that holds preferences/")
        return
    scorer: Scorer = linear
    if how == "model":
        folder.mkdir(parents=True, exist_ok=True)
        scorer = functools.partial(model, run=run, folder=folder)
    print("\n".join(measured(SOURCES["ukp"](), scorer)))


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in ("linear", "model"):
        sys.exit("which reward? linear, model")
    given = [*sys.argv[2:], *[str(RUNS / "kinds.yaml"), "kinds-model"][len(sys.argv) - 2 :]]
    main(sys.argv[1], Path(given[0]), Path(given[1]))
