"""The comparison with other libraries: its material, its arithmetic, and what it says when a peer is not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import mean, quantiles

import pytest

from benchmarks.peers import material, pairs, race
from benchmarks.peers.environments import ROOT
from benchmarks.peers.sides import ours_pairs
from tests.small import write_inputs

HALF = """
import sys
from benchmarks.peers.race import side
kept = bytearray({megabytes} * 2**20)
side(lambda spec: {{"units": spec["n"], "seconds": {seconds}, "version": "9", "held": len(kept)}})
"""


def test_lengths_are_those_of_hh() -> None:
    """Mean 61, 90th percentile 141, longest 540 (within the rounding of a table of quantiles)."""
    found = material.completion_lengths(4000)
    assert 59 < mean(found) < 63
    assert 140 < quantiles(found, n=10)[-1] < 148
    assert 530 <= max(found) <= 540
    prompts = material.prompt_lengths(4000)
    assert max(prompts) + max(found) <= material.POSITIONS
    assert 132 < mean(prompts) < 148


def test_the_prompts_have_the_lengths_that_were_asked_for(tmp_path: Path) -> None:
    from benchmarks.peers.sampling import token_ids

    model = material.write_model(tmp_path / "model")
    material.write_prompts(tmp_path / "prompts.jsonl", 12)
    ids = token_ids(model, tmp_path / "prompts.jsonl")
    assert [len(prompt) for prompt in ids] == material.prompt_lengths(12)
    size = sum(p.numel() for p in _load(model).parameters())
    assert 12.4e6 < size < 12.6e6


def _load(model: Path):  # type: ignore[no-untyped-def]
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model)


def test_of_settings_that_are_as_fast_the_smaller_one_is_raced() -> None:
    """2 % slower is as fast, 4 % is not; of two of one size the faster one."""
    sizes = [{"tokens": 512}, {"tokens": 1024}, {"tokens": 2048}]
    assert pairs.chosen(sizes, [96.0, 98.0, 100.0]) == {"tokens": 1024}
    assert pairs.chosen(sizes, [99.0, 98.0, 90.0]) == {"tokens": 512}
    ways = [{"micro": 4, "attention": "sdpa"}, {"micro": 4, "attention": "eager"}, {"micro": 8, "attention": "sdpa"}]
    assert pairs.chosen(ways, [98.0, 99.0, 100.0]) == ways[1]


def test_rates_and_memory_are_those_of_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """10 units in 2 s against 10 in 5 s: 2.5 times as fast. The second holds 300 MiB more than the first."""
    for name, seconds, megabytes in (("quick", 2.0, 1), ("slow", 5.0, 301)):
        (tmp_path / f"{name}_side.py").write_text(HALF.format(seconds=seconds, megabytes=megabytes))
    python = Path(sys.executable)
    monkeypatch.setattr(race, "ROOT", f"{ROOT}:{tmp_path}")
    quick, slow = race.race(
        [race.Side("quick", python, "quick_side"), race.Side("slow", python, "slow_side")], {"n": 10}, repeats=1
    )
    found = race.row("made", "units/s", quick, "slow", slow)
    assert (found["ours"], found["peer"], found["ratio"]) == (5.0, 2.0, 2.5)
    assert 290 < found["peer_mb"] - found["ours_mb"] < 310
    assert found["memory_ratio"] == pytest.approx(found["ours_mb"] / found["peer_mb"], abs=1e-3)
    assert "cores" in found["machine"]


def test_a_side_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_side.py").write_text("raise SystemExit('the model is not there')")
    monkeypatch.setattr(race, "ROOT", f"{ROOT}:{tmp_path}")
    with pytest.raises(RuntimeError, match="the model is not there"):
        race.once(race.Side("broken", Path(sys.executable), "broken_side"), {})


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--work", "sampling_hh"], "make it with: make peers"), (["--work", "sumpling"], "unknown work 'sumpling'")],
)
def test_bench_says_what_is_missing(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFLOOP_BENCH", str(tmp_path))
    command = [sys.executable, "-m", "prefloop", "bench", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in json.loads(done.stdout)["error"]


def test_the_references_pass_counts_where_it_is_timed(tmp_path: Path) -> None:
    """6 operations per weight and token for a pass forward and backward, 2 for one that is forward only."""
    inputs = write_inputs(tmp_path)
    spec = {"method": "dpo", "model": str(inputs / "policy"), "data": str(inputs / "pairs.jsonl"), "dtype": "float32"}
    here, there = (
        ours_pairs.work({**spec, "batch": 8, "tokens": 512, "precomputed": known}) for known in (False, True)
    )
    assert here["units"] == there["units"] > 0
    assert here["gflop"] / there["gflop"] == pytest.approx(8 / 6)
    assert here["agreement"] == there["agreement"] < 0


@pytest.mark.parametrize("method", ["reward_model", "sft"])
def test_our_side_of_the_other_works_runs(method: str, tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    spec = {"method": method, "model": str(inputs / "policy"), "data": str(inputs / "pairs.jsonl"), "dtype": "float32"}
    found = ours_pairs.work({**spec, "batch": 8, "tokens": 512, "precomputed": False})
    assert found["units"] > 0
    assert found["gflop"] > 0
