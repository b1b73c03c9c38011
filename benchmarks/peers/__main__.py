"""`python -m benchmarks.peers [WORK ...]`: the table as one JSON object; progress goes to standard error.

`prefloop bench` runs this. What goes wrong is an object too: `{"error": message}`, with exit code 2 for a work
that does not exist or a peer's environment that was not made, and 1 for a side that failed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers import online, pairs, sampling
from benchmarks.peers.environments import PEERS, NotThere, interpreter

Rows = Callable[[str, Path, str], list[dict[str, Any]]]
"""`rows(work, folder, dtype)`: the rows of one work; `folder` is empty and goes afterwards."""

WORKS: dict[str, Rows] = {
    "sampling_hh": sampling.rows,
    "sampling_equal": sampling.rows,
    **dict.fromkeys(pairs.WORKS, pairs.rows),
    **dict.fromkeys(online.WORKS, online.rows),
}


def main(works: list[str]) -> int:
    rows: list[dict[str, Any]] = []
    try:
        if unknown := [work for work in works if work not in WORKS]:
            raise NotThere(f"unknown work {unknown[0]!r}; the works are: {', '.join(WORKS)}")
        for peer in PEERS:
            interpreter(peer)
        dtype = native_dtype()
        for work in works or WORKS:
            print(f"{work}, {dtype}", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory() as folder:
                rows += [{**row, "dtype": dtype} for row in WORKS[work](work, Path(folder), dtype)]
    except (NotThere, RuntimeError) as error:
        print(json.dumps({"error": str(error)}))
        return 2 if isinstance(error, NotThere) else 1
    print(json.dumps({"rows": rows}))
    return 0


def native_dtype() -> str:
    """The number format that this processor multiplies fastest; both sides get it."""
    import torch

    from prefloop.models.device import pick_dtype

    return str(pick_dtype("auto", torch.device("cpu"))).removeprefix("torch.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
