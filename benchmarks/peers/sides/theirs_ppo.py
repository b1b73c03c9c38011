"""TRL 1.12's PPO trainer: all prompts in each step, `group` times each, `tokens` tokens at most, four passes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from benchmarks.peers.race import side


class Clock(TrainerCallback):
    """When each step ended, and what was logged."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.logged: dict[str, float] = {}

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        self.logged |= logs


def work(spec: dict[str, Any]) -> dict[str, Any]:
    if spec["measure"] == "agreement":
        return {"agreement": _agreement(spec)}
    clock = _trained(spec, passes=4, steps=spec["steps"], reference=spec["model"], micro=spec["micro"])
    samples = spec["group"] * len(Path(spec["prompts"]).read_text().splitlines())
    return {
        "units": samples * (len(clock.ends) - 1),
        "seconds": clock.ends[-1] - clock.ends[0],
        "version": trl.__version__,
    }


def _trained(spec: dict[str, Any], *, passes: int, steps: int, reference: str, micro: int) -> Clock:
    tokenizer = AutoTokenizer.from_pretrained(spec["model"], padding_side="left")
    prompts = [json.loads(line)["prompt"] for line in Path(spec["prompts"]).read_text().splitlines()]
    ids = [tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False) for prompt in prompts]
    data = Dataset.from_list([{"input_ids": one} for one in ids for _ in range(spec["group"])])
    dtype = getattr(torch, spec["dtype"])
    policy, ref = (AutoModelForCausalLM.from_pretrained(at, dtype=dtype) for at in (spec["model"], reference))
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(spec["reward"], dtype=dtype, num_labels=1) for _ in range(2)
    )
    config = PPOConfig(
        output_dir=spec["folder"],
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=len(data) // micro,
        num_mini_batches=1,
        num_ppo_epochs=passes,
        total_episodes=steps * len(data),
        local_rollout_forward_batch_size=len(data),
        response_length=spec["tokens"],
        temperature=1.0,
        stop_token="eos",
        kl_coef=0.05,
        learning_rate=1e-6,
        gradient_checkpointing=False,
        bf16=spec["dtype"] == "bfloat16",
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        num_sample_generations=0,
        logging_steps=1,
        disable_tqdm=True,
        seed=0,
    )
    clock = Clock()
    PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=ref,
        reward_model=reward,
        value_model=value,
        train_dataset=data,
        eval_dataset=data,
        callbacks=[clock],
    ).train()
    return clock


def _agreement(spec: dict[str, Any]) -> dict[str, float]:
    """What the given completions come to: the trainer's own step, its sampling replaced by them."""
    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    prompts = [json.loads(line)["prompt"] for line in Path(spec["prompts"]).read_text().splitlines()]
    given = [one["text"] for one in json.loads(Path(spec["given"]).read_text())]
    answers: dict[tuple[int, ...], list[list[int]]] = {}
    for i, prompt in enumerate(prompts):
        ids = tuple(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False))
        texts = given[i * spec["group"] : (i + 1) * spec["group"]]
        end = [tokenizer.eos_token_id]
        answers[ids] = [tokenizer(text, add_special_tokens=False)["input_ids"] + end for text in texts]
    honest = ppo_trainer.batch_generation

    @torch.no_grad()
    def batch_generation(model: Any, queries: torch.Tensor, batch: int, pad: int, config: Any) -> Any:
        rows = [answers[tuple(t for t in query.tolist() if t != pad)].pop() for query in queries]
        whole = torch.cat([queries, torch.tensor(rows)], 1)
        mask = whole != pad
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        logits = model(input_ids=whole, attention_mask=mask, position_ids=positions).logits
        return whole, logits[:, queries.shape[1] - 1 : -1]

    ppo_trainer.batch_generation = batch_generation
    try:
        clock = _trained(spec, passes=1, steps=1, reference=spec["reference"], micro=len(given))
    finally:
        ppo_trainer.batch_generation = honest
    names = {"reward": "objective/scores", "kl": "objective/kl", "loss/value": "loss/value_avg"}
    return {name: float(clock.logged[theirs]) for name, theirs in names.items()}


if __name__ == "__main__":
    side(work)
