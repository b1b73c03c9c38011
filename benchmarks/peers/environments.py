"""The peers' environments, one each: `make peers` makes those that are missing.

They lie in `.bench/`, or in PREFLOOP_BENCH. Torch and transformers have the versions of constraints.txt, as ours.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = Path(os.environ.get("PREFLOOP_BENCH", ROOT / ".bench"))

PEERS = {
    "trl-1.16": ("trl==1.16.0", "psutil"),  # transformers' continuous batching measures the memory with psutil
    "trl-1.12": ("trl==1.12.0", "psutil"),  # the last release with PPO
}


class NotThere(Exception):
    """What was asked for does not exist, as a peer's environment that was not made yet."""


def interpreter(peer: str) -> Path:
    """The Python of a peer's environment. Raises NotThere, with what to do, where there is none."""
    python = FOLDER / peer / "bin" / "python"
    if not _marker(peer).exists():
        raise NotThere(f"no environment for {peer} in {FOLDER}; make it with: make peers")
    return python


def make(peer: str) -> None:
    """Make one environment, unless it is there."""
    if _marker(peer).exists():
        return
    place = FOLDER / peer
    print(f"making {place}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--constraint", str(ROOT / "constraints.txt"), *PEERS[peer]], check=True)
    _marker(peer).write_text("\n".join(PEERS[peer]) + "\n")


def _marker(peer: str) -> Path:
    return FOLDER / peer / ".installed"


if __name__ == "__main__":
    for name in PEERS:
        make(name)
