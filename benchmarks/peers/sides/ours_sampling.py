"""prefloop's sampler. With `spec["save"]` its samples are kept, for the peer to score again."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.race import side
from prefloop.generation.sampler import Sampler, Sampling
from prefloop.models.load import load_policy, load_tokenizer
from prefloop.models.template import Template
from prefloop.version import __version__


def work(spec: dict[str, Any]) -> dict[str, Any]:
    model = load_policy(spec["model"], getattr(torch, spec["dtype"]), torch.device("cpu"))
    sampler = Sampler(model, Template(load_tokenizer(spec["model"])), spec["slots"])
    sampling = Sampling(max_new_tokens=max(spec["limits"]))
    stream = torch.Generator().manual_seed(0)
    sampler(spec["prompts"][:2], 1, sampling, stream, limits=[4, 4])
    started = time.perf_counter()
    groups = sampler(spec["prompts"], 1, sampling, stream, limits=spec["limits"])
    seconds = time.perf_counter() - started
    samples = [group[0] for group in groups]
    Path(spec["save"]).write_text(json.dumps([{"ids": s.ids, "logprobs": s.logprobs} for s in samples]))
    return {"units": sum(len(s.ids) for s in samples), "seconds": seconds, "version": __version__}


if __name__ == "__main__":
    side(work)
