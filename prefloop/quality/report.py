"""What the answers are worth, as one report: what `prefloop quality` prints and the leads' pages show.

    python -m prefloop.quality.report        reads the store's address on standard input, and keeps the report there

The app lets a process of its own make it, for it looks at every answer and takes seconds where there are many.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from prefloop.quality.agreement import agreement_of
from prefloop.quality.assessment import assess, flag_counts
from prefloop.quality.evidence import Judgement, gather
from prefloop.store.database import Store, open_store
from prefloop.store.reports import keep_report, moment
from prefloop.store.rulings import Ruling, rulings

NAME = "quality"
BEHIND = 5
"""How far this stands back (`nice`): people who answer come first."""


def report_of(judgements: Sequence[Judgement], ruled: Mapping[str, Ruling], seed: int = 0) -> dict[str, Any]:
    """`agreement`, `annotators`, `consensus`, `findings`, `removed` and `warnings`: what `quality --json` prints.

    seed: of the bootstraps.
    """
    found = assess(judgements, ruled)
    questions, uncertain = found.uncertain()
    return {
        "agreement": agreement_of(judgements, seed=seed),
        "annotators": [one.as_dict() for one in found.annotators],
        "consensus": {"questions": questions, "uncertain": uncertain},
        "findings": flag_counts(found.annotators),
        "removed": found.removed,
        "warnings": found.warnings,
    }


def make_report(store: Store) -> None:
    """Look at everything that is in the store now, and keep what was found under NAME."""
    begun, at = time.monotonic(), moment(store)
    value = report_of(gather(store), rulings(store))
    keep_report(store, NAME, at, time.monotonic() - begun, value)


def main() -> None:
    """The process beside the app."""
    with contextlib.suppress(AttributeError, OSError):  # not everywhere is there such a thing
        os.nice(BEHIND)
    with contextlib.closing(open_store(sys.stdin.readline().strip())) as store:
        make_report(store)


if __name__ == "__main__":
    main()
