"""What the answers are worth: agreement, annotators, consensus. docs/quality.md"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from prefloop.settings import check_choice
from prefloop.workflows.places import Place, store_of, workspace_at


def measure_quality(
    *, workspace: Place = None, round: int | None = None, slices: Collection[str] = ("subset", "source"), seed: int = 0
) -> dict[str, Any]:
    """How far people agree, what each annotator's answers are worth, and how certain the consensus is.

    `round`: the answers of one round only. `slices`: columns by whose values agreement is also given. `seed`: of the
    bootstraps.

    Returns `agreement` (agreement.agreement_of), `annotators` (for each `id`, `n`, `reliability` with `low` and `high`,
    `flags`: the names of findings, `weight`, a lead's `ruling`, and what they rest on), `consensus` (`questions` with
    an answer, and how many are `uncertain`), `findings` (how many annotators have which), `removed` (share of the
    answers' weight that findings and exclusions take away) and `warnings`. Nothing is written: findings lower weights
    when a snapshot is made, and ask a lead to look, who decides by `rule_on`.
    """
    from prefloop.quality.evidence import gather
    from prefloop.quality.report import report_of
    from prefloop.store.rulings import rulings

    with store_of(workspace_at(workspace)) as store:
        judgements = gather(store, round=round, slices=slices)
        ruled = rulings(store)
    return report_of(judgements, ruled, seed)


def rule_on(annotator: str, decision: str, *, workspace: Place = None) -> dict[str, Any]:
    """Decide about the findings on somebody's answers: "keep", "exclude" or "as_found". docs/quality.md

    keep: the findings that there are now lower the weight no more, a new one does. exclude: the answers count nowhere.
    as_found: takes that back. The next snapshot goes by it, and the audit log tells of it. Returns `annotator`,
    `decision` and the `findings` that there are. Raises InputError for an unknown annotator or decision.
    """
    from prefloop.quality.assessment import standings_of
    from prefloop.quality.evidence import gather
    from prefloop.store.rulings import DECISIONS, rule

    check_choice("decision", decision, DECISIONS)
    with store_of(workspace_at(workspace)) as store:
        findings = next((one.flags for one in standings_of(gather(store)) if one.id == annotator), ())
        rule(store, annotator, next(one for one in DECISIONS if one == decision), findings)
    return {"annotator": annotator, "decision": decision, "findings": sorted(findings)}
