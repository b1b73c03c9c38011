"""Two sides, one task: each in a fresh process of its own interpreter, in turns; medians of rate and peak memory.

There are three turns, or fewer where they take long; a row says how many.

A side is a module with `work(spec) -> dict` that ends with `side(work)`. What it returns holds `units` and `seconds`
(what was done, and how long the measured part took, loading left out) and `version`; what else it returns is printed.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peers.environments import ROOT

REPEATS, ENOUGH = 3, 900.0
"""Turns, and the seconds after which no further one begins: `generate` takes 12 minutes for HH's lengths on two cores,
and rates of so long a run hardly vary."""


@dataclass(frozen=True)
class Side:
    """One contender."""

    name: str
    python: Path
    module: str


@dataclass(frozen=True)
class Outcome:
    """What one side did."""

    rate: float
    """Median units per second."""
    memory: float
    """Median of the peak resident memory of its process, MiB."""
    version: str
    runs: list[dict[str, Any]]


def ours(module: str) -> Side:
    """Our side, in this interpreter."""
    return Side("prefloop", Path(sys.executable), module)


def race(sides: Sequence[Side], spec: dict[str, Any], repeats: int = REPEATS) -> list[Outcome]:
    """Run every side `repeats` times, in turns; no further turn begins after `ENOUGH` seconds."""
    runs: list[list[dict[str, Any]]] = [[] for _ in sides]
    started = time.monotonic()
    for turn in range(repeats):
        if turn and time.monotonic() - started > ENOUGH:
            break
        for side_runs, contender in zip(runs, sides, strict=True):
            found = once(contender, spec)
            side_runs.append(found)
            told = {k: v for k, v in found.items() if k not in ("units", "seconds", "version")}
            rate = found["units"] / found["seconds"]
            print(f"  {turn + 1}/{repeats} {contender.name}: {rate:.1f}/s {told}", file=sys.stderr, flush=True)
    return [
        Outcome(
            median(run["units"] / run["seconds"] for run in each),
            median(run["peak_mb"] for run in each),
            each[0]["version"],
            each,
        )
        for each in runs
    ]


def once(contender: Side, spec: dict[str, Any]) -> dict[str, Any]:
    """One run of one side. Raises RuntimeError with its last words when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "spec.json", Path(folder) / "result.json"
        asked.write_text(json.dumps(spec))
        # A peer keeps its libraries' own sizes, which prefloop changes for the process that imports it: not this
        # module, which the peers' sides import, too.
        from prefloop.models import PREPARED

        inherited = {name: value for name, value in os.environ.items() if name not in PREPARED}
        environment = {**inherited, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [str(contender.python), "-m", contender.module, str(asked), str(answered)]
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode or not answered.exists():
            raise RuntimeError(f"{contender.name} failed ({' '.join(command)}):\n{done.stdout[-3000:]}")
        found: dict[str, Any] = json.loads(answered.read_text())
        return found


def side(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """What a side's module ends with: do the work that the command line names and write what came of it."""
    found = work(json.loads(Path(sys.argv[1]).read_text()))
    Path(sys.argv[2]).write_text(json.dumps({**found, "peak_mb": round(peak_memory(), 1)}))


def peak_memory() -> float:
    """The most memory that this process has held at once, MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: its figure remembers the process that this one was forked from.
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 1024


def row(work: str, unit: str, us: Outcome, peer_name: str, peer: Outcome) -> dict[str, Any]:
    """One line of the table. `ratio` above 1: we are faster; `memory_ratio` below 1: we need less."""
    return {
        "work": work,
        "ours": round(us.rate, 3),
        "peer": round(peer.rate, 3),
        "ratio": round(us.rate / peer.rate, 2),
        "unit": unit,
        "peer_name": peer_name,
        "peer_version": peer.version,
        "memory_ratio": round(us.memory / peer.memory, 3),
        "ours_mb": us.memory,
        "peer_mb": peer.memory,
        "turns": len(us.runs),
        "machine": machine(),
    }


def machine() -> str:
    """Processor, cores and instructions for bfloat16."""
    name, flags = platform.processor() or platform.machine(), ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in lines.items()}
        name, flags = fields.get("model name", name), fields.get("flags", "")
    bf16 = "with" if "avx512_bf16" in flags else "without"
    return f"{os.cpu_count()} cores of {name}, {bf16} bf16 instructions"
