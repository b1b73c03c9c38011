"""Several reward models in the memory of one: low-rank adapters of the same base, taken on one after the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.datasets.collate import text_batches
from prefloop.models.feedback import TEMPERATURE_KEY
from prefloop.models.heads import ScoreHead
from prefloop.models.load import BIAS_KEY, COST_KEY, load_tokenizer, positions_of
from prefloop.models.shared import load_adapters
from prefloop.models.template import Template
from prefloop.records import Message


class SharedTrunk:
    """A reward function whose members were each trained as an adapter (`lora`) of one base; their mean is the score."""

    def __init__(
        self,
        folders: Sequence[str | Path],
        dtype: torch.dtype,
        device: torch.device,
        *,
        max_length: int = 512,
        micro_batch_tokens: int = 8192,
    ) -> None:
        places = [Path(folder) for folder in folders]
        self.model = load_adapters(places, dtype, device)
        kept = [json.loads((place / "config.json").read_text(encoding="utf-8")) for place in places]
        self.biases = [float(one.get(BIAS_KEY) or 0.0) for one in kept]
        self.temperature = sum(float(one.get(TEMPERATURE_KEY) or 1.0) for one in kept) / len(kept)
        """Mean of the members'."""
        self.cost = any(one.get(COST_KEY) for one in kept)
        self.template = Template(load_tokenizer(places[0]))
        self.head = ScoreHead(self.model)
        self.budget = micro_batch_tokens
        self.max_length = min(max_length, positions_of(self.head.model.config))

    def __call__(
        self, prompts: Sequence[Sequence[Message]], completions: Sequence[str], **columns: Sequence[Any]
    ) -> list[float]:
        """The mean of the members' scores of each completion."""
        found: list[float] = self.members(prompts, completions).mean(dim=1).tolist()
        return found

    @torch.no_grad()
    def members(self, prompts: Sequence[Sequence[Message]], completions: Sequence[str]) -> Float[Tensor, "n members"]:
        """What each member says."""
        texts = [self.template.encode(p, c, self.max_length) for p, c in zip(prompts, completions, strict=True)]
        result = torch.empty(len(texts), len(self.biases))
        for place, bias in enumerate(self.biases):
            self.model.set_adapter(str(place), inference_mode=True)
            setattr(self.head.model.config, BIAS_KEY, bias)
            for micro in text_batches(texts, self.budget):
                result[micro, place] = self.head.of([texts[i] for i in micro]).float().cpu()
        return result
