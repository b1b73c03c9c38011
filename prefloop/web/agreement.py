"""How far people agree, for the leads' pages: figures of `prefloop.quality` on what is in the store."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations

from prefloop.store.database import Store
from prefloop.store.feedback import answers
from prefloop.web.reading import verdict


@dataclass(frozen=True)
class KindAgreement:
    """Of one kind of question: how often two people who answered the same one said the same."""

    kind: str
    share: float | None
    """Percent agreement, 0..1; None where no question has two answers."""
    pairs: int
    questions: int
    low: float | None = None
    high: float | None = None
    alpha: float | None = None
    """Krippendorff's."""
    alpha_low: float | None = None
    alpha_high: float | None = None
    why: str | None = None
    """Why a figure is missing."""


def agreement_by_kind(store: Store) -> list[KindAgreement]:
    """Percent agreement per kind, from every answer that stands. Free text has none: two texts are never the same."""
    said: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for row in answers(store):
        if row.skipped or row.late or row.kind in ("edit", "demonstration"):
            continue
        said[row.kind][row.question_id][row.annotator] = str(verdict(row.kind, row.value))
    found = []
    for kind, by_question in sorted(said.items()):
        pairs = [pair for votes in by_question.values() for pair in combinations(votes.values(), 2)]
        several = sum(len(votes) > 1 for votes in by_question.values())
        agree = sum(one == other for one, other in pairs)
        found.append(KindAgreement(kind, agree / len(pairs) if pairs else None, len(pairs), several))
    return found
