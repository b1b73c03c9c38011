"""Training jobs of a few seconds: their data, their reward model, and the settings that keep them small."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FRUITS = ["apple", "pear", "plum", "fig", "kiwi", "lime", "date", "nut"]

SETTINGS: dict[str, dict[str, Any]] = {
    "pretrain": {
        "batch_size": 4,
        "steps": 6,
        "max_length": 16,
        "tokenizer_sample": 4000,
        "shape": {
            "vocab_size": 300,
            "hidden_size": 16,
            "layers": 1,
            "heads": 2,
            "intermediate_size": 32,
            "positions": 64,
        },
    },
    "sft": {"batch_size": 4, "epochs": 3, "max_length": 64},
    "reward_model": {"batch_size": 4, "epochs": 3, "max_length": 64},
    "cost_model": {"batch_size": 4, "epochs": 3, "max_length": 64},
    "maml": {"batch_size": 2, "epochs": 4, "max_length": 64, "support": 2, "query": 2},
    "dpo": {"batch_size": 4, "epochs": 3, "max_length": 64},
    "ipo": {"batch_size": 4, "epochs": 3, "max_length": 64},
    "apo": {"batch_size": 4, "epochs": 3, "max_length": 64},
    "simpo": {"batch_size": 4, "epochs": 3, "max_length": 64},
    "orpo": {"batch_size": 4, "epochs": 3, "max_length": 64},
    "kto": {"batch_size": 8, "epochs": 3, "max_length": 64},
    "ranked_dpo": {"batch_size": 4, "epochs": 3, "max_length": 64},
    "ilql": {"batch_size": 4, "epochs": 3, "max_length": 64, "polyak": 0.1},
    "alol": {"batch_size": 4, "epochs": 3, "max_length": 64, "value_epochs": 2, "max_new_tokens": 8},
    "awr": {"batch_size": 4, "epochs": 3, "max_length": 64},
    "cpl": {"batch_size": 4, "epochs": 3, "max_length": 64},
    "q_learning": {"batch_size": 4, "epochs": 3, "max_length": 64, "renew_every": 2},
    "iqlearn": {"batch_size": 4, "epochs": 3, "max_length": 64},
    "spin": {"batch_size": 4, "epochs": 3, "max_length": 64, "max_new_tokens": 8, "rounds": 2},
    "adversarial": {"batch_size": 6, "steps": 4, "max_length": 64, "max_new_tokens": 8, "minibatches": 2},
    "ppo": {
        "batch_size": 6,
        "steps": 5,
        "max_length": 64,
        "max_new_tokens": 8,
        "rollout_epochs": 2,
        "minibatches": 2,
        "kl_target": 1.0,
    },
}
ONLINE: dict[str, Any] = {"batch_size": 6, "steps": 5, "max_length": 64, "max_new_tokens": 8, "missing_eos_score": None}
"""The tiny model hardly ever ends in eight tokens: with a fixed score all would be alike, and nothing to learn."""
SETTINGS |= {
    "a2c": {**ONLINE, "minibatches": 2},
    "reinforce": {**ONLINE, "minibatches": 2},
    "rloo": {**ONLINE, "rollout_epochs": 2, "group_size": 3},
    "dqn": {**ONLINE, "minibatches": 2, "replay": 20, "renew_every": 2},
    "trpo": {**ONLINE, "critic_steps": 2},
    "nlpo": {
        **ONLINE,
        "rollout_epochs": 2,
        "minibatches": 2,
        "top_p": 0.5,
        "min_tokens": 5,
        "mask_every": 2,
    },
    "rft": {**ONLINE, "minibatches": 2, "group_size": 3},
    "online_dpo": {**ONLINE, "group_size": 3},
    "grpo": {**ONLINE, "rollout_epochs": 2, "minibatches": 2, "group_size": 3},
}
"""What each method is run with; a learning rate of 1e-3 and float32 on the CPU come on top."""

DATA = {"rewards": "log.jsonl", "cost_model": "safety.jsonl", "maml": "annotated.jsonl"}
"""The file of `write_inputs` for a method, or for what it needs; comparisons serve every other."""


def write_pairs(path: Path, n: int = 12, annotators: int = 0) -> Path:
    """Comparisons: of two fruits the one that comes first is preferred; some answers are longer than others.

    With `annotators` so many people said it, by turns.
    """
    rows = [
        {
            "prompt": f"Which fruit, number {i}?",
            "chosen": FRUITS[i % 4] + " please" * (i % 3),
            "rejected": FRUITS[4 + i % 4],
            **({"annotator": f"person {i % annotators}"} if annotators else {}),
        }
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_log(path: Path, n: int = 12) -> Path:
    """Completions with a reward: the later the fruit in the list, the less; some are longer than others."""
    rows = [
        {
            "prompt": f"Which fruit, number {i}?",
            "completion": FRUITS[i % 8] + " please" * (i % 3),
            "reward": 1.0 - (i % 8) / 4,
        }
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_safety(path: Path, n: int = 12) -> Path:
    """Which of two fruits is safer; the first four are safe, and some answers are longer than others."""
    rows = []
    for i in range(n):
        safer, other = FRUITS[i % 4] + " please" * (i % 3), FRUITS[(i + 1 + i % 4) % 8]
        signs = {"chosen_safe": True, "rejected_safe": FRUITS.index(other) < 4}
        rows.append({"prompt": f"Which fruit, number {i}?", "chosen": safer, "rejected": other, **signs})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_text(path: Path) -> Path:
    """Documents for pretraining."""
    lines = [json.dumps({"text": f"Document {i}: " + " ".join(FRUITS[: 2 + i % 6])}) + "\n" for i in range(30)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def write_reward_model(policy: Path, folder: Path) -> Path:
    """A reward model with a head of random numbers."""
    import torch

    from prefloop.models.heads import ScoreHead
    from prefloop.models.load import load_reward_model, load_tokenizer, save_model

    model = load_reward_model(policy, torch.float32, torch.device("cpu"), new_head=True)
    model.config.pad_token_id = 0
    ScoreHead(model).initialise(seed=3)
    save_model(model, load_tokenizer(policy), folder)
    return folder


def settings_of(method: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a small job; `folder` holds what `write_inputs` wrote."""
    from prefloop.algorithms import METHODS

    values: dict[str, Any] = {
        "device": "cpu",
        "dtype": "float32",
        "lr": 1e-3,
        "warmup": 0,
        "log_every": 2,
        "test_share": 0.0,
        **SETTINGS[method],
    }
    if method == "pretrain":
        values |= {"text": [{"path": str(folder / "text.jsonl"), "tokens": 2000}]}
    else:
        values |= {
            "policy": str(folder / "policy"),
            "data": str(folder / DATA.get(method, DATA.get(METHODS[method].data, "pairs.jsonl"))),
        }
    if METHODS[method].loop == "online" and method != "adversarial":  # its reward is its own discriminator
        values["reward_model"] = str(folder / "rm")
    return {**values, **changes}


def write_inputs(folder: Path) -> Path:
    """A policy, a reward model, comparisons and text: what every method needs."""
    from tests.tiny import write_tiny_model

    folder.mkdir(parents=True, exist_ok=True)
    write_tiny_model(folder / "policy")
    write_reward_model(folder / "policy", folder / "rm")
    write_pairs(folder / "pairs.jsonl")
    write_pairs(folder / "annotated.jsonl", annotators=3)
    write_log(folder / "log.jsonl")
    write_safety(folder / "safety.jsonl")
    write_text(folder / "text.jsonl")
    return folder


def write_inputs_with_adapter(folder: Path, rank: int) -> Path:
    """With `adapter`, too: a reward model that was trained with lora of this rank from `policy`."""
    from prefloop.workflows.training import train

    write_inputs(folder)
    settings = settings_of("reward_model", folder, lora={"rank": rank}, lr=1e-2, epochs=2)
    train("reward_model", out=folder / "adapter", overrides=settings, log=lambda words: None)
    return folder


def build(method: str, inputs: Path, folder: Path, *, ledger: Any = None, **changes: Any) -> tuple[Any, Any]:
    """(algorithm, run): a method put together as `train` does it, but not yet trained; `ledger` is written into."""
    from prefloop.algorithms import METHODS
    from prefloop.records import Ledger
    from prefloop.settings import build_together
    from prefloop.training.method import Inputs
    from prefloop.training.run import Run

    way = METHODS[method]
    mapping = {**way.defaults, **settings_of(method, inputs, **changes)}
    settings, *online, config = build_together(way.settings, mapping)
    run = Run(folder, method, settings, {"method": method}, log=lambda words: None)
    run.begin(resume=False)
    data = Path(settings.data) if settings.data else None
    given = Inputs(settings.policy, data, lambda ref, kind: ref, inputs, {}, ledger or Ledger(), *online)
    return way.build(config, run, given), run


def weights_of(
    folder: Path,
    files: Sequence[str] = (
        "model.safetensors",
        "critic/model.safetensors",
        "value_heads.safetensors",
        "discriminator/model.safetensors",
    ),
) -> dict[str, str]:
    """SHA-256 of each weights file that a trained model's folder has."""
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files if (folder / name).exists()
    }
