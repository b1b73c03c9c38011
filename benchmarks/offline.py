"""Small reproductions of what offline methods claim, on tasks that a core solves in seconds to minutes.

python -m benchmarks.offline [TASK ...] [--seeds N] [--out FOLDER] [--scale SHARE]

Tasks: walks corrupted grid demonstrations imitation spin. Everything is trained from new weights: two layers, width 64,
one token per word. Each line is a mean over seeds with the standard deviation between them; a task's figures are those
of samples at temperature 1, all starts alike, unless they say "greedily". With --out each seed's figures are a file
there as soon as they are known, and a run that was stopped goes on behind the last of them. --scale 0.02 trains with so
many of the steps, to see that it runs; such figures say nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from prefloop.artifacts.files import write_json
from prefloop.generation.policy import Policy
from prefloop.generation.sampler import Sampling
from prefloop.records import Messages, as_messages
from prefloop.workflows.training import train

Row = dict[str, Any]
COMMON = {"device": "cpu", "dtype": "float32", "test_share": 0.0, "max_length": 32, "schedule": "cosine", "lr": 2e-3}
COMMON |= {"log_every": 100, "checkpoint_seconds": 1e9, "micro_batch_tokens": 1 << 16, "warmup": 10}
ONLINE: Row = {"steps": 60, "batch_size": 128, "rollout_epochs": 2, "minibatches": 4, "lr": 5e-4, "warmup": 0}
ONLINE |= {"beta": 0.02, "missing_eos_score": None, "max_dropped": 1.0}
CLONED: Row = {"steps": 400, "batch_size": 25, "max_dropped": 1.0, "lr": 1e-3}
"""A clone of 100 demonstrations from which little more is to be had by cloning on: after 100 steps there still was."""


def write_policy(folder: Path, words: Sequence[str], seed: int) -> Path:
    """A new model whose tokens are these words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<eos>", *words])}, unk_token="<eos>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(words) + 1,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=32,
        eos_token_id=0,
        bos_token_id=0,
        **{f"{part}_pdrop": 0.0 for part in ("resid", "embd", "attn")},
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Bench:
    """One seed of one task: its folder, and what is trained in it."""

    scale = 1.0
    """Share of the steps that is really taken."""

    def __init__(self, folder: Path, words: Sequence[str], seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.start = str(write_policy(folder / "start", words, seed))

    def data(self, name: str, rows: Iterable[Row]) -> str:
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def train(self, method: str, name: str, data: str, policy: str | None = None, **settings: Any) -> str:
        values = {**COMMON, "seed": self.seed, "data": data, "policy": policy or self.start, **settings}
        values["steps"] = max(2, round(self.scale * values["steps"]))
        train(method, out=self.folder / name, overrides=values, log=lambda words: None)
        return str(self.folder / name)

    def ppo(self, name: str, data: str, policy: str, tokens: int, **settings: Any) -> str:
        """Online, from a policy that was cloned; `settings` name the reward."""
        return self.train("ppo", name, data, policy, **ONLINE, max_new_tokens=tokens, **settings)

    def sampled(
        self,
        policy: str,
        prompts: Sequence[str],
        per_prompt: int,
        tokens: int,
        beta: float | None = None,
        temperature: float = 1.0,
    ) -> list[tuple[str, str]]:
        actor = Policy(policy, device="cpu", dtype="float32", beta=beta)
        messages = [as_messages(prompt) for prompt in prompts]
        sampling = Sampling(max_new_tokens=tokens, temperature=temperature)
        groups = actor.answer(messages, per_prompt, sampling, seed=self.seed)
        return [(p, c.text) for p, group in zip(prompts, groups, strict=True) for c in group]


# -- random walks: trlx's task -------------------------------------------------------------------------------------


class Walks:
    """21 nodes, each pair joined with probability 0.1; the goal is node a, where a walk ends; 1,000 random walks.

    Graphs in which fewer than half of the nodes lead to the goal are drawn again (trlx keeps them).

    The score of a walk is trlx's optimality: (10 - its nodes) / (10 - the fewest possible), 0 for one that breaks an
    edge or does not arrive (https://github.com/CarperAI/trlx, examples/randomwalks).
    """

    NODES, LONGEST, COUNT, EDGE = 21, 10, 1000, 0.1

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        while True:
            self.edges = {
                a: [b for b in range(self.NODES) if a != b and chance.random() < self.EDGE] for a in range(self.NODES)
            }
            self.edges[0] = []
            if not all(self.edges[a] for a in range(1, self.NODES)):
                continue
            self.fewest = {n: self._fewest(n) for n in range(1, self.NODES)}
            if sum(length < self.LONGEST for length in self.fewest.values()) >= self.NODES // 2:
                break
        self.words = [chr(ord("a") + n) for n in range(self.NODES)]
        self.walks = [self._walk(chance) for _ in range(self.COUNT)]

    def _fewest(self, start: int) -> int:
        """Nodes on the shortest way to the goal, both ends counted; LONGEST where there is none."""
        reached, front, length = {start}, {start}, 1
        while front and 0 not in front:
            front = {b for a in front for b in self.edges[a]} - reached
            reached |= front
            length += 1
        return min(length, self.LONGEST) if front else self.LONGEST

    def _walk(self, chance: random.Random) -> list[int]:
        walk = [chance.randrange(1, self.NODES)]
        while len(walk) < self.LONGEST and walk[-1] != 0:
            walk.append(chance.choice(self.edges[walk[-1]]))
        return walk

    def score(self, walk: Sequence[int]) -> float:
        if self.fewest[walk[0]] == self.LONGEST:
            return 0.0
        nodes = self.LONGEST
        for place, node in enumerate(walk):
            if place and node not in self.edges[walk[place - 1]]:
                break
            if node == 0:
                nodes = place + 1
                break
        return (self.LONGEST - nodes) / (self.LONGEST - self.fewest[walk[0]])

    def text(self, nodes: Sequence[int]) -> str:
        return " ".join(self.words[n] for n in nodes)

    def nodes(self, text: str) -> list[int]:
        return [self.words.index(word) for word in text.split()]


def walk_reward(seed: int) -> Callable[..., list[float]]:
    """The score of walks in the graph of a seed, as a reward function."""
    world = Walks(1000 + seed)

    def score(prompts: Sequence[Messages], completions: Sequence[str]) -> list[float]:
        both = zip(prompts, completions, strict=True)
        return [world.score([*world.nodes(prompt[-1]["content"]), *world.nodes(text)]) for prompt, text in both]

    return score


def walks(seed: int, folder: Path) -> dict[str, float]:
    """Behaviour cloning against methods that know the score of each walk, and PPO, which also walks itself."""
    world = Walks(1000 + seed)
    bench = Bench(folder, world.words, seed)
    rows: list[Row] = [
        {"prompt": world.text(w[:1]), "completion": world.text(w[1:]), "reward": world.score(w)} for w in world.walks
    ]
    log = bench.data("log", rows)
    starts = [world.text([n]) for n in world.fewest if world.fewest[n] < world.LONGEST]
    steps: Row = {"steps": 200, "batch_size": 100}

    def measured(policy: str, beta: float | None = None) -> float:
        drawn = bench.sampled(policy, starts, 20, world.LONGEST - 1, beta)
        return statistics.mean(world.score([*world.nodes(p), *world.nodes(text)]) for p, text in drawn)

    log_mean = statistics.mean(row["reward"] for row in rows if row["prompt"] in starts)
    cloned = bench.train("sft", "bc", log, **steps)
    ilql = bench.train("ilql", "ilql", log, **steps, expectile=0.8, cql=0.1, polyak=0.1)
    half: Row = {**steps, "steps": 100}
    rewarded = {"score": {"function": "benchmarks.offline:walk_reward", "arguments": {"seed": seed}}}
    return {
        "the log itself": log_mean,
        "behaviour cloning": measured(cloned),
        "best 20 % cloned": measured(bench.train("awr", "filter", log, **steps, weighting="filter", share=0.2)),
        "awr": measured(bench.train("awr", "awr", log, **steps, temperature=0.3)),
        "a-lol (from the clone)": measured(bench.train("alol", "alol", log, cloned, **half, lr=5e-4)),
        "q_learning (from the clone)": measured(bench.train("q_learning", "q", log, cloned, **half, temperature=0.1)),
        **{f"ilql, beta {beta}": measured(ilql, beta) for beta in (0, 1, 4, 16, 100)},
        "ppo (from the clone)": measured(bench.ppo("ppo", log, cloned, world.LONGEST - 1, reward=rewarded)),
        "dqn (from the clone)": measured(
            bench.train("dqn", "dqn", log, cloned, **ONLINE, max_new_tokens=world.LONGEST - 1, reward=rewarded)
        ),
    }


# -- a log of which one half is corrupted --------------------------------------------------------------------------


def in_order(prompt: str, text: str) -> float:
    """Share of three letters that stand where they should; 0 for more or fewer."""
    right, given = sorted(prompt.split()), text.split()
    return sum(a == b for a, b in zip(right, given, strict=False)) / 3 if len(given) == 3 else 0.0


def order_reward(prompts: Sequence[Messages], completions: Sequence[str]) -> list[float]:
    """`in_order` as a reward function."""
    return [in_order(prompt[-1]["content"], text) for prompt, text in zip(prompts, completions, strict=True)]


def corrupted(seed: int, folder: Path) -> dict[str, float]:
    """Three letters are to be put in order. Half of the log's answers are shuffled, and their reward says so."""
    chance = random.Random(2000 + seed)
    letters = [chr(ord("a") + n) for n in range(12)]
    bench = Bench(folder, letters, seed)

    prompts = [" ".join(chance.sample(letters, 3)) for _ in range(900)]
    held, prompts = sorted(set(prompts[600:]) - set(prompts[:600])), prompts[:600]
    log: list[Row] = []
    pairs: list[Row] = []
    for prompt in prompts:
        good, bad = " ".join(sorted(prompt.split())), " ".join(chance.sample(letters, 3))
        log += [{"prompt": prompt, "completion": text, "reward": in_order(prompt, text)} for text in (good, bad)]
        pairs.append({"prompt": prompt, "chosen": good, "rejected": bad})
    logged, compared = bench.data("log", log), bench.data("pairs", pairs)
    steps: Row = {"steps": 600, "batch_size": 64}
    cloned = bench.train("sft", "nll", logged, **steps)
    half: Row = {"steps": 300, "batch_size": 64, "lr": 5e-4}
    close: Row = {**half, "lr": 2e-4, "max_dropped": 1.0}
    policies = {
        "nll": cloned,
        "dpo": bench.train("dpo", "dpo", compared, cloned, **{**close, "steps": 50}, beta=0.1),
        "dpo, 300 steps": bench.train("dpo", "long", compared, cloned, **close, beta=0.1),
        "dpo, beta 0.5, nll 1": bench.train("dpo", "rpo", compared, cloned, **{**close, "lr": 5e-4}, beta=0.5, nll=1.0),
        "awr": bench.train("awr", "awr", logged, cloned, **half, temperature=0.3),
        "a-lol": bench.train("alol", "alol", logged, cloned, **half),
        "a-lol, ratio per token": bench.train("alol", "seq", logged, cloned, **half, ratio="token"),
        "a-lol, reference-free": bench.train("alol", "free", logged, cloned, **half, ratio="none"),
        "a-lol, kl": bench.train("alol", "kl", logged, cloned, **half, ratio="none", beta=0.05),
        "r-lol": bench.train("alol", "rlol", logged, cloned, **half, baseline=False),
        "ppo": bench.ppo("ppo", logged, cloned, 6, reward={"order": {"function": "benchmarks.offline:order_reward"}}),
    }
    result = {"the log itself": statistics.mean(row["reward"] for row in log)}
    for name, policy in policies.items():
        drawn = bench.sampled(policy, held, 4, 6)
        result[f"{name}: reward"] = statistics.mean(in_order(p, t) for p, t in drawn)
        result[f"{name}: distinct answers per prompt"] = len(set(drawn)) / len(held)
        result[f"{name}: tokens"] = statistics.mean(len(t.split()) for _, t in drawn)
    return result


# -- a grid: comparisons by regret, and demonstrations --------------------------------------------------------------


class Grid:
    """5 x 5 cells, walls between none; a walk names each cell it comes to and ends at the goal, the lower right one."""

    SIDE, STEPS = 5, 12

    def __init__(self) -> None:
        self.words = [f"{x}{y}" for x in range(self.SIDE) for y in range(self.SIDE)]
        self.goal = self.words[-1]

    def next(self, cell: str) -> list[str]:
        x, y = int(cell[0]), int(cell[1])
        around = [(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)]
        return [f"{a}{b}" for a, b in around if 0 <= a < self.SIDE and 0 <= b < self.SIDE]

    def distance(self, cell: str) -> int:
        return 2 * (self.SIDE - 1) - int(cell[0]) - int(cell[1])

    def walk(self, start: str, chance: random.Random, greed: float) -> list[str]:
        """Towards the goal with probability `greed`, otherwise anywhere."""
        walk = [start]
        while walk[-1] != self.goal and len(walk) <= self.STEPS:
            around = self.next(walk[-1])
            closer = [cell for cell in around if self.distance(cell) < self.distance(walk[-1])]
            walk.append(chance.choice(closer if chance.random() < greed else around))
        return walk

    def regret(self, walk: Sequence[str]) -> int:
        """Steps more than were needed, those still to go counted; a walk that jumps has walked STEPS for nothing."""
        if any(b not in self.next(a) for a, b in pairwise(walk)) or self.goal in walk[:-1]:
            return self.STEPS
        return len(walk) - 1 + self.distance(walk[-1]) - self.distance(walk[0])

    def regrets(self, drawn: Sequence[tuple[str, str]]) -> list[int]:
        return [self.regret([p, *t.split()]) for p, t in drawn]

    def success(self, drawn: Sequence[tuple[str, str]]) -> float:
        return statistics.mean(self.regret([p, *t.split()]) == 0 and t.split()[-1:] == [self.goal] for p, t in drawn)


def grid(seed: int, folder: Path) -> dict[str, float]:
    """Comparisons of two walks from one cell, by their regret: CPL against cloning and reward-then-offline-RL."""
    world, chance = Grid(), random.Random(3000 + seed)
    bench = Bench(folder, world.words, seed)
    starts = [cell for cell in world.words if cell != world.goal]
    pairs: list[Row] = []
    while len(pairs) < 1000:
        start = chance.choice(starts)
        one, two = (world.walk(start, chance, greed=0.3) for _ in range(2))
        better, worse = sorted((one, two), key=world.regret)
        if world.regret(better) < world.regret(worse):
            pairs.append({"prompt": start, "chosen": " ".join(better[1:]), "rejected": " ".join(worse[1:])})
    everything = [{"prompt": p["prompt"], "completion": p[side]} for p in pairs for side in ("chosen", "rejected")]
    compared, all_walks = bench.data("pairs", pairs), bench.data("all", everything)
    steps: Row = {"steps": 300, "batch_size": 64, "max_dropped": 1.0}
    cloned = bench.train("sft", "bc", all_walks, **steps)
    half: Row = {**steps, "lr": 5e-4}
    reward = bench.train("reward_model", "rm", compared, **half)
    ilql = bench.train("ilql", "ilql", all_walks, **steps, reward_model=reward, expectile=0.7, polyak=0.1)
    policies: dict[str, tuple[str, float | None]] = {
        "cloning of all walks": (cloned, None),
        "cloning of the preferred": (bench.train("sft", "chosen", compared, **steps), None),
        "reward model, then ilql": (ilql, 4.0),
        "dpo, beta 0.5, nll 1": (bench.train("dpo", "rpo", compared, cloned, **half, beta=0.5, nll=1.0), None),
    }
    # Pairs are soon learned by heart; then both sides of them become unlikely, and what nobody wrote takes their place.
    for passes, much in (("3 passes", {**half, "steps": 50, "lr": 2e-4}), ("19 passes", half)):
        for name, method, settings in (
            ("dpo", "dpo", {"beta": 0.1}),
            ("cpl", "cpl", {"alpha": 0.1, "bias": 0.5}),
            ("cpl, bias 1", "cpl", {"alpha": 0.1, "bias": 1.0}),
            ("cpl-kl", "cpl", {"alpha": 0.2, "bias": 0.75, "reference": True}),
        ):
            found = bench.train(method, f"{name}, {passes}", compared, cloned, **much, **settings)
            policies[f"{name}, {passes}"] = found, None
    result = {}
    for name, (policy, beta) in policies.items():
        drawn = bench.sampled(policy, starts, 20, world.STEPS + 1, beta)
        result[f"{name}: regret"] = statistics.mean(world.regrets(drawn))
        result[f"{name}: straight to the goal"] = world.success(drawn)
    return result


def demonstrations(seed: int, folder: Path) -> dict[str, float]:
    """50 demonstrations: IQLearn against maximum likelihood, trained for 200 steps and for 1,600.

    Of somebody who walks straight to the goal, and of somebody who takes four of ten steps anywhere.
    """
    world, chance = Grid(), random.Random(4000 + seed)
    bench = Bench(folder, world.words, seed)
    starts = [cell for cell in world.words if cell != world.goal]
    policies: dict[str, str] = {}
    result: dict[str, float] = {}
    for whose, greed in (("straight", 1.0), ("erring", 0.6)):
        walked = [world.walk(chance.choice(starts), chance, greed=greed) for _ in range(50)]
        result[f"{whose}, the demonstrations: regret"] = statistics.mean(map(world.regret, walked))
        data = bench.data(whose, [{"prompt": w[0], "completion": " ".join(w[1:])} for w in walked])
        for steps in (200, 1600):
            common: Row = {"steps": steps, "batch_size": 25, "max_dropped": 1.0, "lr": 1e-3}
            name = f"{whose}, {steps} steps"
            policies[f"{name}, mle"] = bench.train("sft", f"{whose}{steps}mle", data, **common)
            for chi in (0.01, 0.1, 0.5):
                found = bench.train("iqlearn", f"{whose}{steps}iq{chi}", data, **common, chi=chi)
                policies[f"{name}, iqlearn, chi {chi}"] = found
    return {**result, **_walked(world, bench, policies)}


def imitation(seed: int, folder: Path) -> dict[str, float]:
    """100 demonstrations: cloned, then adversarially (RLGAF as we read it), or through a reward model and PPO (RLHF).

    That reward model has no other judgements than the demonstrations: each is preferred to the clone's own answer.
    """
    world, chance = Grid(), random.Random(5000 + seed)
    bench = Bench(folder, world.words, seed)
    starts = [cell for cell in world.words if cell != world.goal]
    walked = [world.walk(chance.choice(starts), chance, greed=1.0) for _ in range(100)]
    rows: list[Row] = [{"prompt": w[0], "completion": " ".join(w[1:])} for w in walked]
    data, tokens = bench.data("demonstrations", rows), world.STEPS + 1
    cloned = bench.train("sft", "sft", data, **CLONED)
    own = bench.sampled(cloned, [row["prompt"] for row in rows], 1, tokens)
    pairs = [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": text}
        for row, (_, text) in zip(rows, own, strict=True)
        if text
    ]
    compared = bench.data("pairs", pairs)
    judge = bench.train("reward_model", "rm", compared, cloned, steps=100, batch_size=25, lr=5e-4, max_dropped=1.0)
    online: Row = {**ONLINE, "max_new_tokens": tokens}
    policies = {
        "sft": cloned,
        "sft, as many steps more": bench.train("sft", "longer", data, cloned, **{**CLONED, "steps": 480, "lr": 5e-4}),
        "rlgaf, logit": bench.train("adversarial", "logit", data, cloned, **online, kind="logit"),
        "rlgaf, logit, no cloning": bench.train(
            "adversarial", "bare", data, cloned, **online, kind="logit", cloning=0.0
        ),
        "gail": bench.train("adversarial", "gail", data, cloned, **online, kind="gail"),
        "rlhf": bench.ppo("ppo", data, cloned, tokens, reward_model=judge),
    }
    return _walked(world, bench, policies)


def spin(seed: int, folder: Path) -> dict[str, float]:
    """SPIN, round after round, from a clone of 100 demonstrations; beta 1 and the paper's 0.1."""
    world, chance = Grid(), random.Random(6000 + seed)
    bench = Bench(folder, world.words, seed)
    starts = [cell for cell in world.words if cell != world.goal]
    walked = [world.walk(chance.choice(starts), chance, greed=1.0) for _ in range(100)]
    data = bench.data("demonstrations", [{"prompt": w[0], "completion": " ".join(w[1:])} for w in walked])
    cloned = bench.train("sft", "sft", data, **CLONED)
    longer = bench.train("sft", "longer", data, cloned, **{**CLONED, "steps": 120, "lr": 5e-4})
    policies = {"sft": cloned, "sft, as many steps more": longer}
    for beta in (1.0, 0.1):
        policy = cloned
        for number in (1, 2, 3):
            settings: Row = {"steps": 40, "batch_size": 25, "max_dropped": 1.0, "lr": 5e-4, "rounds": 1, "beta": beta}
            settings |= {"max_new_tokens": world.STEPS + 1}
            policy = bench.train("spin", f"spin{beta}-{number}", data, policy, **settings)
            policies[f"spin, beta {beta:g}, {number} rounds"] = policy
    return _walked(world, bench, policies)


def _walked(world: Grid, bench: Bench, policies: Mapping[str, str]) -> dict[str, float]:
    """How policies walk the grid: regret, how often straight to the goal, how many different walks of 20 per cell.

    And how often straight to the goal where each step is the likeliest.
    """
    starts, result = [cell for cell in world.words if cell != world.goal], {}
    for name, policy in policies.items():
        drawn = bench.sampled(policy, starts, 20, world.STEPS + 1)
        result[f"{name}: regret"] = statistics.mean(world.regrets(drawn))
        result[f"{name}: straight to the goal"] = world.success(drawn)
        result[f"{name}: different walks per cell"] = len(set(drawn)) / len(starts)
        likeliest = bench.sampled(policy, starts, 1, world.STEPS + 1, temperature=0.0)
        result[f"{name}: straight to the goal, greedily"] = world.success(likeliest)
    return result


TASKS: dict[str, Callable[[int, Path], dict[str, float]]] = {
    "walks": walks,
    "corrupted": corrupted,
    "grid": grid,
    "demonstrations": demonstrations,
    "imitation": imitation,
    "spin": spin,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, []], default=[])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--scale", type=float, default=1.0)
    given = parser.parse_args()
    for task in given.tasks or TASKS:
        found = [figures(task, seed, given.scale, given.out) for seed in range(given.seeds)]
        seconds = statistics.mean(one.pop("seconds") for one in found)
        print(f"{task}, {given.seeds} seeds, {seconds:.0f} seconds each")
        for name in found[0]:
            values = [one[name] for one in found]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            print(f"  {name:44} {statistics.mean(values):.3f} ± {spread:.3f}", flush=True)


def figures(task: str, seed: int, scale: float, out: Path | None) -> dict[str, float]:
    """One seed of a task with its `seconds`; what is in `out` already is read and not computed again."""
    file = None if out is None else out / f"{task}-{seed}{'' if scale == 1.0 else f'-{scale:g}'}.json"
    if file is not None and file.is_file():
        known: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
        return known
    started, Bench.scale = time.monotonic(), scale
    with tempfile.TemporaryDirectory() as folder:
        found = TASKS[task](seed, Path(folder))
    found["seconds"] = time.monotonic() - started
    print(json.dumps({"task": task, "seed": seed, **{k: round(v, 4) for k, v in found.items()}}), flush=True)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, found)
    return found


if __name__ == "__main__":
    main()
