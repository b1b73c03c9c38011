"""TRL's RewardTrainer, DPOTrainer and SFTTrainer on the same rows. Runs in TRL's environment: nothing of prefloop's."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.peers.race import side

AGREED = 8


def work(spec: dict[str, Any]) -> dict[str, Any]:
    method = spec["method"]
    rows = [json.loads(line) for line in Path(spec["data"]).read_text().splitlines()]
    if method == "sft":
        rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    auto = AutoModelForSequenceClassification if method == "reward_model" else AutoModelForCausalLM
    dtype = getattr(torch, spec["dtype"])
    model = auto.from_pretrained(spec["model"], dtype=dtype, attn_implementation=spec["attention"])
    make, config = {
        "reward_model": (trl.RewardTrainer, trl.RewardConfig),
        "dpo": (trl.DPOTrainer, trl.DPOConfig),
        "sft": (trl.SFTTrainer, trl.SFTConfig),
    }[method]
    micro = spec["micro"]
    settings: dict[str, Any] = {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": spec["batch"] // micro,
        "gradient_checkpointing": False,  # it is on by default, and slower
        "train_sampling_strategy": "group_by_length" if method == "sft" else "random",
        "num_train_epochs": 1,
        "max_length": 1024,
        "logging_steps": 1000,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": spec["dtype"] == "bfloat16",
        "fp16": False,
        "disable_tqdm": True,
        "seed": 0,
    }
    if method == "dpo":
        settings["precompute_ref_log_probs"] = spec["precomputed"]
    if method == "sft":
        settings["completion_only_loss"] = True
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = AutoTokenizer.from_pretrained(spec["model"])
        trainer = make(
            model=model,
            args=config(output_dir=folder, **settings),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        agreement = _agreement(trainer, method)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    return {"units": len(rows), "seconds": seconds, "version": trl.__version__, "agreement": agreement}


@torch.no_grad()
def _agreement(trainer: Any, method: str) -> float:
    """The loss of the first rows before training; of DPO, whose loss is log 2, the sum of all log-probabilities."""
    trainer.model.eval()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(AGREED)])
    loss = float(trainer.compute_loss(trainer.model, batch))
    if method == "dpo":
        kept = trainer._metrics["eval"]
        loss = kept["logps/chosen"][-1] + kept["logps/rejected"][-1]
    for kept in trainer._metrics.values():
        kept.clear()
    return loss


if __name__ == "__main__":
    side(work)
