"""What a reference model says about a text: how fluent it is, and how much of it the prompt explains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.datasets.collate import completion_mask, micro_batches, pad
from prefloop.models.device import pick_device, pick_dtype
from prefloop.models.heads import CompletionLogprobs
from prefloop.models.load import load_policy, load_tokenizer, positions_of
from prefloop.models.template import Encoded, Template
from prefloop.records import Message


class ReferenceModel:
    """log p(completion | prompt) under a language model, on the one tokenise path."""

    def __init__(
        self, model: str, *, device: str = "auto", dtype: str = "auto", max_length: int = 512, budget: int = 8192
    ) -> None:
        place = pick_device(device)
        self.template = Template(load_tokenizer(model))
        self.measure = CompletionLogprobs(load_policy(model, pick_dtype(dtype, place), place))
        self.device, self.budget = place, budget
        self.max_length = min(max_length, positions_of(self.measure.full.config))

    def mean_logprobs(self, texts: Sequence[Encoded]) -> Float[Tensor, "n"]:
        """Mean log-probability of each completion's tokens, in nats; 0 for a completion without any."""
        counts = torch.tensor([text.length - text.prompt_length for text in texts])
        return self.logprobs(texts) / counts.clamp_min(1)

    @torch.no_grad()
    def logprobs(self, texts: Sequence[Encoded]) -> Float[Tensor, "n"]:
        """log p of each completion, in nats."""
        result = torch.zeros(len(texts))
        for micro in micro_batches(range(len(texts)), lambda i: texts[i].length, self.budget):
            starts = [texts[i].prompt_length for i in micro]
            counts = [texts[i].length - texts[i].prompt_length for i in micro]
            valid = completion_mask([0] * len(micro), counts, max(1, *counts)).to(self.device)
            ids = pad([texts[i].ids for i in micro], self.template.pad_id).to(self.device)
            found, _ = self.measure(ids, torch.tensor(starts, device=self.device), valid)
            result[micro] = found.sum(1).cpu()
        return result

    def encoded(self, prompts: Sequence[Sequence[Message]], completions: Sequence[str]) -> list[Encoded]:
        """Prompts and completions as token ids."""
        return [self.template.encode(p, c, self.max_length) for p, c in zip(prompts, completions, strict=True)]


def fluency(model: str = "builtin", **options: Any) -> Any:
    """Makes the reward -log perplexity per token under `model`: mean log p(token | prompt and what came before).

    In nats, at most 0; exp(-score) is the perplexity. Likely text scores high, and so does repetition: weigh it low.
    """
    reference = ReferenceModel(model, **options)

    def score(prompts: Sequence[Sequence[Message]], completions: Sequence[str], **columns: Any) -> list[float]:
        return reference.mean_logprobs(reference.encoded(prompts, completions)).tolist()

    return score


def coherence(model: str = "builtin", **options: Any) -> Any:
    """Makes the reward that says how much the prompt explains: mean over tokens of log p(c | prompt) - log p(c | none).

    Pointwise mutual information per token under `model` (Li et al. 2016, arXiv 1510.03055, eq. 9 with weight 1). An
    answer that would suit any prompt scores near 0. The other prompt is one user turn with no text.
    """
    reference = ReferenceModel(model, **options)
    nothing: list[Message] = [{"role": "user", "content": ""}]

    def score(prompts: Sequence[Sequence[Message]], completions: Sequence[str], **columns: Any) -> list[float]:
        given = reference.mean_logprobs(reference.encoded(prompts, completions))
        alone = reference.mean_logprobs(reference.encoded([nothing] * len(completions), completions))
        return (given - alone).tolist()

    return score
