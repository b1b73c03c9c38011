"""What the answers are worth: agreement, annotators, consensus. docs/quality.md"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from prefloop.workflows.places import Place, store_of, workspace_at


def measure_quality(
    *, workspace: Place = None, round: int | None = None, slices: Collection[str] = ("subset", "source"), seed: int = 0
) -> dict[str, Any]:
    """How far people agree, what each annotator's answers are worth, and how certain the consensus is.

    `round`: the answers of one round only. `slices`: columns by whose values agreement is also given. `seed`: of the
    bootstraps.

    Returns `agreement` (agreement.agreement_of), `annotators` (for each `id`, `n`, `reliability` with `low` and `high`,
    `flags`: the names of findings, `weight`, and what they rest on), `consensus` (`questions` with an answer, and how
    many are `uncertain`), `findings` (how many annotators have which), `removed` (share of the answers' weight that the
    findings take away) and `warnings`. Nothing is written: findings lower weights when a snapshot is made, and ask
    somebody to look.
    """
    from prefloop.quality.agreement import agreement_of
    from prefloop.quality.assessment import assess, flag_counts
    from prefloop.quality.evidence import gather

    with store_of(workspace_at(workspace)) as store:
        judgements = gather(store, round=round, slices=slices)
    found = assess(judgements)
    questions, uncertain = found.uncertain()
    return {
        "agreement": agreement_of(judgements, seed=seed),
        "annotators": [one.as_dict() for one in found.annotators],
        "consensus": {"questions": questions, "uncertain": uncertain},
        "findings": flag_counts(found.annotators),
        "removed": found.removed,
        "warnings": found.warnings,
    }
