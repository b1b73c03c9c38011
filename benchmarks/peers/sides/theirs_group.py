"""TRL's RLOO or GRPO trainer: `prompts` prompts a step, `group` completions of each, all of `tokens` tokens at most.

Gradient checkpointing, which it switches on, is off: it saves memory that is not short here, and costs time.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from benchmarks.peers.material import score
from benchmarks.peers.race import side

CLASSES = {"rloo": (trl.RLOOConfig, trl.RLOOTrainer), "grpo": (trl.GRPOConfig, trl.GRPOTrainer)}


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())


def work(spec: dict[str, Any]) -> dict[str, Any]:
    config_class, trainer_class = CLASSES[spec["work"]]
    rows = [json.loads(line) for line in Path(spec["prompts"]).read_text().splitlines()]
    made: list[int] = []

    def reward(completions: list[Any], completion_ids: list[list[int]], **columns: Any) -> list[float]:
        made.append(sum(map(len, completion_ids)))
        return [score(completion[0]["content"]) for completion in completions]

    samples = spec["batch"] * spec["group"]
    config = config_class(
        output_dir=spec["folder"],
        per_device_train_batch_size=samples,
        num_generations=spec["group"],
        max_completion_length=spec["tokens"],
        temperature=1.0,
        top_k=0,
        beta=0.05,
        learning_rate=1e-6,
        max_steps=spec["steps"],
        gradient_checkpointing=False,
        bf16=spec["dtype"] == "bfloat16",
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        seed=0,
    )
    clock = Clock()
    trainer_class(
        model=AutoModelForCausalLM.from_pretrained(spec["model"], dtype=getattr(torch, spec["dtype"])),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(spec["model"]),
        callbacks=[clock],
    ).train()
    return {
        "units": samples * (len(clock.ends) - 1),
        "seconds": clock.ends[-1] - clock.ends[0],
        "version": trl.__version__,
        "tokens_per_sample": sum(made) / len(made) / samples,
    }


if __name__ == "__main__":
    side(work)
