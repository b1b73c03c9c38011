"""RL4LMs' toy task "increasing numbers": every online method, three seeds, one tiny policy.

    python -m benchmarks.increasing [--seeds 3] [--steps 50] [--methods ppo,rloo] [--out FOLDER]

The policy (two layers, a word of its vocabulary for each number) first learns to write 20 random numbers. The reward is
RL4LMs' (https://github.com/allenai/RL4LMs): the length of the strictly increasing beginning, divided by the number of
words, 10 at least; 1 is a whole answer in order. A policy that draws its numbers evenly gets about 0.09. All methods
get the same episodes: `steps` rollouts of 256. Written to FOLDER: increasing.json, and the curves as increasing.svg;
what was trained stays there, so that a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import prefloop
from prefloop.artifacts.files import write_json
from prefloop.artifacts.folder import MANIFEST
from prefloop.audits.charts import Line, line_chart, standalone
from prefloop.generation.policy import Policy
from prefloop.generation.sampler import Sampling
from prefloop.records import as_messages
from prefloop.training.run import read_metrics

NUMBERS, TOKENS, BATCH, MEASURED = 100, 20, 256, 512
SPECIAL = ("<pad>", "<bos>", "<eos>", "<user>", "<assistant>")
TEMPLATE = (
    "{{ '<bos>' }}{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<eos>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
SHARED: dict[str, Any] = {
    "device": "cpu",
    "dtype": "float32",
    "batch_size": BATCH,
    "max_new_tokens": TOKENS,
    "max_length": 64,
    "missing_eos_score": None,
    "beta": 0.001,  # in order, 20 numbers are 42 nats away from numbers at random
    "lr": 3e-3,
    "schedule": "linear",
    "test_share": 0.0,
    "log_every": 1,
    "checkpoint_seconds": 3600,
    "reward": {"increasing": {"function": "benchmarks.increasing:reward"}},
}
METHODS: dict[str, dict[str, Any]] = {
    "ppo": {"rollout_epochs": 4, "minibatches": 2, "value_coef": 0.5},
    "a2c": {"minibatches": 2},
    "reinforce": {"minibatches": 2},
    "rloo": {"group_size": 8, "minibatches": 2},
    "grpo": {"group_size": 8, "minibatches": 2},
    "trpo": {"max_kl": 0.02},
    "nlpo": {"rollout_epochs": 4, "minibatches": 2, "value_coef": 0.5, "top_p": 0.9, "min_tokens": 20},
    "rft": {"group_size": 8, "keep": 2, "minibatches": 2},
    "online_dpo": {"group_size": 4, "beta": 0.1},
}
"""What each method has of its own."""


def reward(completions: Sequence[str]) -> list[float]:
    """The strictly increasing beginning's share of each text."""
    return [_share(text.split()) for text in completions]


def _share(words: Sequence[str]) -> float:
    numbers = [int(word) for word in words if word.isdigit()]
    if not numbers:
        return 0.0
    length = next((i for i in range(1, len(numbers)) if numbers[i] <= numbers[i - 1]), len(numbers))
    return length / max(len(words), TOKENS / 2)


def write_model(folder: Path, seed: int = 0) -> Path:
    """A Llama of two layers and a tokenizer in which a number is a token."""
    import torch
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *map(str, range(NUMBERS))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", chat_template=TEMPLATE
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def base_policy(folder: Path, sequences: int) -> Path:
    """A policy that has learned to write 20 random numbers after any number."""
    stream = random.Random(0)
    rows = [
        {"prompt": str(i % NUMBERS), "completion": " ".join(str(stream.randrange(NUMBERS)) for _ in range(TOKENS - 1))}
        for i in range(sequences)
    ]
    (folder / "random.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"lr": 1e-3, "batch_size": 32, "device": "cpu", "dtype": "float32", "test_share": 0.0, "max_length": 64}
    model = write_model(folder / "model")
    base = folder / "base"
    data = folder / "random.jsonl"
    prefloop.train("sft", data=data, policy=model, out=base, overrides=settings, resume=True, log=_quiet)
    return base


def measured(policy: Path) -> float:
    """Mean reward of fresh samples."""
    prompts = [as_messages(str(i % NUMBERS)) for i in range(MEASURED)]
    groups = Policy(policy, device="cpu", dtype="float32").answer(prompts, 1, Sampling(max_new_tokens=TOKENS), seed=99)
    return mean(reward([group[0].text for group in groups]))


def main(seeds: int, steps: int, methods: Sequence[str], out: Path, sequences: int = 4000) -> dict[str, Any]:
    """Raises SystemExit where `out` has runs of other lengths."""
    out.mkdir(parents=True, exist_ok=True)
    base = out / "base"
    if not (base / MANIFEST).is_file():
        base_policy(out, sequences)
    start = measured(base)
    print(f"base: {start:.3f}", flush=True)
    result: dict[str, Any] = {"base": start, "seeds": seeds, "steps": steps, "batch": BATCH, "methods": {}}
    for method in methods:
        places = [trained(method, seed, steps, base, out) for seed in range(seeds)]
        finals = [measured(place) for place in places]
        metrics = [read_metrics(place / "metrics.jsonl") for place in places]
        kls = [rows[-1]["objective/kl"] for rows in metrics]
        spread = stdev(finals) if seeds > 1 else None
        result["methods"][method] = {
            "reward": finals,
            "mean": mean(finals),
            "sd": spread,
            "kl": kls,
            "curve": [mean(row["objective/scores"] for row in rows) for rows in zip(*metrics, strict=True)],
            "seconds": [round(manifest(place)["seconds"]) for place in places],
        }
        around = "" if spread is None else f" ± {spread:.3f}"
        print(f"{method}: {mean(finals):.3f}{around}, KL {mean(kls):.1f} nats", flush=True)
        write_json(out / "increasing.json", result)
        (out / "increasing.svg").write_text(picture(result), encoding="utf-8")
    return result


def trained(method: str, seed: int, steps: int, base: Path, out: Path) -> Path:
    """The result of a run, made now or before."""
    place = out / f"{method}-{seed}"
    if (place / MANIFEST).is_file():
        made = manifest(place)["settings"]["steps"]
        if made != steps:
            raise SystemExit(f"{place} was trained for {made} rollouts, not {steps}: give another --out")
    else:
        settings = {**SHARED, **METHODS[method], "seed": seed, "steps": steps}
        data = out / "random.jsonl"
        prefloop.train(method, data=data, policy=base, out=place, overrides=settings, resume=True, log=_quiet)
    return place


def manifest(place: Path) -> dict[str, Any]:
    """Of a run that is done."""
    found: dict[str, Any] = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    return found


def picture(result: dict[str, Any]) -> str:
    """The reward of every method, rollout by rollout, as SVG."""
    lines = [Line(name, name, [list(enumerate(one["curve"], 1))]) for name, one in result["methods"].items()]
    about = f"Mean reward of each rollout's answers, over {result['seeds']} seeds; {result['base']:.2f} before."
    chart = line_chart("increasing", "Increasing numbers", about, lines, from_zero=True, x_name="rollout", named=True)
    return standalone(chart, style(list(result["methods"])))


def style(names: Sequence[str]) -> str:
    """A colour for each method, spread over the circle."""
    general = "svg{font:11px sans-serif;background:#fff}.line{fill:none}.grid{stroke:#ccc}.raw{opacity:.2}"
    colours = [f"hsl({360 * i // len(names)},70%,38%)" for i in range(len(names))]
    own = [f".line.{n}{{stroke:{c}}}.axis.{n},.end.{n}{{fill:{c}}}" for n, c in zip(names, colours, strict=True)]
    return general + "".join(own)


def _quiet(words: str) -> None:
    print(words, file=sys.stderr) if "failed" in words else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--sequences", type=int, default=4000, help="that the base policy learns from")
    parser.add_argument("--out", type=Path, default=Path("increasing"))
    given = parser.parse_args()
    main(given.seeds, given.steps, given.methods.split(","), given.out, given.sequences)
