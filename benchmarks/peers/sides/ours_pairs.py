"""prefloop's reward_model, dpo and sft, by the same loop that `prefloop train` runs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.race import side
from prefloop.algorithms import METHODS
from prefloop.models.heads import CompletionLogprobs
from prefloop.models.template import Encoded
from prefloop.models.trees import Forest, Trunk
from prefloop.records import Ledger
from prefloop.settings import build_together
from prefloop.training import reference
from prefloop.training.method import Inputs
from prefloop.training.offline import train_offline
from prefloop.training.run import Run, RunSettings
from prefloop.version import __version__

AGREED = 8


def work(spec: dict[str, Any]) -> dict[str, Any]:
    way = METHODS[spec["method"]]
    mapping = {**way.defaults, "policy": spec["model"], "data": spec["data"], "dtype": spec["dtype"], "device": "cpu"}
    mapping |= {
        "epochs": 1,
        "batch_size": spec["batch"],
        "test_share": 0.0,
        "max_length": 1024,
        "micro_batch_tokens": spec["tokens"],
    }
    settings, config = build_together([RunSettings, way.config], mapping)
    seconds = 0.0
    honest = reference.measured_logprobs

    def timed(measure: CompletionLogprobs, texts: Sequence[Encoded], budget: int) -> list[torch.Tensor]:
        nonlocal seconds
        started = time.perf_counter()
        found = honest(measure, texts, budget)
        seconds += 0.0 if spec["precomputed"] else time.perf_counter() - started
        return found

    reference.measured_logprobs = timed
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), spec["method"], settings, {"method": spec["method"]}, lambda words: None)
        run.begin(resume=False)
        given = Inputs(spec["model"], Path(spec["data"]), lambda ref, kind: ref, Path(folder), {}, Ledger())
        algorithm = way.build(config, run, given)
        agreement = _agreement(algorithm, spec["method"])
        started = time.perf_counter()
        train_offline(algorithm, run)
        trained = time.perf_counter() - started
        run.close()
    return {
        "units": len(algorithm.train_rows),
        "seconds": seconds + trained,
        "version": __version__,
        "agreement": agreement,
        "gflop": _gflop(algorithm, spec["method"], referred=spec["method"] == "dpo" and not spec["precomputed"]),
    }


@torch.no_grad()
def _agreement(algorithm: Any, method: str) -> float:
    """The loss of the first rows before training; of DPO, whose loss is log 2, the sum of all log-probabilities."""
    algorithm.model.eval()
    loss = algorithm.loss(algorithm.train_rows[:AGREED])
    if method == "dpo":
        return float((loss.metrics["logps/chosen"] + loss.metrics["logps/rejected"]).mean())
    return float((loss.values * loss.weights).sum() / loss.weights.sum())


def _gflop(algorithm: Any, method: str, *, referred: bool) -> float:
    """Arithmetic of a pass over the rows, forward and backward: 6 x weights x tokens, attention left out.

    A shared prompt counts once, the head only where a completion's token is predicted, and what the last layer spares
    not at all. The reference's forward pass, where it is part of what is timed, is 2 more.
    """
    scores = method == "reward_model"
    model = algorithm.model["scorer"] if scores else algorithm.model
    body = getattr(model, model.base_model_prefix)
    weights = sum(p.numel() for name, p in body.named_parameters() if "embed" not in name)
    spared = sum(p.numel() for part in Trunk(model).last.parts for p in part.parameters())
    head = 0 if scores else model.get_output_embeddings().weight.numel()
    fields = {"sft": ("text",), "dpo": ("chosen", "rejected")}.get(method)
    work = 0
    for row in algorithm.train_rows:
        forest = Forest.plant([getattr(row, name) for name in fields] if fields else row.texts)
        predicted = forest.before()
        read = len(torch.unique(forest.last() if scores else predicted))
        work += (weights - spared) * len(forest.ids) + spared * read + head * len(predicted)
    return (8e-9 if referred else 6e-9) * work


if __name__ == "__main__":
    side(work)
