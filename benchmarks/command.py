"""Run a verb of the command line as a user would, and read the JSON object that it prints."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def prefloop(*words: str | Path, cwd: Path) -> tuple[dict[str, Any], float]:
    """The result of `prefloop WORDS --json` and its seconds. Raises RuntimeError with the message when it fails."""
    started = time.monotonic()
    command = [sys.executable, "-m", "prefloop", *map(str, words), "--json"]
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}")
    return json.loads(done.stdout), time.monotonic() - started


def interval(value: dict[str, Any], key: str = "value") -> str:
    """`0.583 [0.530, 0.637], n = 300`."""
    return f"{value[key]:.3f} [{value['low']:.3f}, {value['high']:.3f}], n = {value['n']}"
