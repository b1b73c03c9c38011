"""A reward model: one score per answer, such that people's choices are likely. Bradley, Terry 1952; Ziegler et al. 2019

The offline loop with comparisons for rows; the loss is -log sigmoid(score of chosen - score of rejected). Afterwards
gain and bias are set so that the scores of the sampled completions have mean 0 and std 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor

from prefloop.artifacts.files import write_json
from prefloop.datasets.collate import micro_batches
from prefloop.datasets.rows import PairRow, comparison_rows
from prefloop.functional.preference import bradley_terry
from prefloop.models.adapters import save_trained
from prefloop.models.device import pick_device
from prefloop.models.heads import ScoreHead
from prefloop.models.load import load_tokenizer
from prefloop.models.template import Encoded, Template
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss
from prefloop.training.roles import longest_row, trained_reward_model
from prefloop.training.run import Run

DEFAULTS: dict[str, Any] = {"lr": 1e-5, "epochs": 1.0, "schedule": "linear"}


@dataclass(frozen=True, kw_only=True)
class RewardModelConfig:
    """Settings of `train reward_model`, beside those every run has."""

    center: NonNegativeFloat = 0.0
    """Weight of (score of chosen + score of rejected)^2, which keeps the scores near 0; 0.01 is usual when used."""
    margin: bool = False
    """Subtract the row's `margin` column inside the loss (Llama 2): clear preferences must win by more."""
    normalise: NonNegativeInt = 512
    """Completions of training pairs on which gain and bias are set to mean 0, std 1; 0 leaves the scores raw."""


class RewardModel:
    """Rows are pairs; the loss has one value per pair."""

    name = "reward_model"

    def __init__(self, config: RewardModelConfig, run: Run, inputs: Inputs) -> None:
        s = run.settings
        self.config, self.settings, self.device = config, s, pick_device(s.device)
        self.tokenizer = load_tokenizer(inputs.policy)
        self.template = Template(self.tokenizer)
        assert inputs.data is not None
        longest = longest_row(inputs.policy, s, run.log)
        self.train_rows, self.eval_rows = comparison_rows(
            inputs.data, self.template, longest, inputs.ledger, test_share=s.test_share, max_dropped=s.max_dropped
        )
        self.model = trained_reward_model(inputs.policy, s, self.template.pad_id)
        self.head = ScoreHead(self.model, run.log)

    def length(self, row: PairRow) -> int:
        return row.length

    def weight(self, row: PairRow) -> float:
        return row.weight

    def identity(self, row: PairRow) -> str:
        return row.identity

    def loss(self, rows: Sequence[PairRow]) -> Loss:
        """One value per pair, in nats; accuracy counts the pairs that people did not call a tie."""
        chosen, rejected = self.scores([r.chosen for r in rows] + [r.rejected for r in rows]).chunk(2)
        label, margin, weight = (
            torch.tensor([getattr(r, name) for r in rows], device=chosen.device)
            for name in ("label", "margin", "weight")
        )
        values = bradley_terry(chosen - rejected, label, margin if self.config.margin else 0.0)
        values = values + self.config.center * (chosen + rejected).square()
        right = (label != 0.5).float().where(label == 0.5, ((chosen > rejected) == (label > 0.5)).float())
        metrics = {
            "rewards/accuracies": right.where(label != 0.5, torch.full_like(right, 0.5)),
            "rewards/margins": (chosen - rejected).detach(),
            "rewards/chosen": chosen.detach(),
            "rewards/rejected": rejected.detach(),
        }
        return Loss(values, weight, metrics)

    def scores(self, texts: Sequence[Encoded]) -> Float[Tensor, "n"]:
        """Scores of encoded texts, in one forward pass."""
        return self.head.of(texts)

    def save(self, folder: Path) -> None:
        """Normalise, then write the model with its head's gain folded in and the bias in its config."""
        gain, bias = self._normalise() if self.config.normalise else (1.0, 0.0)
        save_trained(self.model, self.tokenizer, folder)
        write_json(folder / "normalisation.json", {"gain": gain, "bias": bias, "completions": self.config.normalise})

    @torch.no_grad()
    def _normalise(self) -> tuple[float, float]:
        self.model.eval()
        sample = self.train_rows[: self.config.normalise // 2]
        parts = [
            self.scores([r.chosen for r in micro] + [r.rejected for r in micro])
            for micro in micro_batches(sample, self.length, self.settings.micro_batch_tokens)
        ]
        return self.head.normalise(torch.cat(parts))
