"""transformers' `generate`, `slots` prompts at a time. Rows end where the spec says, so both make equally many tokens.

It also scores some of our samples in plain forward passes: their log-probabilities must be those that our sampler gave.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig, StoppingCriteria, StoppingCriteriaList

from benchmarks.peers.race import side

CHECKED = 8
"""Of our samples."""


class Limits(StoppingCriteria):
    """Each row ends at its own length."""

    def __init__(self, ends: torch.Tensor) -> None:
        self.ends = ends

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return input_ids.shape[1] >= self.ends


def work(spec: dict[str, Any]) -> dict[str, Any]:
    model = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=getattr(torch, spec["dtype"])).eval()
    generate(model, spec["prompts"][:2], [4, 4])
    made, started = 0, time.perf_counter()
    for first in range(0, len(spec["prompts"]), spec["slots"]):
        batch = slice(first, first + spec["slots"])
        made += generate(model, spec["prompts"][batch], spec["limits"][batch])
    seconds = time.perf_counter() - started
    found = {"units": made, "seconds": seconds, "version": transformers.__version__}
    return {**found, "logprob_difference": logprob_difference(model, spec)}


@torch.no_grad()
def generate(model: Any, prompts: list[list[int]], limits: list[int]) -> int:
    """Sample a batch and count what was asked for: the tokens up to each row's end."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    config = GenerationConfig(
        do_sample=True, top_k=0, top_p=1.0, temperature=1.0, max_new_tokens=max(limits), pad_token_id=0, eos_token_id=2
    )
    criteria = StoppingCriteriaList([Limits(width + torch.tensor(limits))])
    out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, stopping_criteria=criteria)
    count = 0
    for row, limit in zip(out[:, width:].tolist(), limits, strict=True):
        count += row.index(2) + 1 if 2 in row[:limit] else limit
    return count


@torch.no_grad()
def logprob_difference(model: Any, spec: dict[str, Any]) -> float:
    """Largest difference, in nats, of a token's log-probability in our sampler and in the library's forward pass."""
    worst, samples = 0.0, json.loads(Path(spec["save"]).read_text())
    for prompt, sample in list(zip(spec["prompts"], samples, strict=True))[:CHECKED]:
        logits = model(input_ids=torch.tensor([[*prompt, *sample["ids"]]])).logits[0, len(prompt) - 1 : -1].float()
        again = logits.log_softmax(-1).gather(1, torch.tensor(sample["ids"])[:, None])[:, 0]
        worst = max(worst, float((again - torch.tensor(sample["logprobs"])).abs().max()))
    return worst


if __name__ == "__main__":
    side(work)
