"""What answers are worth: planted annotators found, the consensus under inverters, and two crowds of real people.

python -m benchmarks.worth [PANELS]            (150; PREFLOOP_DATA names the folder of real data)

The planted annotators are those of `planted.proof_panel`; thresholds were tuned on `planted.tuning_panel`, another
world with other seeds.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import prefloop
from prefloop.evaluation.interval import mean_interval, share_interval, wilson
from prefloop.labelers.planted import BAD, OVERLAP, Planted, inverters_panel, proof_panel
from prefloop.quality.assessment import assess, consensus_of
from prefloop.records import content_hash

FIRST_SEED = 130_000
DATA = Path(os.environ.get("PREFLOOP_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")).resolve()
Detection = dict[str, tuple[int, int]]


def detection(panels: int, first_seed: int = FIRST_SEED) -> tuple[Detection, dict[str, Counter[str]]]:
    """Kind -> (with a finding, all), and which findings."""
    found: Counter[str] = Counter()
    n: Counter[str] = Counter()
    names: dict[str, Counter[str]] = defaultdict(Counter)
    for seed in range(first_seed, first_seed + panels):
        panel = proof_panel(seed, dissenters=4)
        for one in assess(panel.judgements).annotators:
            kind = panel.kinds[one.id]
            n[kind] += 1
            found[kind] += bool(one.flags)
            names[kind].update(one.flags)
    return {kind: (found[kind], n[kind]) for kind in n}, names


def consensus_accuracy(
    panels: int, overlap: int, inverted: int, first_seed: int = FIRST_SEED
) -> list[dict[str, float]]:
    """For each panel: how often the consensus names the better side; with inverters, without them, and by majority."""
    rows = []
    for seed in range(first_seed, first_seed + panels):
        bad, clean = (
            inverters_panel(seed, inverted=inverted, overlap=overlap),
            inverters_panel(seed, inverted=0, overlap=overlap),
        )
        rows.append({"ours": _right(bad), "majority": _majority_right(bad), "clean": _right(clean)})
    return rows


def _right(panel: Planted) -> float:
    """Of the questions that are not gold. Half a point where the consensus is exactly undecided."""
    standing = {one.id: one.weight for one in assess(panel.judgements).annotators}
    gold = {item for one in panel.judgements for item in one.gold}
    said = consensus_of(panel.judgements, standing)
    scores = [
        0.5 if one.probability == 0.5 else float(one.label == panel.truth[item])
        for item, one in said.items()
        if item not in gold
    ]
    return float(np.mean(scores))


def _majority_right(panel: Planted) -> float:
    """The same by the most votes; half a point for a draw."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for one in panel.judgements:
        if not one.gold:
            votes[one.atoms[0].item][one.atoms[0].label] += 1
    scores = []
    for item, counts in votes.items():
        lead = counts["a"] - counts["b"]
        scores.append(0.5 if lead == 0 else float(("a" if lead > 0 else "b") == panel.truth[item]))
    return float(np.mean(scores))


def competence(data: Path) -> dict[str, Any]:
    """UKPConvArg1 through `prefloop import` and `prefloop quality`: Spearman with the published MACE competence."""
    file = data / "preferences" / "ukpconvarg1.jsonl.gz"
    published: dict[str, float] = {}
    with gzip.open(file, "rt", encoding="utf-8") as rows:
        for row in map(json.loads, rows):
            for vote in row["votes"]:
                who = f"imported:{content_hash([vote['worker'], 'UKPLab/acl2016-convincing-arguments'])[:16]}"
                published[who] = vote["mace"]
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        prefloop("init", ".", cwd=here)
        imported, _ = prefloop("import", file, "--as", "comparisons", cwd=here)
        result, seconds = prefloop("quality", cwd=here)
    people = [(one["reliability"], published[one["id"]], one["n"]) for one in result["annotators"]]
    spearman = {}
    for least in (1, 10, 50):
        some = [(ours, theirs) for ours, theirs, n in people if n >= least]
        spearman[least] = _spearman_interval(some)
    return {
        "imported": imported["imported"],
        "rejected": imported["rejected"],
        "seconds": seconds,
        "spearman": spearman,
        "flagged": sum(bool(one["flags"]) for one in result["annotators"]),
        "findings": result["findings"],
        "agreement": result["agreement"],
        "consensus": result["consensus"],
    }


def rag(data: Path) -> dict[str, Any]:
    """The RAG crowd through `prefloop import`: what is kept."""
    from prefloop.store.database import open_store
    from prefloop.store.feedback import answers

    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        prefloop("init", ".", cwd=here)
        file = data / "preferences" / "rag_crowd.pairs.jsonl.gz"
        imported, _ = prefloop("import", file, "--as", "comparisons", cwd=here)
        result, _ = prefloop("quality", "--slice", "worker_sex", cwd=here)
        with contextlib.closing(open_store(here / "prefloop.db")) as store:
            rows = list(answers(store))
    return {
        "imported": imported["imported"],
        "rejected": imported["reasons"],
        "annotators": len({row.annotator for row in rows}),
        "with seconds": sum(row.seconds is not None for row in rows),
        "with demographics": sum("worker_age" in row.columns for row in rows),
        "agreement": result["agreement"],
        "findings": result["findings"],
    }


def _spearman_interval(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Spearman's rho with a 95 % bootstrap over people."""
    values = np.array(pairs)
    rng = np.random.default_rng(0)
    drawn = [_spearman(values[rng.integers(0, len(values), len(values))]) for _ in range(1000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": _spearman(values), "low": float(low), "high": float(high), "n": len(values)}


def _spearman(values: Any) -> float:
    return float(np.corrcoef(_ranks(values[:, 0]), _ranks(values[:, 1]))[0, 1])


def _ranks(values: Any) -> Any:
    """Ranks, equal values sharing their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def main(panels: int) -> None:
    found, names = detection(panels)
    print(f"planted annotators, {panels} panels from seed {FIRST_SEED}:")
    bad = [sum(found[kind][i] for kind in BAD) for i in (0, 1)]
    for kind, (k, n) in [*found.items(), ("all bad", (bad[0], bad[1]))]:
        low, high = wilson(k / n, n)
        print(f"  {kind}: {k} of {n} = {k / n:.4f} [{low:.4f}, {high:.4f}]  {dict(names.get(kind, {}))}")
    for overlap in (3, OVERLAP):
        rows = consensus_accuracy(panels, overlap, 3)
        figures = {key: share_interval([row[key] for row in rows]) for key in rows[0]}
        figures["clean - ours"] = mean_interval([row["clean"] - row["ours"] for row in rows])
        figures["ours - majority"] = mean_interval([row["ours"] - row["majority"] for row in rows])
        print(f"3 inverters of 30 people, {overlap} answers a question, {panels} panels:")
        for key, one in figures.items():
            print(f"  {key}: {one.value:.4f} [{one.low:.4f}, {one.high:.4f}], n = {one.n}")
    if not (DATA / "preferences").is_dir():
        print(f"real people: skipped, no {DATA / 'preferences'}; set PREFLOOP_DATA")
        return
    print("UKPConvArg1:", json.dumps(competence(DATA)))
    print("RAG crowd:", json.dumps(rag(DATA)))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 150)
