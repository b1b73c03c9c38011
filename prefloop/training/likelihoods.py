"""What people said as one loss: -log of its probability given the scores, whatever kind it is (functional/feedback.py).

Comparisons, with Davidson's ties; rankings, best-of-K, edits and demonstrations as Plackett-Luce's choices or as pairs;
ratings as an ordinal logit; approvals and flags as a logistic. The functions are in `prefloop.functional.feedback`;
here is which of a model's scores a row is about, and how an ensemble's members share it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prefloop.datasets.feedback import Compared, FeedbackRow, Judged, Ranked, Rated
from prefloop.functional.feedback import MARGINS, all_pairs, comparison_logprobs, cross_entropy, plackett_luce
from prefloop.models.feedback import Answers, Heads
from prefloop.training.offline import Loss
from prefloop.training.run import generator

LEVELS = 5
"""Of a rating."""
Shares = dict[str | None, float]
"""Of all that was said about a score, how much answered each question of `Answers`; None compares texts."""


class Likelihoods:
    """-log P(what was said | scores) in nats, one value per row.

    `heads` says which scores a row is about, `answers` holds the thresholds. The rest are the settings of the same name
    (`RewardModelConfig`); `seed` draws each member's bootstrap of the rows.
    """

    def __init__(
        self,
        heads: Heads,
        answers: Answers,
        *,
        seed: int,
        margin: bool | Literal["small", "large"] = False,
        center: float = 0.0,
        rankings: Literal["plackett_luce", "pairs"] = "plackett_luce",
        label_noise: float = 0.0,
    ) -> None:
        self.heads, self.answers, self.seed = heads, answers, seed
        self.margin, self.center, self.rankings, self.label_noise = margin, center, rankings, label_noise

    def __call__(
        self, rows: Sequence[FeedbackRow], scores: Float[Tensor, "n heads"], weights: Float[Tensor, "rows"]
    ) -> Loss:
        """`scores` of all texts of the rows, one row after another: the main one, then those of the further heads."""
        ends = torch.tensor([len(row.texts) for row in rows], device=scores.device).cumsum(0)
        first = torch.cat([ends.new_zeros(1), ends[:-1]])
        values = torch.zeros(len(rows), device=scores.device)
        metrics: dict[str, Tensor | tuple[Tensor, Tensor]] = {}
        for said, likelihood in (
            (Compared, self._compared),
            (Ranked, self._ranked),
            (Rated, self._rated),
            (Judged, self._judged),
        ):
            places = [i for i, row in enumerate(rows) if isinstance(row.said, said)]
            if places:
                here = torch.tensor(places, device=scores.device)
                found, logged = likelihood([rows[i] for i in places], scores, first[here])
                values = values.index_put((here,), found)
                metrics |= {name: (value, weights[here]) for name, value in logged.items()}
        return Loss(values, weights, metrics)

    # --- one for each kind: (one value per row, what to log) --------------------------------------------------------

    def _compared(
        self, rows: Sequence[FeedbackRow], scores: Float[Tensor, "n heads"], first: Int[Tensor, "m"]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        chosen, rejected = (self._about(rows, scores, first + side) for side in (0, 1))
        said: list[Compared] = [row.said for row in rows if isinstance(row.said, Compared)]
        label, ties, margin, strength = (
            torch.tensor([getattr(one, name) for one in said], device=chosen.device)
            for name in ("label", "ties", "margin", "strength")
        )
        if isinstance(self.margin, str):
            margin = MARGINS[self.margin] * strength
        difference = chosen - rejected - margin[:, None] * bool(self.margin)
        log_ties = self.answers.log_ties
        ties = ties * (log_ties is not None)
        shares = torch.stack([label - ties / 2, 1 - label - ties / 2, ties], dim=1)[:, : 2 if log_ties is None else 3]
        each = [
            cross_entropy(comparison_logprobs(one, log_ties), shares, self.label_noise) + self.center * total.square()
            for one, total in zip(difference.unbind(1), (chosen + rejected).unbind(1), strict=True)
        ]
        return self._together(rows, torch.stack(each, dim=1)), _preferences(chosen.mean(1), rejected.mean(1), label)

    def _ranked(
        self, rows: Sequence[FeedbackRow], scores: Float[Tensor, "n heads"], first: Int[Tensor, "m"]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        most = max(len(row.texts) for row in rows)
        said = [row.said.ranks for row in rows if isinstance(row.said, Ranked)]
        ranks = torch.tensor([[*one, *[0] * (most - len(one))] for one in said], device=scores.device)
        valid = ranks > 0
        padded = scores.new_zeros(*valid.shape, scores.shape[1])
        padded[valid] = scores[(first[:, None] + torch.arange(most, device=first.device))[valid]]
        about = padded.gather(2, self._columns(rows, scores)[:, None, :].expand(-1, most, -1))
        likelihood = plackett_luce if self.rankings == "plackett_luce" else all_pairs
        each = [
            likelihood(one, ranks.float(), valid, self.label_noise)
            + self.center * (2 * (one * valid).sum(1) / valid.sum(1)).square()
            for one in about.unbind(2)
        ]
        main = about.mean(2).detach()
        better = (ranks[:, :, None] < ranks[:, None, :]) & valid[:, :, None] & valid[:, None, :]
        right = ((main[:, :, None] > main[:, None, :]) & better).sum((1, 2)) / better.sum((1, 2))
        return self._together(rows, torch.stack(each, dim=1)), {"rewards/ranking_accuracies": right}

    def _rated(
        self, rows: Sequence[FeedbackRow], scores: Float[Tensor, "n heads"], first: Int[Tensor, "m"]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        said = [row.said.scores for row in rows if isinstance(row.said, Rated)]
        losses = scores.new_zeros(len(rows), len(self.heads.main))
        for criterion in dict.fromkeys(name for one in said for name in one):
            here = torch.tensor([i for i, one in enumerate(said) if criterion in one], device=scores.device)
            levels = torch.tensor([one[criterion] - 1 for one in said if criterion in one], device=scores.device)
            level = nn.functional.one_hot(levels, LEVELS).float()
            each = [
                cross_entropy(
                    self.answers.logprobs(f"rating:{criterion}", scores[first[here], column]),
                    level,
                    self.label_noise,
                )
                for column in self.heads.columns_of(criterion)
            ]
            losses = losses.index_add(0, here, torch.stack(each, dim=1))
        return self._together(rows, losses), {}

    def _judged(
        self, rows: Sequence[FeedbackRow], scores: Float[Tensor, "n heads"], first: Int[Tensor, "m"]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        main = self._about(rows, scores, first)
        good = torch.tensor([row.said.good for row in rows if isinstance(row.said, Judged)], device=main.device)
        said = nn.functional.one_hot(good.long(), 2).float()
        losses, right = torch.zeros_like(main), torch.zeros_like(main[:, 0])
        for kind in sorted({row.kind for row in rows}):
            here = torch.tensor([row.kind == kind for row in rows], device=main.device)
            for column in range(main.shape[1]):
                logprobs = self.answers.logprobs(kind, main[here, column])
                losses[here, column] = cross_entropy(logprobs, said[here], self.label_noise)
            logprobs = self.answers.logprobs(kind, main[here].mean(1)).detach()
            right[here] = ((logprobs[:, 1] > logprobs[:, 0]) == good[here]).float()
        return self._together(rows, losses), {"rewards/approval_accuracies": right}

    def _about(
        self, rows: Sequence[FeedbackRow], scores: Float[Tensor, "n heads"], at: Int[Tensor, "m"]
    ) -> Float[Tensor, "m columns"]:
        """The scores that each row is about, of its text at place `at`."""
        about: Tensor = scores[at[:, None], self._columns(rows, scores)]
        return about

    def _columns(self, rows: Sequence[FeedbackRow], scores: Float[Tensor, "n heads"]) -> Int[Tensor, "m columns"]:
        return torch.tensor([self.heads.columns_of(row.criterion) for row in rows], device=scores.device)

    def _together(self, rows: Sequence[FeedbackRow], each: Float[Tensor, "n columns"]) -> Float[Tensor, "n"]:
        """Mean over the members, each at the number of times that its bootstrap drew the row: Poisson with mean 1."""
        if not self.heads.members:
            return each[:, 0]
        if not self.heads.training:
            return each.mean(dim=1)
        ones = torch.ones(len(self.heads.members))
        drawn = torch.stack([torch.poisson(ones, generator(self.seed, "bootstrap", row.key)) for row in rows])
        return (each * drawn.to(each.device)).mean(dim=1)


def said_about_each_score(
    heads: Heads, rows: Sequence[FeedbackRow], weight: Callable[[FeedbackRow], float]
) -> list[Shares]:
    """For the score itself and each further head, in the order of a row of scores; empty where nothing was said."""
    said: list[Shares] = [defaultdict(float) for _ in range(1 + len(heads.names))]
    for row in rows:
        questions: list[tuple[str | None, str | None]] = [(row.criterion, None)]
        if isinstance(row.said, Rated):
            questions = [(criterion, f"rating:{criterion}") for criterion in row.said.scores]
        elif isinstance(row.said, Judged):
            questions = [(row.criterion, row.kind)]
        for criterion, question in questions:
            for column in heads.columns_of(criterion):
                said[column][question] += weight(row)
    totals = [sum(amounts.values()) for amounts in said]
    return [{q: v / total for q, v in one.items()} if total else {} for one, total in zip(said, totals, strict=True)]


def _preferences(
    chosen: Float[Tensor, "n"], rejected: Float[Tensor, "n"], label: Float[Tensor, "n"]
) -> dict[str, Tensor]:
    """TRL's metrics of pairs; a tie counts half."""
    chosen, rejected = chosen.detach(), rejected.detach()
    right = ((chosen > rejected) == (label > 0.5)).float()
    return {
        "rewards/accuracies": right.where(label != 0.5, torch.full_like(right, 0.5)),
        "rewards/margins": chosen - rejected,
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
    }


def said_so_far(rows: Sequence[FeedbackRow], davidson: bool) -> tuple[dict[str, list[float]], float]:
    """How often each level of each question was said, and the share of ties."""
    levels: dict[str, Counter[int]] = {}
    ties = total = 0.0
    for row in rows:
        if isinstance(row.said, Rated):
            for criterion, level in row.said.scores.items():
                levels.setdefault(f"rating:{criterion}", Counter())[level - 1] += 1
        elif isinstance(row.said, Judged):
            levels.setdefault(row.kind, Counter())[int(row.said.good)] += 1
        elif isinstance(row.said, Compared):
            ties, total = ties + row.weight * row.said.ties, total + row.weight
    counts = {
        name: [float(count[level]) for level in range(LEVELS if name.startswith("rating:") else 2)]
        for name, count in levels.items()
    }
    return counts, ties / total if davidson and total else 0.0
