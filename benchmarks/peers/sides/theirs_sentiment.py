"""TRL's RLOO or GRPO trainer on controlled sentiment, with our policy, prompts, reward model, episodes and rate.

What is not named here is TRL's default. The reward is the reward model's own score of prompt, completion and EOS, and
before training the scores of given texts are compared with ours, so that both are known to learn from the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.peers.race import side

CLASSES = {"rloo": (trl.RLOOConfig, trl.RLOOTrainer), "grpo": (trl.GRPOConfig, trl.GRPOTrainer)}


class Judge:
    """The reward model, as the transformers library reads it."""

    def __init__(self, folder: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        found = []
        for prompt, completion in zip(prompts, completions, strict=True):
            text = completion if isinstance(completion, str) else completion[0]["content"]
            start = self.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
            ids = self.tokenizer(start + text, add_special_tokens=False)["input_ids"] + [self.tokenizer.eos_token_id]
            found.append(float(self.model(input_ids=torch.tensor([ids])).logits[0, 0]))
        return found


def work(spec: dict[str, Any]) -> dict[str, Any]:
    judge = Judge(spec["reward"])
    given = json.loads(Path(spec["given"]).read_text())
    scores = judge([one["prompt"] for one in given], [one["completion"] for one in given])
    # A constant is nothing to a group: prefloop keeps the bias of a reward model in a key of its own.
    apart = [
        (a - b) - (x["score"] - y["score"]) for a, b, x, y in zip(scores, scores[1:], given, given[1:], strict=False)
    ]
    if max(map(abs, apart)) > 0.05:
        raise SystemExit(f"this is another reward: scores are {max(map(abs, apart)):.3f} apart")
    config_class, trainer_class = CLASSES[spec["work"]]
    # GRPO as the paper has it, and as prefloop does: the mean over completions, the KL not weighed by the ratio.
    paper: dict[str, Any] = {"loss_type": "grpo", "use_bias_correction_kl": False}
    config = config_class(
        output_dir=spec["folder"],
        per_device_train_batch_size=spec["micro"],
        gradient_accumulation_steps=spec["batch"] // spec["micro"],
        num_generations=spec["group"],
        max_completion_length=spec["tokens"],
        temperature=1.0,
        top_k=0,
        beta=spec["beta"],
        learning_rate=spec["lr"],
        max_steps=spec["steps"],
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        logging_steps=10,
        disable_tqdm=True,
        seed=spec["seed"],
        **(paper if spec["work"] == "grpo" else {}),
    )
    tokenizer = AutoTokenizer.from_pretrained(spec["policy"])
    prompts = [{"prompt": prompt} for prompt in json.loads(Path(spec["prompts"]).read_text())]
    trainer = trainer_class(
        model=AutoModelForCausalLM.from_pretrained(spec["policy"], dtype=torch.float32),
        reward_funcs=judge,
        args=config,
        train_dataset=Dataset.from_list(prompts),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.model.save_pretrained(spec["out"])
    tokenizer.save_pretrained(spec["out"])
    return {"units": spec["steps"] * spec["batch"], "seconds": 1.0, "version": trl.__version__}


if __name__ == "__main__":
    side(work)
