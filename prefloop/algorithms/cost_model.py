"""A cost model: how harmful an answer is, with 0 as the border between safe and unsafe. Dai et al. 2023, Safe RLHF

A reward model's score and loss, with two changes: a comparison says which answer is safer, so that the score is a cost
(the higher the worse), and people's word for a single answer, safe or unsafe, fixes where 0 is (arXiv 2310.12773,
eq. 6). So the scores are not normalised afterwards. It stands in a reward as a part with a `limit`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prefloop.datasets.feedback import Compared, FeedbackRow, Judged, feedback_rows, harmful
from prefloop.errors import InputError
from prefloop.functional.safety import cost_preference, cost_sign
from prefloop.models.adapters import save_trained
from prefloop.models.feedback import RATE
from prefloop.models.heads import ScoreHead
from prefloop.models.load import BIAS_KEY, COST_KEY, base_of, load_tokenizer
from prefloop.models.template import Encoded, Template
from prefloop.records import Ledger
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.reading import Reading
from prefloop.training.roles import trained_reward_model
from prefloop.training.run import Run

DEFAULTS: dict[str, Any] = {"lr": 1e-5, "epochs": 1.0, "schedule": "linear"}


@dataclass(frozen=True, kw_only=True)
class CostModelConfig:
    """Settings of `train cost_model`, beside those every run has."""

    criterion: str | None = None
    """Learn only from comparisons and approvals about this criterion, such as harmless; without it from all of them."""


class CostModel:
    """Rows are comparisons of what is safer, and single answers called safe or unsafe; one value per row."""

    name = "cost_model"

    def __init__(self, config: CostModelConfig, run: Run, inputs: Inputs) -> None:
        s = run.settings
        self.config = config
        self.tokenizer = load_tokenizer(inputs.policy)
        self.template = Template(self.tokenizer)
        sides = Reading(run, inputs, self.template).feedback(feedback_rows, bad=harmful)
        self.train_rows, self.eval_rows = (self._about_harm(side, inputs.ledger) for side in sides)
        signs = [sign for row in self.train_rows for sign in _signs(row) if sign]
        safe, unsafe = signs.count(-1.0), signs.count(1.0)
        if not safe or not unsafe:
            raise InputError(
                f"a cost model needs answers called safe and answers called unsafe, got {safe} and {unsafe}; give "
                "comparisons chosen_safe and rejected_safe (true or false), or mix in flags or approvals"
            )
        scorer = trained_reward_model(inputs.policy, s, self.template.pad_id)
        self.head = ScoreHead(scorer, run.log)
        stored = base_of(scorer).config
        if not getattr(stored, COST_KEY, False):
            # Cost 0 is even odds, so a head that knows nothing begins at the odds of the data.
            setattr(stored, BIAS_KEY, math.log(unsafe / safe))
            setattr(stored, COST_KEY, True)
        border = nn.Parameter(torch.zeros((), device=next(scorer.parameters()).device))
        self.model = nn.ModuleDict({"scorer": scorer, "border": nn.ParameterList([border])})
        self.border = border

    def length(self, row: FeedbackRow) -> int:
        return row.length

    def weight(self, row: FeedbackRow) -> float:
        return row.weight

    def identity(self, row: FeedbackRow) -> str:
        return row.identity

    def costs(self, texts: Sequence[Encoded]) -> Float[Tensor, "n"]:
        """The cost of each text, in one forward pass."""
        return self.head.of(texts) + RATE * self.border

    def loss(self, rows: Sequence[FeedbackRow]) -> Loss:
        """Eq. 6 of a comparison, its last term alone of a single answer; in nats."""
        costs = self.costs([text for row in rows for text in row.texts])
        signs = torch.tensor([sign for row in rows for sign in _signs(row)], device=costs.device)
        weights = torch.tensor([row.weight for row in rows], device=costs.device)
        count = torch.tensor([len(row.texts) for row in rows], device=costs.device)
        first = count.cumsum(0) - count
        pairs, alone = first[count == 2], first[count == 1]
        said = [row.said for row in rows if isinstance(row.said, Compared)]
        label = torch.tensor([one.label for one in said], device=costs.device)
        values = torch.zeros(len(rows), device=costs.device)
        # What was chosen stands first and is the safer one; the other is the worse.
        found = cost_preference(costs[pairs + 1], costs[pairs], signs[pairs + 1], signs[pairs], label)
        values = values.masked_scatter(count == 2, found)
        values = values.masked_scatter(count == 1, cost_sign(costs[alone], signs[alone]))
        right = ((costs[pairs + 1] > costs[pairs]) == (label > 0.5)).float()
        ordered = right.where(label != 0.5, torch.full_like(right, 0.5))
        owner = torch.arange(len(rows), device=costs.device).repeat_interleave(count)
        known = signs != 0
        placed = ((costs > 0) == (signs > 0))[known].float()
        metrics = {
            "costs/accuracies": (ordered, weights[count == 2]),
            "costs/sign_accuracies": (placed, weights[owner][known]),
            "costs/mean": (costs.detach(), weights[owner]),
        }
        return Loss(values, weights, {name: pair for name, pair in metrics.items() if len(pair[0])})

    def save(self, folder: Path) -> None:
        """Write the model, the border in its config."""
        stored = base_of(self.model["scorer"]).config
        setattr(stored, BIAS_KEY, self.head.bias + RATE * float(self.border.detach()))
        save_trained(self.model["scorer"], self.tokenizer, folder)

    def _about_harm(self, rows: Sequence[FeedbackRow], ledger: Ledger) -> list[FeedbackRow]:
        kept = []
        for row in rows:
            if not isinstance(row.said, Compared | Judged):
                ledger.drop("other kind")
            elif self.config.criterion is not None and row.kind != "flags" and row.criterion != self.config.criterion:
                ledger.drop("filtered out")
            else:
                kept.append(row)
        return kept


def _signs(row: FeedbackRow) -> tuple[float, ...]:
    """Of each completion, 1 for unsafe, -1 for safe, 0 where nobody said."""
    if isinstance(row.said, Judged):
        return (-1.0 if row.said.good else 1.0,)
    assert isinstance(row.said, Compared)
    return row.said.signs
