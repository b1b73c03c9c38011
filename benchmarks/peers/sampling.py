"""Sampling: prefloop, transformers' `generate` and its continuous batching, 64 sequences at once, one 12.5 M model.

`sampling_hh`: completions as long as in HH, known to nobody before they end. `sampling_equal`: all of 64 tokens.
The rate counts useful tokens: those of a completion up to its end.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import interpreter
from benchmarks.peers.material import completion_lengths, write_model, write_prompts
from benchmarks.peers.race import Side, ours, race, row

SLOTS = 64
REQUESTS = {"sampling_hh": 256, "sampling_equal": 128}
EQUAL = 64
MOST_DIFFERENCE = {"float32": 1e-3, "bfloat16": 0.1}
"""In nats: what rounding may do to a token's log-probability. More means that the sides run different models."""


def rows(work: str, folder: Path, dtype: str) -> list[dict[str, Any]]:
    """The row of `sampling_hh` or `sampling_equal`: against `generate`, and under `also` continuous batching."""
    count = REQUESTS[work]
    model = write_model(folder / "model")
    write_prompts(folder / "prompts.jsonl", count)
    spec = {
        "model": str(model),
        "dtype": dtype,
        "slots": SLOTS,
        "prompts": token_ids(model, folder / "prompts.jsonl"),
        "limits": completion_lengths(count) if work == "sampling_hh" else [EQUAL] * count,
        "save": str(folder / "samples.json"),
    }
    python = interpreter("trl-1.16")
    generate = Side("transformers generate", python, "benchmarks.peers.sides.theirs_generate")
    continuous = Side("transformers continuous batching", python, "benchmarks.peers.sides.theirs_continuous")
    us, them, other = race([ours("benchmarks.peers.sides.ours_sampling"), generate, continuous], spec)
    difference = max(run["logprob_difference"] for run in them.runs)
    if difference > MOST_DIFFERENCE[dtype]:
        raise RuntimeError(f"log-probabilities of the same samples differ by {difference} nats: not the same model")
    line = row(work, "tokens/s", us, generate.name, them)
    against = row(work, "tokens/s", us, continuous.name, other)
    also = {k: against[k] for k in ("peer", "ratio", "peer_name", "peer_version", "memory_ratio", "peer_mb")}
    return [{**line, "logprob_difference": difference, "also": [also]}]


def token_ids(model: Path, prompts: Path) -> list[list[int]]:
    """The prompts as both sides get them."""
    from prefloop.models.load import load_tokenizer
    from prefloop.models.template import Template

    template = Template(load_tokenizer(model))
    return [template.prompt(json.loads(line)["prompt"]) for line in prompts.read_text().splitlines()]
