"""The ceiling: the model's trunk alone, forward and backward on full rows, without padding, head or optimizer."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import AutoModel

from benchmarks.peers.race import side

LENGTH, REPEATS = 208, 8
"""Tokens of a row: a mean prompt with a mean completion of HH."""


def work(spec: dict[str, Any]) -> dict[str, Any]:
    """Its units are GFLOP; `matmul` is what a plain matrix product of the same shape reaches, in GFLOP/s."""
    dtype = getattr(torch, spec["dtype"])
    model = AutoModel.from_pretrained(spec["model"], dtype=dtype, attn_implementation="eager")
    ids = torch.randint(8000, (max(1, spec["tokens"] // LENGTH), LENGTH))
    weights = sum(p.numel() for name, p in model.named_parameters() if "embed" not in name)

    def once() -> None:
        model(input_ids=ids, use_cache=False).last_hidden_state.sum().backward()

    once()
    started = time.perf_counter()
    for _ in range(REPEATS):
        once()
    seconds = time.perf_counter() - started
    states, weight = torch.randn(ids.numel(), 320, dtype=dtype), torch.randn(320, 864, dtype=dtype)
    started = time.perf_counter()
    for _ in range(50):
        states @ weight
    product = 50 * 2e-9 * ids.numel() * 320 * 864 / (time.perf_counter() - started)
    units = 6e-9 * weights * ids.numel() * REPEATS
    return {"units": units, "seconds": seconds, "version": torch.__version__, "matmul": product}


if __name__ == "__main__":
    side(work)
