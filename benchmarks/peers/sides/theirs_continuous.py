"""transformers' continuous batching, `slots` requests at once, each with its own longest length."""

from __future__ import annotations

import time
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from benchmarks.peers.race import side

PAGE = 256
"""Its default: tokens in a page of the cache."""


def work(spec: dict[str, Any]) -> dict[str, Any]:
    model = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=getattr(torch, spec["dtype"])).eval()
    config = GenerationConfig(
        do_sample=True, top_k=0, temperature=1.0, eos_token_id=2, pad_token_id=0, max_new_tokens=4
    )
    longest = max(len(p) + n for p, n in zip(spec["prompts"], spec["limits"], strict=True))
    # Without these it takes nearly all of the memory; the pages hold `slots` of the longest sequences.
    batching = ContinuousBatchingConfig(
        num_blocks=spec["slots"] * -(-longest // PAGE), max_batch_tokens=2048, max_requests_per_batch=spec["slots"]
    )
    made = 0
    with model.continuous_batching_context_manager(
        generation_config=config, continuous_batching_config=batching, block=True, timeout=30
    ) as manager:
        manager.add_request(spec["prompts"][0], max_new_tokens=4)
        manager.get_result(timeout=120)
        started = time.perf_counter()
        for prompt, limit in zip(spec["prompts"], spec["limits"], strict=True):
            manager.add_request(prompt, max_new_tokens=limit)
        for _ in spec["prompts"]:
            result = manager.get_result(timeout=600)
            if result is None:
                raise RuntimeError("continuous batching gave no result for ten minutes")
            if result.error:
                raise RuntimeError(str(result.error))
            made += len(result.generated_tokens)
        seconds = time.perf_counter() - started
    return {"units": made, "seconds": seconds, "version": transformers.__version__}


if __name__ == "__main__":
    side(work)
