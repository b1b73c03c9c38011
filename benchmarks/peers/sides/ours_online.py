"""prefloop's rloo, grpo and ppo, by the same loop that `prefloop train` runs."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.material import score
from benchmarks.peers.race import side
from prefloop.algorithms import METHODS
from prefloop.generation.sampler import Sample
from prefloop.models.heads import trainable
from prefloop.models.load import load_tokenizer
from prefloop.models.template import Template
from prefloop.records import Ledger
from prefloop.settings import build_together
from prefloop.training.method import Inputs
from prefloop.training.online import objectives, train_online
from prefloop.training.rollout import make_rollout
from prefloop.training.run import Run
from prefloop.version import __version__

SETTINGS: dict[str, dict[str, Any]] = {
    "rloo": {},
    "grpo": {},
    "ppo": {"rollout_epochs": 4, "minibatches": 1},
}


def work(spec: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        if spec["measure"] == "agreement":
            return {"agreement": _agreement(spec, Path(folder) / "run")}
        algorithm, run = _built(spec, Path(folder) / "run", reference=spec["model"])
        ends: list[float] = []
        lengths: list[float] = []
        record = run.record

        def timed(step: int, values: Any) -> None:
            record(step, values)
            ends.append(time.perf_counter())
            lengths.append(values["length"])

        run.record = timed  # type: ignore[method-assign]
        train_online(algorithm, run)
        run.close()
    samples = run.settings.batch_size
    return {
        "units": samples * (len(ends) - 1),
        "seconds": ends[-1] - ends[0],
        "version": __version__,
        "tokens_per_sample": sum(lengths) / len(lengths),
    }


def _built(spec: dict[str, Any], folder: Path, reference: str) -> tuple[Any, Run]:
    way = METHODS[spec["work"]]
    samples = len(Path(spec["prompts"]).read_text().splitlines()) * spec["group"]
    mapping = {
        **way.defaults,
        "policy": spec["model"],
        "reference": reference,
        "reward_model": spec["reward"],
        "data": spec["prompts"],
        "dtype": spec["dtype"],
        "device": "cpu",
        "steps": spec["steps"],
        "batch_size": samples,
        "group_size": spec["group"],
        "max_new_tokens": spec["tokens"],
        "max_length": 1024,
        "missing_eos_score": None,
        "beta": 0.05,
        "lr": 1e-6,
        "test_share": 0.0,
        "micro_batch_tokens": 4096,
        **SETTINGS[spec["work"]],
    }
    settings, online, config = build_together(way.settings, mapping)
    run = Run(folder, spec["work"], settings, {"method": spec["work"]}, lambda words: None)
    run.begin(resume=False)
    data = Path(spec["prompts"])
    inputs = Inputs(spec["model"], data, lambda ref, kind: ref, folder, {}, Ledger(), online)
    algorithm = way.build(config, run, inputs)
    if spec["work"] != "ppo":  # both sides score the text; TRL's PPO knows reward models only
        algorithm.roles.reward = lambda prompts, completions, **columns: [score(text) for text in completions]
    return algorithm, run


def _agreement(spec: dict[str, Any], folder: Path) -> dict[str, float]:
    """What the given completions come to, before any step."""
    algorithm, run = _built(spec, folder, reference=spec["reference"])
    roles, given = algorithm.roles, json.loads(Path(spec["given"]).read_text())
    template = Template(load_tokenizer(spec["model"]))
    prompts = [json.loads(line)["prompt"] for line in Path(spec["prompts"]).read_text().splitlines()]
    prompts = [prompt for prompt in prompts for _ in range(spec["group"])]
    texts = [one["text"] for one in given]
    end = [template.eos_id] if spec["work"] == "ppo" else []
    ids = [template.tokenizer(text, add_special_tokens=False)["input_ids"] + end for text in texts]
    scores = roles.reward(prompts, texts)
    samples = [Sample(each, [0.0] * len(each)) for each in ids]
    heads = [template.prompt(prompt) for prompt in prompts]
    rollout = make_rollout(heads, samples, scores, template.pad_id, 0, torch.device("cpu"))
    measured = roles.measured(replace(rollout, beta=0.05, grouped=spec["group"]), 4096)
    prepared = algorithm.prepare(measured)
    found = {"reward": float(rollout.scores.mean()), "kl": float(objectives(measured)["objective/kl"].mean())}
    loss = algorithm.loss(prepared)
    total = (loss.values * loss.weights).sum() / algorithm.divisor(prepared)
    if spec["work"] == "ppo":  # TRL's says no more of itself than what it logs
        found |= {"loss/value": float(loss.metrics["loss/value_avg"].mean())}
    else:
        found |= {"advantage": float(prepared.added["advantages"].square().mean().sqrt())}
        total.backward()
        norm = torch.stack([p.grad.float().norm() for p in trainable([roles.policy]) if p.grad is not None]).norm()
        found |= {"loss": float(total.detach()), "gradient": float(norm)}
    run.close()
    assert isinstance(total, Tensor)
    return found


if __name__ == "__main__":
    side(work)
