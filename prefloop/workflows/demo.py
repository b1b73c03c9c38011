"""`prefloop demo`: the whole loop on the built-in policy and simulated people, twice round, and a report about it."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from prefloop.artifacts.files import write_json
from prefloop.artifacts.folder import Artifact, lineage, list_artifacts, read_manifest, write_artifact
from prefloop.artifacts.workspace import Workspace
from prefloop.audits.report import write_report
from prefloop.generation.policy import Completion, Policy
from prefloop.generation.sampler import Sampling
from prefloop.labelers.simulated import PANEL, PROFILES, Profile, fresh_panel, judges
from prefloop.labelers.task_world import SHOW_PROMPTS, spec_of, task_prompts
from prefloop.models.load import BUILTIN
from prefloop.records import as_messages
from prefloop.rewards.checkers import check_many
from prefloop.training.run import read_metrics
from prefloop.version import __version__
from prefloop.workflows.data import init, label, snapshot
from prefloop.workflows.evaluating import compare_answers, divergence, gold
from prefloop.workflows.loop import LoopConfig, one_round
from prefloop.workflows.report import GUARD_FILE, snapshot_source
from prefloop.workflows.rewards import average
from prefloop.workflows.sampling import sample
from prefloop.workflows.stages import Stages
from prefloop.workflows.training import train

PEOPLE = "simulated:panel"
CONSENSUS = "majority"
"""Every vote alike: the simulated people's biases are the demonstration's, and a finding would only name them."""
DEMONSTRATIONS = 600
PROMPTS_PER_ROUND = 350
TEST_SHARE = 0.15
"""Of a round's prompts: their answers measure and calibrate its reward model, and the guard's learns from them."""
FRESH = 450
ANSWER_TOKENS = 112
"""Longest completion in the demonstration: a letter or a small function with a sentence about it fits."""

SFT: dict[str, Any] = {
    "lr": 1e-4, "epochs": 6, "batch_size": 32, "max_length": 192, "warmup": 5,
    "eval_every": 18, "keep_best": True, "patience": 1,
}  # fmt: skip
"""Until the held-out loss no longer falls; the weights of its minimum are kept."""
REWARD_MODEL: dict[str, Any] = {
    "lr": 3e-4, "epochs": 2, "batch_size": 32, "max_length": 192, "warmup": 5, "members": 3,
}  # fmt: skip
"""Three heads, each on its own bootstrap of the answers; the reward is their mean."""
PPO: dict[str, Any] = {
    "lr": 7e-5, "steps": 8, "batch_size": 128, "rollout_epochs": 1, "minibatches": 4, "beta": 0.25, "max_length": 192,
    "max_new_tokens": ANSWER_TOKENS, "missing_eos_score": -3.0, "schedule": "constant",
}  # fmt: skip
"""With beta 0.25 a nat of KL costs a quarter of a standard deviation of the reward: enough to add what people miss in
an answer, too dear for an answer to something else that the reward model happens to like."""
GUARD: dict[str, Any] = {"every": 4, "prompts": 48}
"""Of the second round, when it can learn from the held-out answers of both."""
TRAINED = ("round1", "round2", "dpo", "policy")
DPO: dict[str, Any] = {
    "lr": 1.5e-4, "epochs": 1, "batch_size": 32, "beta": 0.1, "nll": 1.0, "max_length": 192, "warmup": 5,
}  # fmt: skip
"""The likelihood of the chosen answer beside the comparison: without it DPO at this rate forgets sums."""


def demo(
    directory: str | Path | None = None, *, seed: int = 0, log: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Demonstrations -> SFT -> comparisons -> reward model -> PPO; DPO beside it; round again; the three's average.

    The policy that it ends with is the average of the weights of the others: of both rounds' PPO and of DPO.

    Works in `directory` (default: `prefloop-demo`, or the first of `prefloop-demo-2`, ... that is free); an interrupted
    demo goes on when it is given its folder again. Every answer is a simulated person's, and marked so. Returns
    `seconds`, `gold` {base, sft, round1, round2, dpo, policy}, `win_rate` {value, low, high, n} of the policy against
    SFT and `win_rates` of all four, `reward_model` {accuracy, low, high, n, ece}, `kl`, `report`, `policy`, `policies`
    (paths), `shows` and `simulated`: True.
    """
    started = time.monotonic()
    say = log or (lambda words: print(words, file=sys.stderr, flush=True))
    place = init(_folder(directory))
    say(f"the demo works in {place.root}; every answer in it is a simulated person's")
    sizes = {
        "demonstrations": DEMONSTRATIONS,
        "prompts_per_round": PROMPTS_PER_ROUND,
        "test_share": TEST_SHARE,
        "fresh": FRESH,
    }
    methods = {"sft": SFT, "reward_model": REWARD_MODEL, "ppo": PPO, "guard": GUARD, "dpo": DPO}
    settings = {"seed": seed, **sizes, **methods}
    stages = Stages(place.artifacts / ".runs" / "demo" / "stages.json", settings, say)

    tasks = task_prompts(DEMONSTRATIONS + 2 * PROMPTS_PER_ROUND, seed)
    written = [task.prompt for task in tasks[:DEMONSTRATIONS]]
    asked = [task.prompt for task in tasks[DEMONSTRATIONS:]]
    stages.do(
        "people write demonstrations",
        lambda: [
            sample("builtin", written, ask="demonstration", workspace=place)["questions"],
            label(PEOPLE, seed=seed, workspace=place),
        ],
    )
    demonstrations = stages.do(
        "snapshot of the demonstrations",
        lambda: str(
            snapshot(
                "demonstrations", name="demonstrations", seed=seed, consensus=CONSENSUS, workspace=place
            ).artifact.path
        ),
    )

    def trained(method: str, name: str, policy: str, data: str, settings: dict[str, Any]) -> dict[str, Any]:
        laid = {"seed": seed, "name": name, **settings}
        return train(method, policy=policy, data=data, overrides=laid, resume=True, workspace=place, log=say)

    sft = stages.do("SFT", lambda: trained("sft", "sft", "builtin", demonstrations, SFT)["artifact"])
    config = LoopConfig(
        policy=sft,
        prompts_per_round=PROMPTS_PER_ROUND,
        per_prompt=4,
        overlap=2,
        max_new_tokens=ANSWER_TOKENS,
        by=PEOPLE,
        consensus=CONSENSUS,
        test_share=TEST_SHARE,
        seed=seed,
        reward_model=REWARD_MODEL,
        train=PPO,
    )
    first = one_round(config, 1, sft, asked, place, stages, say)
    dpo = stages.do("DPO on the same snapshot", lambda: trained("dpo", "dpo", sft, first["snapshot"], DPO)["artifact"])
    second = one_round(dataclasses.replace(config, guard=GUARD), 2, first["policy"], asked, place, stages, say)
    others = {"round1": first["policy"], "round2": second["policy"], "dpo": dpo}
    mean = stages.do(
        "average of the three policies' weights",
        lambda: average(list(others.values()), kind="policy", name="policy", workspace=place)["artifact"],
    )
    policies = {"base": str(BUILTIN), "sft": sft, **others, "policy": mean}
    measured = stages.do("evaluation on fresh tasks", lambda: _measure(policies, seed, say))
    seconds = round(sum(stages.seconds.values()), 1)
    data = _report_data(place, policies, [first, second], measured, stages, settings, seed, seconds)
    page = _write_report(place, data, [read_manifest(Path(p)).hash for k, p in policies.items() if k != "base"], seed)
    say(f"report: {page}  (the demo took {seconds:.0f} s, this call {time.monotonic() - started:.0f} s)")
    return {
        "seconds": seconds,
        "gold": {name: value["value"] for name, value in measured["gold"].items()},
        "gold_intervals": {
            name: {k: value[k] for k in ("value", "low", "high", "n")} for name, value in measured["gold"].items()
        },
        "win_rate": _interval(measured["win_rates"]["policy"]),
        "win_rates": {name: _interval(value) for name, value in measured["win_rates"].items()},
        "reward_model": {key: second["measured"][key] for key in ("accuracy", "low", "high", "n", "ece")},
        "kl": measured["kl"]["value"],
        "report": str(page),
        "policy": policies["policy"],
        "policies": policies,
        "shows": measured["shows"],
        "simulated": True,
    }


def _folder(directory: str | Path | None) -> Path:
    if directory is not None:
        return Path(directory)
    names = ["prefloop-demo", *(f"prefloop-demo-{n}" for n in range(2, 1000))]
    return next(Path(name) for name in names if not Path(name).exists())


def _interval(value: dict[str, Any]) -> dict[str, Any]:
    return {key: value[key] for key in ("value", "low", "high", "n")}


def _measure(policies: dict[str, str], seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Every policy on the same fresh tasks: checkers, and blind comparisons by people nobody has trained on."""
    tasks = task_prompts(FRESH, seed + 1, split="fresh")
    messages = [as_messages(task.prompt) for task in tasks]
    sampling = Sampling(max_new_tokens=ANSWER_TOKENS)
    loaded = {name: Policy(path) for name, path in policies.items()}
    answers: dict[str, list[Completion]] = {}
    for number, (name, policy) in enumerate(loaded.items()):
        say(f"sampling {name} on {len(tasks)} fresh tasks")
        answers[name] = [group[0] for group in policy.answer(messages, 1, sampling, seed=seed + 100 + number)]
    people = judges(fresh_panel(5, seed), seed)
    against = {name: compare_answers(messages, answers[name], answers["sft"], people, seed) for name in TRAINED}
    return {
        "gold": {name: gold(tasks, [c.text for c in given], seed) for name, given in answers.items()},
        "win_rates": {name: {**value["win_rate"], "against": "sft"} for name, value in against.items()},
        "length": against["policy"]["length"],
        "terminated": against["policy"]["terminated"],
        "kl": divergence(loaded["policy"], loaded["sft"], messages, answers["policy"], seed),
        "shows": _shows(loaded),
    }


def _shows(policies: dict[str, Policy]) -> list[dict[str, Any]]:
    """The likeliest answer (temperature 0) of each policy to the three requests that nobody demonstrated."""
    greedy = Sampling(max_new_tokens=ANSWER_TOKENS, temperature=0.0)
    rows: list[dict[str, Any]] = [{"prompt": prompt, "answers": {}, "passed": {}} for prompt in SHOW_PROMPTS]
    tasks = [spec_of(prompt) for prompt in SHOW_PROMPTS]
    for name, policy in policies.items():
        texts = [group[0].text for group in policy.answer([as_messages(p) for p in SHOW_PROMPTS], 1, greedy)]
        for row, task, text in zip(rows, tasks, texts, strict=True):
            row["answers"][name] = text
            if task is not None:
                row["passed"][name] = check_many([(task.family, task.prompt, text, task.spec)])[0].passed
    return rows


def _report_data(
    place: Workspace,
    policies: dict[str, str],
    rounds: list[dict[str, Any]],
    measured: dict[str, Any],
    stages: Stages,
    settings: dict[str, Any],
    seed: int,
    seconds: float,
) -> dict[str, Any]:
    """Everything that the report says, each figure from a stored result."""
    final = read_manifest(Path(policies["policy"]))
    snapshots = list_artifacts(place.artifacts, "snapshot")
    ppo = [
        {**row, "round": number}
        for number, done in enumerate(rounds, 1)
        for row in read_metrics(Path(done["policy"]) / "metrics.jsonl")
    ]
    return {
        "title": "One turn of the loop, and another",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "version": __version__,
        "seed": seed,
        "simulated": True,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "shows": [
            {**row, "answers": _renamed(row["answers"]), "passed": _renamed(row["passed"])} for row in measured["shows"]
        ],
        "gold": _renamed(measured["gold"]),
        "chosen": "average",
        "win_rate": measured["win_rates"]["round1"],
        "round2_win_rate": measured["win_rates"]["round2"],
        "dpo_win_rate": measured["win_rates"]["dpo"],
        "average_win_rate": measured["win_rates"]["policy"],
        "reward_model": rounds[-1]["measured"],
        "training": {
            "sft": read_metrics(Path(policies["sft"]) / "metrics.jsonl"),
            "reward_model": read_metrics(Path(rounds[-1]["reward_model"]) / "metrics.jsonl"),
            "ppo": ppo,
            "dpo": read_metrics(Path(policies["dpo"]) / "metrics.jsonl"),
        },
        "guard": json.loads((Path(rounds[-1]["policy"]) / GUARD_FILE).read_text(encoding="utf-8")),
        "data": [snapshot_source(number, snapshot) for number, snapshot in enumerate(snapshots)],
        "people": [_person(PROFILES[name]) for name in PANEL],
        "lineage": lineage(place.artifacts, final),
        "settings": settings,
        "seeds": {"seed": seed},
        "versions": {"prefloop": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "timings": stages.seconds,
        "notes": [
            "Every answer here is a simulated person's. What holds for them need not hold for people.",
            "The demonstrators write hastily: most of their letters and programs lack a part, usually the last.",
            "SFT learns to write as they do; the comparisons say which answers are better, and the policy learns that.",
            "The second round's reward model and policy are trained from SFT on the answers of both rounds.",
            "The demo ends with the average of the weights of both rounds' PPO and of DPO. KL and lengths are its own.",
        ],
    }


def _renamed(by_policy: dict[str, Any]) -> dict[str, Any]:
    """In the report `policy` is the first round's, and what the demo ends with is `average`."""
    return {{"round1": "policy", "policy": "average"}.get(name, name): value for name, value in by_policy.items()}


def _person(profile: Profile) -> dict[str, Any]:
    return {"profile": profile.name, **{k: v for k, v in dataclasses.asdict(profile).items() if k != "name"}}


def _write_report(place: Workspace, data: dict[str, Any], parents: list[str], seed: int) -> Path:
    """The report as an artifact, and its page at the top of the workspace."""

    def fill(folder: Path) -> None:
        write_json(folder / "report.json", json.loads(json.dumps(data)))
        write_report(data, folder / "report.html")

    made: Artifact = write_artifact(
        place.artifacts,
        "report",
        "demo",
        fill,
        settings=data["settings"],
        parents=parents,
        seeds={"seed": seed},
        metrics={},
    )
    page = place.root / "report.html"
    page.write_bytes((made.path / "report.html").read_bytes())
    return page
