"""The learned reward: a reward model's score of (prompt, completion), on the tokenise path that trained it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.datasets.collate import text_batches
from prefloop.models.heads import ScoreHead
from prefloop.models.load import load_reward_model, load_tokenizer, positions_of
from prefloop.models.template import Encoded, Template
from prefloop.models.trees import Forest
from prefloop.records import Message


class LearnedReward:
    """A reward function `(prompts, completions, **columns) -> scores` (TRL's signature) from a reward model."""

    def __init__(
        self,
        ref: str | Path,
        dtype: torch.dtype,
        device: torch.device,
        *,
        max_length: int = 512,
        micro_batch_tokens: int = 8192,
    ) -> None:
        self.place = str(ref)
        self.template = Template(load_tokenizer(ref))
        self.head = ScoreHead(load_reward_model(ref, dtype, device))
        self.device, self.budget = device, micro_batch_tokens
        self.max_length = min(max_length, positions_of(self.head.model.config))

    def __call__(
        self,
        prompts: Sequence[Sequence[Message]],
        completions: Sequence[str],
        **columns: Sequence[Any],
    ) -> list[float]:
        """One score per completion. A completion that was cut off is scored as if it ended there."""
        texts = [self.template.encode(p, c, self.max_length) for p, c in zip(prompts, completions, strict=True)]
        return self.scores(texts).tolist()

    @torch.no_grad()
    def states(self, prompts: Sequence[Sequence[Message]], completions: Sequence[str]) -> npt.NDArray[np.float64]:
        """What the trunk makes of each text, (n, d): the state of its last token, from which the score is read."""
        texts = [self.template.encode(p, c, self.max_length) for p, c in zip(prompts, completions, strict=True)]
        rows: dict[int, npt.NDArray[np.float64]] = {}
        for micro in text_batches(texts, self.budget):
            forest = Forest.plant([texts[i] for i in micro])
            hidden = self.head.trunk(forest)[forest.last().to(self.device)]
            rows |= dict(zip(micro, hidden.double().cpu().numpy(), strict=True))
        return np.stack([rows[i] for i in range(len(texts))])

    @torch.no_grad()
    def scores(self, texts: Sequence[Encoded]) -> Float[Tensor, "n"]:
        """Scores of encoded texts, in their order, on the CPU in float32."""
        result = torch.empty(len(texts))
        for micro in text_batches(texts, self.budget):
            result[micro] = self.head.of([texts[i] for i in micro]).cpu()
        return result
