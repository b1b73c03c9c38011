"""Real people's preferences in folds by prompt: a reward model, and the floors on the very same folds.

usage: PREFLOOP_DATA=../shared/data python -m benchmarks.folds hh|ukp|rag [RUN.yaml] [OUT]

RUN.yaml is runs/hh_reward_model.yaml or runs/votes.yaml, and OUT folds-hh, folds-ukp or folds-rag, where they are not
given.

hh    Anthropic's helpful and harmless pairs; five folds by the conversation's first turn
ukp   UKPConvArg1, which argument convinces more; five folds by topic
rag   the RAG crowd's answers to questions; five folds by question

A pair is right when the side that most people chose has the higher score. Beside the reward model stand the logistic
regression on word counts and length that was trained on the same pairs, and length alone; the difference is paired,
with an interval over prompts. Where several people judged a pair, there is the human ceiling, and everything again on
pairs of about the same length. OUT holds a result for each fold: what is there is not computed again, and a run that
was stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.command import interval
from prefloop.evaluation.ceiling import human_ceiling
from prefloop.evaluation.floors import tfidf_length_odds
from prefloop.evaluation.interval import mean_interval, share_interval
from prefloop.evaluation.pair_scores import both_sides
from prefloop.records import Comparison, as_messages, prompt_id
from prefloop.rewards.learned import LearnedReward
from prefloop.snapshots.crowds import import_rows
from prefloop.snapshots.formats import load_comparisons
from prefloop.snapshots.rows import Reject
from prefloop.workflows.training import train

RUNS = Path(__file__).resolve().parent.parent / "runs"
DATA = Path(os.environ.get("PREFLOOP_DATA", RUNS.parent.parent / "shared" / "data")).resolve() / "preferences"
FOLDS = 5
LEARN = {"max_dropped": 0.1, "test_share": 0.05}
"""Settings of every fold's run: of the rows to learn from so many are for its temperature only."""
BOTH = "reward model and words"
"""The sum of the reward model's differences and the regression's, each divided by its standard deviation."""
MATCHED = 0.9
"""Texts are about equally long when the shorter has at least this share of the longer one's characters."""


def hh() -> list[Comparison]:
    """Pairs with their `subset`, `group` being the conversation's first turn.

    The subset is the criterion, too: which answer helps more is not the same question as which one harms more.
    """
    pairs = load_comparisons(DATA / "hh_rlhf.jsonl.gz", max_dropped=0.2)[0]
    for pair in pairs:
        pair.columns["criterion"] = pair.columns["subset"]
    return [_grouped(pair, " ".join(pair.prompt[0]["content"].lower().split())) for pair in pairs]


def votes(file: Path) -> list[Comparison]:
    """Pairs with the share of votes for the first (ties half), `n` votes, `ties` their share, `group` the topic.

    A pair that was shown in both orders is one pair.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for _, row in import_rows(file):
        if not isinstance(row, Reject) and row["chosen"].strip() != row["rejected"].strip():
            key = json.dumps([row["prompt"], *sorted([row["chosen"], row["rejected"]])])
            found.setdefault(key, []).append(row)
    pairs = []
    for said in found.values():
        first = said[0]["chosen"]
        labels = [row["label"] if row["chosen"] == first else 1 - row["label"] for row in said]
        pair = Comparison(
            prompt=as_messages(said[0]["prompt"]),
            chosen=said[0]["chosen"],
            rejected=said[0]["rejected"],
            label=float(np.mean(labels)),
            columns={
                "criterion": "preferred",
                "n": len(labels),
                "ties": float(np.mean([label == 0.5 for label in labels])),
            },
        )
        pairs.append(_grouped(pair, str(said[0]["topic"])))
    return pairs


def _grouped(pair: Comparison, group: str) -> Comparison:
    pair.columns["group"] = group
    return pair


RUN = {"hh": "hh_reward_model.yaml", "ukp": "votes.yaml", "rag": "votes.yaml"}
SOURCES: dict[str, Callable[[], list[Comparison]]] = {
    "hh": hh,
    "ukp": lambda: votes(DATA / "ukpconvarg1.jsonl.gz"),
    "rag": lambda: votes(DATA / "rag_crowd.pairs.jsonl.gz"),
}


def fold_of(pair: Comparison) -> int:
    """Pairs of one group are in one fold, whatever else there is."""
    return int(hashlib.sha256(pair.columns["group"].encode("utf-8", "surrogatepass")).hexdigest()[:8], 16) % FOLDS


def rows_of_a_fold(pairs: Sequence[Comparison], fold: int, run: Path, folder: Path) -> dict[str, Any]:
    """What the reward model and both floors got right in the fold that none of them was trained on."""
    decided = [pair for pair in pairs if pair.label != 0.5]
    learn = [pair for pair in pairs if fold_of(pair) != fold]
    test = [pair for pair in decided if fold_of(pair) == fold]
    file = folder / f"train-{fold}.jsonl"
    file.write_text("".join(json.dumps(_row(pair)) + "\n" for pair in learn), encoding="utf-8")
    out = folder / f"model-{fold}"
    made = train("reward_model", run, data=file, out=out, overrides=LEARN, resume=True)
    settings = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["settings"]
    cpu = torch.device("cpu")
    reward = LearnedReward(out, torch.float32, cpu, max_length=settings["max_length"])
    about = [pair.columns.get("criterion") for pair in test]
    scores = np.subtract(*both_sides(reward, test))
    own, joint = tfidf_length_odds([pair for pair in learn if pair.label != 0.5], test)
    lengths = np.array([len(p.chosen) - len(p.rejected) for p in test], dtype=np.float64)
    both = np.zeros(len(test))
    for criterion in dict.fromkeys(about):
        of = [i for i, one in enumerate(about) if one == criterion]
        both[of] = sum(part[of] / (part[of].std() or 1.0) for part in (scores, own))
    kinds = {
        "reward model": scores,
        BOTH: both,
        "TF-IDF + length": own,
        "TF-IDF + length, one for all": joint,
        "longer": lengths,
    }
    sign = np.array([1.0 if pair.label > 0.5 else -1.0 for pair in test])
    right = {name: ((np.sign(values * sign) + 1) / 2).tolist() for name, values in kinds.items()}
    named = [prompt_id(pair.prompt) for pair in test]
    return {"fold": fold, "seconds": made["seconds"], "trained_on": len(learn), "prompts": named, "right": right}


def _row(pair: Comparison) -> dict[str, Any]:
    known = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected, "label": pair.label}
    kept = {name: pair.columns[name] for name in ("subset", "criterion", "ties") if pair.columns.get(name) is not None}
    return {**known, **kept}


def summary(pairs: Sequence[Comparison], folds: Sequence[dict[str, Any]]) -> list[str]:
    """Accuracies and paired differences: all, by subset, and on pairs of about the same length, with the ceiling."""
    test = [pair for fold in folds for pair in pairs if pair.label != 0.5 and fold_of(pair) == fold["fold"]]
    prompts = [prompt for fold in folds for prompt in fold["prompts"]]
    right = {name: np.concatenate([fold["right"][name] for fold in folds]) for name in folds[0]["right"]}
    masks = {"all": [True] * len(test)}
    for subset in sorted({p.columns["subset"] for p in test if "subset" in p.columns}):
        masks[subset] = [p.columns.get("subset") == subset for p in test]
    masks["of about the same length"] = [
        MATCHED <= (1 + len(p.chosen)) / (1 + len(p.rejected)) <= 1 / MATCHED for p in test
    ]
    lines = []
    for name, mask in masks.items():
        at = np.flatnonzero(mask)
        if not len(at):
            continue
        groups = [prompts[i] for i in at]
        lines += [f"{name}: {what} {interval(share_interval(r[at], groups).as_dict())}" for what, r in right.items()]
        for what in (one for one in ("reward model", BOTH) if one in right):
            for floor in [one for one in right if one not in ("reward model", BOTH)]:
                paired = mean_interval(right[what][at] - right[floor][at], groups).as_dict()
                lines.append(f"{name}: {what} - {floor} {interval(paired)}")
        ceiling = human_ceiling([test[i] for i in at])
        if ceiling is not None:
            lines.append(f"{name}: two people agree {interval(ceiling)}")
    return lines


def main(name: str, run: Path, folder: Path) -> None:
    if not DATA.is_dir():
        print(f"skipped: no {DATA}; set PREFLOOP_DATA to the folder that holds preferences/")
        return
    folder.mkdir(parents=True, exist_ok=True)
    pairs = SOURCES[name]()
    folds = []
    for fold in range(FOLDS):
        kept = folder / f"fold-{fold}.json"
        if not kept.is_file():
            result = rows_of_a_fold(pairs, fold, run, folder)
            half = kept.with_suffix(".part")
            half.write_text(json.dumps(result), encoding="utf-8")
            half.replace(kept)
        folds.append(json.loads(kept.read_text(encoding="utf-8")))
        print(f"fold {fold}: {folds[-1]['trained_on']} pairs to learn from, {folds[-1]['seconds']} s", flush=True)
    print("\n".join(summary(pairs, folds)))


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in SOURCES:
        sys.exit(f"which data? {', '.join(SOURCES)}")
    given = [*sys.argv[2:], *[str(RUNS / RUN[sys.argv[1]]), f"folds-{sys.argv[1]}"][len(sys.argv) - 2 :]]
    main(sys.argv[1], Path(given[0]), Path(given[1]))
