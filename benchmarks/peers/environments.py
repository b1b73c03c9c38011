"""The peers' environments, one each: `make peers` makes those that are missing.

They lie in `.bench/`, or in PREFLOOP_BENCH. Those that train have torch and transformers of constraints.txt, as ours.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = Path(os.environ.get("PREFLOOP_BENCH", ROOT / ".bench"))

ALIKE = ("--constraint", str(ROOT / "constraints.txt"))
PEERS = {
    "trl-1.16": (*ALIKE, "trl==1.16.0", "psutil"),  # transformers' continuous batching measures the memory with psutil
    "trl-1.12": (*ALIKE, "trl==1.12.0", "psutil"),  # the last release with PPO
}
"""Trainers, and what pip is given for each."""
APPS = {"label-studio-1.23": ("label-studio==1.23.2",)}
"""What people label with; `python -m benchmarks.web` stands beside it."""


class NotThere(Exception):
    """What was asked for does not exist, as a peer's environment that was not made yet."""


def interpreter(peer: str) -> Path:
    """The Python of a peer's environment. Raises NotThere, with what to do, where there is none."""
    python = FOLDER / peer / "bin" / "python"
    if not _marker(peer).exists():
        raise NotThere(f"no environment for {peer} in {FOLDER}; make it with: make peers")
    return python


def make(peer: str, packages: Sequence[str]) -> None:
    """Make one environment, unless it is there."""
    if _marker(peer).exists():
        return
    place = FOLDER / peer
    print(f"making {place}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *packages], check=True)
    _marker(peer).write_text("\n".join(packages) + "\n")


def _marker(peer: str) -> Path:
    return FOLDER / peer / ".installed"


if __name__ == "__main__":
    for name, packages in (PEERS | APPS).items():
        make(name, packages)
