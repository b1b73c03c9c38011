"""TRL's RLOO or GRPO trainer: all prompts in each step, `group` completions of each, of `tokens` tokens at most.

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
    rows = [json.loads(line) for line in Path(spec["prompts"]).read_text().splitlines()]
    samples = len(rows) * spec["group"]
    if spec["measure"] == "agreement":
        return {"agreement": _agreement(spec, _trainer(spec, rows, samples)[0], rows)}
    trainer, clock, made = _trainer(spec, rows, spec["micro"])
    trainer.train()
    return {
        "units": samples * (len(clock.ends) - 1),
        "seconds": clock.ends[-1] - clock.ends[0],
        "version": trl.__version__,
        "tokens_per_sample": sum(made) / len(made) / samples,
    }


def _trainer(spec: dict[str, Any], rows: list[dict[str, Any]], micro: int) -> tuple[Any, Clock, list[int]]:
    config_class, trainer_class = CLASSES[spec["work"]]
    made: list[int] = []

    def reward(completions: list[Any], completion_ids: list[list[int]], **columns: Any) -> list[float]:
        made.append(sum(map(len, completion_ids)))
        return [score(completion[0]["content"]) for completion in completions]

    # As the paper has it: the mean over completions, and the KL not weighed by the ratio (both are TRL's choice too).
    paper: dict[str, Any] = {"loss_type": "grpo", "use_bias_correction_kl": False}
    settings = paper if spec["work"] == "grpo" else {}
    config = config_class(
        output_dir=spec["folder"],
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=len(rows) * spec["group"] // micro,
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
        disable_tqdm=True,
        seed=0,
        **settings,
    )
    clock = Clock()
    trainer = trainer_class(
        model=AutoModelForCausalLM.from_pretrained(spec["model"], dtype=getattr(torch, spec["dtype"])),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(spec["model"]),
        callbacks=[clock],
    )
    return trainer, clock, made


def _agreement(spec: dict[str, Any], trainer: Any, rows: list[dict[str, Any]]) -> dict[str, float]:
    """What the given completions come to, before any step; another reference than the policy, so that there is KL."""
    given = [one["text"] for one in json.loads(Path(spec["given"]).read_text())]
    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in given]
    trainer._generate_single_turn = lambda *args: ids if spec["work"] == "rloo" else (ids, None)
    other = AutoModelForCausalLM.from_pretrained(spec["reference"])
    trainer.ref_model.load_state_dict(other.state_dict())
    trainer.current_gradient_accumulation_steps = 1  # set when it trains
    trainer.model.train()
    inputs = trainer._generate_and_score_completions([row for row in rows for _ in range(spec["group"])])
    mask = inputs["completion_mask"]
    logprobs = trainer._get_per_token_logps_and_entropies(
        trainer.model,
        torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
        torch.cat([inputs["prompt_mask"], mask], 1),
        mask.shape[1],
    )[0].detach()
    reference = trainer._get_per_token_logps_and_entropies(
        trainer.ref_model,
        torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
        torch.cat([inputs["prompt_mask"], mask], 1),
        mask.shape[1],
    )[0].detach()
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    norm = torch.stack([p.grad.float().norm() for p in trainer.model.parameters() if p.grad is not None]).norm()
    return {
        "reward": sum(score(text) for text in given) / len(given),
        "kl": float(((logprobs - reference) * mask).sum(1).mean()),
        "advantage": float(inputs["advantages"].square().mean().sqrt()),
        "loss": float(loss.detach()),
        "gradient": float(norm),
    }


if __name__ == "__main__":
    side(work)
