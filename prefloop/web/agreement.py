"""What the answers are worth, for the leads' pages: the figures of `prefloop.quality` on what is in the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefloop.quality.agreement import agreement_of
from prefloop.quality.assessment import Standing, assess
from prefloop.quality.evidence import gather
from prefloop.store.database import Store
from prefloop.store.rulings import rulings


@dataclass(frozen=True)
class KindAgreement:
    """Of one kind of question: how often two people who answered the same one said the same."""

    kind: str
    percent: dict[str, Any]
    """`value` (0..1, None where it is undefined), `low`, `high`, `n` (pairs of answers), `questions`, maybe `why`."""
    alpha: dict[str, Any]
    """Krippendorff's, in the same form."""


@dataclass(frozen=True)
class Worth:
    """Everything that the page shows."""

    kinds: list[KindAgreement]
    simulated: bool
    """Only machines answered."""
    annotators: list[Standing]
    questions: int
    """With a consensus."""
    uncertain: int
    """Of those: one more answer could turn them."""
    removed: float
    """Share of the answers' weight that findings and exclusions take away."""
    warnings: list[str]


def worth_of(store: Store) -> Worth:
    """Agreement by kind, each annotator's reliability and findings, and how certain the consensus is."""
    judgements = gather(store)
    agreement = agreement_of(judgements)
    found = assess(judgements, rulings(store))
    questions, uncertain = found.uncertain()
    return Worth(
        kinds=[KindAgreement(kind, one["percent"], one["alpha"]) for kind, one in agreement["kinds"].items()],
        simulated=agreement["simulated"],
        annotators=sorted(found.annotators, key=lambda one: (one.reliability, one.id)),
        questions=questions,
        uncertain=uncertain,
        removed=found.removed,
        warnings=found.warnings,
    )
