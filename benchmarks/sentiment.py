"""Controlled sentiment (Ziegler et al. 2019; Figure 2 of the DPO paper): true reward against KL, for every method.

    PREFLOOP_DATA=../shared/data python -m benchmarks.sentiment [--seeds 3] [--methods ppo,dpo] [--out FOLDER] [--tiny]

A policy reads IMDb reviews and learns to continue one from its first eight words: the reference. The true reward is
a classifier's log-odds that prompt and continuation are a positive review, learned from labelled reviews that the
prompts do not come from; it is measured on 2,500 that it has not seen. It labels pairs of the reference's continuations
with Bradley-Terry noise; a reward model learns from the labels. The online methods learn from that reward model, the
direct ones from the pairs, and those that need logged rewards from both continuations of each pair, which the reward
model scores; where `make peers` was run, TRL's RLOO and GRPO learn beside ours. Each policy is then asked for
continuations of held-out prompts: mean true reward and KL from the reference, in nats per sequence, with intervals of
95 %. The seeds share the classifier and the policy that has read the reviews, and nothing else; at the end comes one
picture of them all. What was made stays in FOLDER, so that a run that was cut off goes on, and one with more
`--methods` or `--seeds` adds to it; `--tiny` tries all steps in minutes, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import os
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import prefloop
from benchmarks.peers.environments import NotThere, interpreter
from benchmarks.peers.race import Side, once
from prefloop.artifacts.files import write_json
from prefloop.artifacts.folder import MANIFEST
from prefloop.audits.charts import standalone
from prefloop.audits.comparison import frontier
from prefloop.audits.report import write_page
from prefloop.evaluation.interval import mean_interval
from prefloop.generation.policy import Policy
from prefloop.generation.sampler import Sampling
from prefloop.models.device import pick_device, pick_dtype
from prefloop.records import as_messages
from prefloop.rewards.learned import LearnedReward
from prefloop.settings import read_yaml
from prefloop.workflows.evaluating import divergence

RUNS = Path(__file__).resolve().parent.parent / "runs"
DATA = Path(os.environ.get("PREFLOOP_DATA", RUNS.parent.parent / "shared" / "data")).resolve()
PROMPT_WORDS, ANSWER_WORDS, TOKENS = 8, 32, 48
SIZES = {"sft": 20_000, "pairs": 4000, "measured": 400, "held_out": 2500}
TINY = {"sft": 64, "pairs": 64, "measured": 16, "held_out": 200}
BEST_OF = (2, 4, 8, 16)
ONLINE: dict[str, list[dict[str, Any]]] = {
    "ppo": [{"beta": beta, "rollout_epochs": 2, "minibatches": 2} for beta in (0.1, 0.3, 1.0)],
    "a2c": [{"beta": 0.1, "minibatches": 2}],
    "trpo": [{"beta": 0.1, "max_kl": 0.01, "fisher_share": 0.1}],
    "nlpo": [{"beta": 0.1, "rollout_epochs": 2, "minibatches": 2}],
    "rloo": [{"beta": 0.1, "group_size": 8, "minibatches": 2}],
    "grpo": [{"beta": 0.1, "group_size": 8, "minibatches": 2}],
    # Nothing holds it to the reference: at the others' rate it ends in one text that the reward model likes.
    "rft": [{"group_size": 8, "minibatches": 2, "lr": 5e-5}],
    "online_dpo": [{"beta": 0.1, "group_size": 4}],
}
"""PPO at three prices of KL, the others at one."""
DIRECT: dict[str, list[dict[str, Any]]] = {
    "dpo": [{"beta": beta} for beta in (0.1, 0.3, 1.0)],
    "ipo": [{"tau": 0.1}],
    "apo": [{"beta": 0.1}],
    "kto": [{"beta": 0.1}],
    "simpo": [{"beta": 2.0}],
    "orpo": [{"odds_weight": 0.1}],
    "cpl": [{"alpha": 0.1}],
}
"""From the pairs; DPO at three prices of KL."""
LOGGED: dict[str, list[dict[str, Any]]] = {
    "ilql": [{"beta": 1.0}],
    "alol": [{}],
    "awr": [{"temperature": 0.5}],
}
"""From both continuations of each pair, scored by the reward model."""
STRONGER = 4.0
"""ILQL's beta only weighs what it has learned when it samples: what was trained once is measured at this one, too."""
THEIRS: dict[str, list[float]] = {"trl-rloo": [0.05, 0.1, 0.3], "trl-grpo": [0.05, 0.1, 0.3]}
"""TRL's trainers at these prices of KL, where `make peers` has made their environment; groups of 8 as ours."""
SHOWN = 60
"""Nats: what went farther is in the table and not in the picture, where it would push all others together."""
STYLE = "svg{font:9px sans-serif;max-width:60em;background:#fff}.line{fill:none}.dot{fill:#2a6}line{stroke:#bbb}"
METHODS = (*DIRECT, *LOGGED, *ONLINE, *THEIRS)
"""Beside SFT on the preferred continuations and the best of n, which are always there."""


class Sentiment:
    """The true reward: log-odds of a positive review, from words and pairs of words weighted by TF-IDF."""

    def __init__(self, folder: str) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        stored = np.load(Path(folder) / "weights.npz", allow_pickle=False)
        words = json.loads((Path(folder) / "words.json").read_text())
        self.vectorizer = TfidfVectorizer(vocabulary=words, **VECTORS)
        self.vectorizer.idf_ = stored["idf"]
        self.weights, self.bias = stored["weights"], float(stored["bias"])

    def odds(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        return np.asarray(self.vectorizer.transform(texts) @ self.weights + self.bias, dtype=np.float64)

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        texts = [f"{prompt[-1]['content']} {text}" for prompt, text in zip(prompts, completions, strict=True)]
        found: list[float] = self.odds(texts).tolist()
        return found


VECTORS: dict[str, Any] = {"ngram_range": (1, 2), "sublinear_tf": True}


def learn_classifier(folder: Path, labelled: Sequence[dict[str, Any]], held_out: int) -> dict[str, Any]:
    """Write the classifier to `folder`; returns its accuracy on reviews that it has not seen."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    rows = list(labelled)
    random.Random(0).shuffle(rows)
    learned, unseen = rows[held_out:], rows[:held_out]
    vectorizer = TfidfVectorizer(min_df=5, **VECTORS)
    features = vectorizer.fit_transform([row["text"] for row in learned])
    model = LogisticRegression(C=4.0, max_iter=300).fit(features, [row["label"] == "pos" for row in learned])
    folder.mkdir(parents=True)
    words = {word: int(at) for word, at in vectorizer.vocabulary_.items()}
    (folder / "words.json").write_text(json.dumps(words))
    np.savez(folder / "weights.npz", idf=vectorizer.idf_, weights=model.coef_[0], bias=model.intercept_[0])
    right = (Sentiment(str(folder)).odds([row["text"] for row in unseen]) > 0) == [r["label"] == "pos" for r in unseen]
    found = {"accuracy": mean_interval(right.astype(float).tolist(), [r["id"] for r in unseen], seed=0).as_dict()}
    write_json(folder / "measured.json", found)
    return found


def reviews(*labels: str) -> Iterator[dict[str, Any]]:
    """Those with one of the labels pos, neg and unsup (none)."""
    with lzma.open(DATA / "text" / "imdb.jsonl.xz", "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if row["label"] in labels:
                yield {**row, "text": " ".join(row["text"].replace("<br />", " ").split())}


def begun(texts: Sequence[str]) -> list[dict[str, str]]:
    """The first words of each review, and what follows."""
    cut = [text.split()[: PROMPT_WORDS + ANSWER_WORDS] for text in texts]
    return [
        {"prompt": " ".join(words[:PROMPT_WORDS]), "completion": " " + " ".join(words[PROMPT_WORDS:])}
        for words in cut
        if len(words) > PROMPT_WORDS + 4
    ]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def label_pairs(reference: Path, prompts: Sequence[str], truth: Sentiment, seed: int) -> list[dict[str, Any]]:
    """Two continuations of each prompt; which is chosen follows P = sigmoid(difference of the true rewards)."""
    asked = [as_messages(prompt) for prompt in prompts]
    groups = Policy(reference).answer(asked, 2, Sampling(max_new_tokens=TOKENS), seed=seed)
    stream, rows = random.Random(seed), []
    for prompt, messages, (a, b) in zip(prompts, asked, groups, strict=True):
        first, second = truth([messages] * 2, [a.text, b.text])
        chosen, rejected = (a, b) if stream.random() < 1 / (1 + math.exp(second - first)) else (b, a)
        said = {chosen.text, rejected.text}
        if len(said) == 2 and not any("\0" in text for text in said):  # a policy that has read little may write NUL
            rows.append({"prompt": prompt, "chosen": chosen.text, "rejected": rejected.text})
    return rows


def best_of(reference: Path, model: Path, truth: Sentiment, prompts: Sequence[Any], seed: int) -> list[dict[str, Any]]:
    """The best of n by the reward model: its true reward, and KL = log n - (n - 1) / n."""
    most = max(BEST_OF)
    groups = Policy(reference).answer(prompts, most, Sampling(max_new_tokens=TOKENS), seed=seed)
    where = pick_device("auto")
    judge = LearnedReward(model, pick_dtype("auto", where), where, max_length=128)
    rows = []
    scores = [
        judge([prompt] * most, [one.text for one in group]) for prompt, group in zip(prompts, groups, strict=True)
    ]
    for n in BEST_OF:
        picked = [group[int(np.argmax(s[:n]))].text for group, s in zip(groups, scores, strict=True)]
        reward = mean_interval(truth(prompts, picked), list(range(len(prompts))), seed=seed).as_dict()
        rows.append({"run": f"best of {n}", "reward": reward, "kl": {"value": math.log(n) - (n - 1) / n}})
    return rows


def theirs(work: str, beta: float, out: Path, sft: Path, model: Path, seed: int, tiny: bool) -> Path:
    """A policy that TRL trained as our online methods are: the same prompts, episodes, rate and reward model."""
    place = out / f"trl-{work}-{beta:g}"
    if (place / "config.json").is_file():
        return place
    run = read_yaml(RUNS / "sentiment_online.yaml")
    rows = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    asked = [as_messages(row["prompt"]) for row in rows]
    judge = LearnedReward(model, torch.float32, torch.device("cpu"), max_length=int(run["max_length"]))
    scores = judge(asked[:8], [row["chosen"] for row in rows[:8]])
    given = [
        {"prompt": prompt, "completion": row["chosen"], "score": score}
        for prompt, row, score in zip(asked, rows, scores, strict=False)
    ]
    write_json(out / "given.json", given)
    write_json(out / "prompts.json", asked)
    spec = {
        "work": work,
        "beta": beta,
        "group": 8,
        "tokens": TOKENS,
        "seed": seed,
        "batch": 16 if tiny else run["batch_size"],
        "micro": 16,
        "steps": 2 if tiny else run["steps"],
        "lr": run["lr"],
        "policy": str(sft),
        "reward": str(model),
        "given": str(out / "given.json"),
        "prompts": str(out / "prompts.json"),
        "folder": str(out / "trl"),
        "out": str(place),
    }
    spec = {name: str(Path(value).resolve()) if name in PLACES else value for name, value in spec.items()}
    once(Side(place.name, interpreter("trl-1.16"), "benchmarks.peers.sides.theirs_sentiment"), spec)
    return place


PLACES = ("policy", "reward", "given", "prompts", "folder", "out")


def measured(
    name: str, policy: Policy, origin: Policy, truth: Sentiment, asked: Sequence[Any], seed: int
) -> dict[str, Any]:
    """As `prefloop.compare` measures what prefloop trained."""
    answers = [group[0] for group in policy.answer(asked, 1, Sampling(max_new_tokens=TOKENS), seed=seed)]
    groups = list(range(len(asked)))
    return {
        "run": name,
        "reward": mean_interval(truth(asked, [one.text for one in answers]), groups, seed=seed).as_dict(),
        "kl": divergence(policy, origin, asked, answers, seed),
        "length": mean_interval([len(one.sample.ids) for one in answers], groups, seed=seed).as_dict(),
    }


def main(seeds: int, out: Path, tiny: bool, methods: Sequence[str] = METHODS) -> None:
    if not (DATA / "text" / "imdb.jsonl.xz").is_file():
        print(f"skipped: no {DATA / 'text' / 'imdb.jsonl.xz'}; set PREFLOOP_DATA to the folder that holds text/")
        return
    for seed in range(seeds):
        one_seed(seed, out, tiny, methods)
        joined([out / str(done) for done in range(seed + 1)], out)


def one_seed(seed: int, shared: Path, tiny: bool, methods: Sequence[str]) -> None:
    """Everything of one seed, in a folder of its own; what all seeds share lies beside it, made by the first."""
    out = shared / str(seed)
    out.mkdir(parents=True, exist_ok=True)
    sizes = TINY if tiny else SIZES

    def trained(
        method: str, name: str, run: str, *, folder: Path = out, small: dict[str, Any] | None = None, **given: Any
    ) -> Path:
        """The result of a run, made now or before."""
        place = folder / name
        if not (place / MANIFEST).is_file():
            overrides = {"seed": seed, "name": name, **given.pop("overrides", {}), **((small or {}) if tiny else {})}
            found = prefloop.train(
                method, RUNS / f"sentiment_{run}.yaml", out=place, overrides=overrides, resume=True, **given
            )
            print(f"{name}: {found['seconds']:.0f} s", flush=True)
        return place

    classifier = shared / "classifier"
    if not (classifier / "measured.json").is_file():
        labelled = list(reviews("pos", "neg"))
        found = learn_classifier(classifier, labelled[::20] if tiny else labelled, sizes["held_out"])
        print(f"classifier: {found['accuracy']}", flush=True)
    truth = Sentiment(str(classifier))
    texts = [row["text"] for row in reviews("unsup")]
    random.Random(1).shuffle(texts)
    rows = begun(texts[: sizes["sft"] + sizes["pairs"] + sizes["measured"]])
    asked = list(dict.fromkeys(row["prompt"] for row in rows[-sizes["measured"] :]))

    short: dict[str, Any] = {"steps": 3, "batch_size": 8}
    shape = {"vocab_size": 512, "hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 64}
    small = {**short, "shape": shape, "tokenizer_sample": 100_000, "eval_every": 0}
    source = {"text": [{"path": str(DATA / "text" / "imdb.jsonl.xz"), "tokens": 2e4 if tiny else 8.2e6}]}
    read = trained("pretrain", "pretrain", "pretrain", folder=shared, overrides=source, small=small)
    sft = trained(
        "sft", "sft", "sft", data=write_rows(out / "sft.jsonl", rows[: sizes["sft"]]), policy=read, small=short
    )
    pairs = out / "pairs.jsonl"
    if not pairs.is_file():
        prompts = list(dict.fromkeys(row["prompt"] for row in rows[sizes["sft"] : -sizes["measured"]]))
        write_rows(pairs, label_pairs(sft, prompts, truth, seed))
    model = trained("reward_model", "reward_model", "reward_model", data=pairs, policy=sft, small=short)
    preferred = [
        {"prompt": row["prompt"], "completion": row["chosen"]}
        for row in map(json.loads, pairs.read_text().splitlines())
    ]
    chosen = write_rows(out / "preferred.jsonl", preferred)
    said = [
        {"prompt": row["prompt"], "completion": row[side]}
        for row in map(json.loads, pairs.read_text().splitlines())
        for side in ("chosen", "rejected")
    ]
    log = write_rows(out / "log.jsonl", said)
    judged = {"reward_model": str(model)}
    runs = [trained("sft", "sft_preferred", "preferred", data=chosen, policy=sft, small=short)]
    for table, run, data, more in (
        (DIRECT, "pairs", pairs, {}),
        (LOGGED, "log", log, judged),
        (ONLINE, "online", pairs, judged),
    ):
        for method, several in table.items():
            for own in several:
                name = "-".join([method, *(f"{own[key]:g}" for key in ("beta",) if key in own)])
                if method in methods or (out / name / MANIFEST).is_file():
                    given = {**own, **more}
                    runs.append(trained(method, name, run, data=data, policy=sft, overrides=given, small=short))

    reward = out / "truth.yaml"
    arguments = json.dumps({"folder": str(classifier.resolve())})
    reward.write_text(f"sentiment: {{function: 'benchmarks.sentiment:Sentiment', arguments: {arguments}}}\n")
    compared = prefloop.compare(
        [sft, *runs],
        reward=reward,
        prompts=asked,
        reference=str(sft),
        max_new_tokens=TOKENS,
        seed=seed,
        out=out / "frontier.html",
    )
    messages = [as_messages(prompt) for prompt in asked]
    rows_found = [
        {"run": row["run"], "reward": row["reward"], "kl": row["kl"], "length": row["length"]}
        for row in compared["runs"]
    ]
    for place in [run for run in runs if run.name.startswith("ilql")]:
        stronger = Policy(place, beta=STRONGER)
        rows_found.append(measured(f"ilql-{STRONGER:g}", stronger, Policy(sft), truth, messages, seed))
    rows_found += best_of(sft, model, truth, messages, seed)
    there = any(name in methods for name in THEIRS)
    try:
        there = there and interpreter("trl-1.16").is_file()
    except NotThere as error:
        print(f"without TRL's trainers: {error}", file=sys.stderr)
        there = False
    for name, betas in THEIRS.items() if there else ():
        for beta in betas if name in methods else ():
            place = theirs(name.removeprefix("trl-"), beta, out, sft, model, seed, tiny)
            print(f"{place.name}: done", flush=True)
            rows_found.append(measured(place.name, Policy(place), Policy(sft), truth, messages, seed))
    write_json(out / "frontier.json", {"seed": seed, "tiny": tiny, "prompts": len(asked), "rows": rows_found})
    for row in sorted(rows_found, key=lambda row: row["kl"]["value"]):
        low, high = row["reward"].get("low"), row["reward"].get("high")
        print(f"{row['run']:>18}: KL {row['kl']['value']:7.2f}, reward {row['reward']['value']:+.3f} [{low}, {high}]")
    print(f"the frontier: {compared['page']}; {out / 'frontier.json'}", file=sys.stderr)


def joined(folders: Sequence[Path], out: Path) -> dict[str, Any]:
    """Mean and standard deviation over seeds of every run that all of them have, as a table, a file and a picture."""
    seeds = [json.loads((folder / "frontier.json").read_text()) for folder in folders]
    if len({one["tiny"] for one in seeds}) > 1:
        raise SystemExit(f"some seeds in {out} were tried with --tiny: give those a folder of their own")
    tables = [{row["run"]: row for row in one["rows"]} for one in seeds]
    rows = []
    for run in [run for run in tables[0] if all(run in table for table in tables)]:
        row: dict[str, Any] = {"run": run}
        for name in ("kl", "reward"):
            values = [table[run][name]["value"] for table in tables]
            spread = stdev(values) if len(values) > 1 else 0.0
            row[name] = {"value": mean(values), "low": mean(values) - spread, "high": mean(values) + spread}
            row[f"{name} of each seed"] = values
        rows.append(row)
    for row in sorted(rows, key=lambda row: row["kl"]["value"]):
        kl, reward = (f"{v['value']:.3f} ± {v['high'] - v['value']:.3f}" for v in (row["kl"], row["reward"]))
        print(f"{row['run']:>18}: KL {kl}, reward {reward}")
    result = {"seeds": [one["seed"] for one in seeds], "tiny": seeds[0]["tiny"], "rows": rows}
    write_json(out / "seeds.json", result)
    chart = frontier([row for row in rows if row["kl"]["value"] <= SHOWN], [])
    if chart is None:
        raise SystemExit(f"no run in {out} stayed within {SHOWN} nats: there is nothing to draw")
    picture = standalone(chart, STYLE)
    (out / "seeds.svg").write_text(picture, encoding="utf-8")
    head = "<!doctype html><meta charset=utf-8><title>Controlled sentiment</title>"
    write_page(f"{head}<h1>Controlled sentiment, {len(seeds)} seeds</h1>{picture}", out / "seeds.html")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("sentiment"))
    parser.add_argument("--methods", default=",".join(METHODS), help="without it all of them: %(default)s")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    if unknown := set(given.methods.split(",")) - {*METHODS}:
        parser.error(f"unknown method {min(unknown)}; the methods are {', '.join(METHODS)}")
    else:
        main(given.seeds, given.out, given.tiny, given.methods.split(","))
