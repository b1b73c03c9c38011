"""Self-play fine-tuning. Chen et al. 2024, https://arxiv.org/abs/2401.01335

DPO where nobody compares: the chosen side of a pair is a demonstration, the rejected one is what the policy itself
answered to the prompt when the round began, and that earlier self is also the reference. So the policy learns to tell
what people wrote from what it used to write; a round ends when it is made its own opponent anew.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from prefloop.datasets.rows import TextRow, demonstration_rows
from prefloop.functional.preference import bradley_terry
from prefloop.generation.sampler import Sampler, Sampling
from prefloop.models.adapters import save_trained
from prefloop.models.device import pick_device
from prefloop.models.heads import CompletionLogprobs
from prefloop.models.load import base_of, load_tokenizer
from prefloop.models.template import Encoded, Template
from prefloop.training.method import Inputs
from prefloop.training.offline import Loss, total_steps
from prefloop.training.reading import Reading
from prefloop.training.reference import measured_logprobs
from prefloop.training.roles import trained_policy
from prefloop.training.run import Run, generator

DEFAULTS: dict[str, Any] = {"lr": 5e-6, "epochs": 3.0, "schedule": "linear"}


@dataclass(frozen=True, kw_only=True)
class SPINConfig:
    """Settings of `train spin`, beside those every run has."""

    beta: PositiveFloat = 0.1
    """How dear it is to leave the opponent; below 1/2 rounds must be short, see the page."""
    rounds: PositiveInt = 3
    """The run's steps are divided into so many rounds, each against the policy as it was when the round began."""
    max_new_tokens: PositiveInt = 128
    """The opponent's answers are cut off after so many tokens."""


class SPIN:
    """Rows are demonstrations; the loss has one value per demonstration and the opponent's answer to its prompt."""

    name = "spin"

    def __init__(self, config: SPINConfig, run: Run, inputs: Inputs) -> None:
        s = run.settings
        self.config, self.run, self.device = config, run, pick_device(s.device)
        self.tokenizer = load_tokenizer(inputs.policy)
        self.template = Template(self.tokenizer)
        reading = Reading(run, inputs, self.template)
        self.longest = reading.longest
        self.train_rows, self.eval_rows = reading.rows(demonstration_rows)
        self.model = trained_policy(inputs.policy, s)
        self.logprobs = CompletionLogprobs(self.model, run.log)
        self.opponent = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.sampler = Sampler(base_of(self.opponent), self.template, log=run.log)
        self.step, self.round = torch.zeros(2, dtype=torch.long).unbind()
        self.round_steps = -(-total_steps(run, max(1, len(self.train_rows))) // config.rounds)
        self._answers: dict[int, tuple[Encoded, Tensor]] = {}

    def length(self, row: TextRow) -> int:
        return row.text.length + self.config.max_new_tokens

    def weight(self, row: TextRow) -> float:
        return row.weight

    def identity(self, row: TextRow) -> str:
        return row.identity

    def prepare(self, rows: Sequence[TextRow]) -> None:
        """Begin the next round when it is time. Held-out rows are measured against the round that just ended."""
        due = int(self.step) // self.round_steps
        if self.model.training and due > int(self.round):
            own, trained = dict(self.opponent.named_parameters()), dict(self.model.named_parameters())
            for name in own:
                own[name].copy_(trained[name])
            self.round.fill_(due)
            self._answers = {}

    def loss(self, rows: Sequence[TextRow]) -> Loss:
        """-log sigmoid(beta (h(demonstration) - h(opponent's answer))), h = log pi - log opponent (eq. 4.7)."""
        if not self._answers:
            self._play()
        texts = [text for row in rows for text in (row.text, self._answers[id(row)][0])]
        held = torch.cat([self._answers[id(row)][1] for row in rows]).to(self.device)
        logprobs = self.logprobs.of(texts)[0].sum(1)
        written, own = (self.config.beta * (logprobs - held)).view(-1, 2).unbind(1)
        values = bradley_terry(written - own, torch.ones_like(own))
        metrics = {
            "rewards/accuracies": (written > own).float(),
            "rewards/margins": (written - own).detach(),
            "rewards/chosen": written.detach(),
            "rewards/rejected": own.detach(),
            "logps/chosen": logprobs[0::2].detach(),
            "logps/rejected": logprobs[1::2].detach(),
        }
        return Loss(values, torch.tensor([row.weight for row in rows], device=self.device), metrics)

    def followers(self) -> dict[str, Tensor]:
        """The opponent's weights, and how far the run is: its answers are a function of these and the seed."""
        trained = {name for name, p in self.model.named_parameters() if p.requires_grad}
        weights = {name: p for name, p in self.opponent.named_parameters() if name in trained}
        return {**weights, "spin/step": self.step, "spin/round": self.round}

    def follow(self, step: int) -> None:
        self.step.fill_(step)

    def save(self, folder: Path) -> None:
        save_trained(self.model, self.tokenizer, folder)

    @torch.no_grad()
    def _play(self) -> None:
        """The opponent answers every prompt once; its log-probabilities of both answers are kept for the round."""
        s, rows = self.run.settings, [*self.train_rows, *self.eval_rows]
        self.run.log(f"round {int(self.round) + 1} of {self.config.rounds}: the policy answers {len(rows)} prompts")
        prompts = [row.text.ids[: row.text.prompt_length] for row in rows]
        limits = [max(1, min(self.config.max_new_tokens, self.longest - len(prompt))) for prompt in prompts]
        drawn = self.sampler(
            prompts,
            1,
            Sampling(max_new_tokens=self.config.max_new_tokens),
            generator(s.seed, "opponent", int(self.round)),
            limits=limits,
        )
        own = [
            Encoded([*prompt, *one.ids], len(prompt), not one.terminated)
            for prompt, (one,) in zip(prompts, drawn, strict=True)
        ]
        texts = [text for row, answer in zip(rows, own, strict=True) for text in (row.text, answer)]
        found = measured_logprobs(CompletionLogprobs(self.opponent), texts, s.micro_batch_tokens)
        sums = torch.stack([each.sum() for each in found]).view(-1, 2)
        self._answers = {id(row): (a, held) for row, a, held in zip(rows, own, sums, strict=True)}
