"""`prefloop bench`: side by side with the libraries that people use. The benchmarks stand beside the package."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import prefloop
from prefloop.errors import InputError, RunError

SOURCES = Path(prefloop.__file__).resolve().parent.parent


def bench(works: Sequence[str] = ()) -> dict[str, Any]:
    """Run the comparisons named in `works` (without any: all) and return `{"rows": [...]}`, minutes to an hour later.

    Raises InputError for an unknown work, without the source tree, or before `make bench` made the peers' environments;
    RunError when a side fails.
    """
    if not (SOURCES / "benchmarks" / "peers").is_dir():
        raise InputError("bench needs prefloop's source tree, with benchmarks/ beside prefloop/; run it from a clone")
    command = [sys.executable, "-m", "benchmarks.peers", *works]
    done = subprocess.run(command, cwd=SOURCES, stdout=subprocess.PIPE, text=True, check=False)
    found: dict[str, Any] = json.loads(done.stdout or '{"error": "the benchmark gave no result"}')
    if "error" in found:
        raise (InputError if done.returncode == InputError.exit_code else RunError)(found["error"])
    return found
