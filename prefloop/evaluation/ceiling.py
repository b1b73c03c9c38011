"""How often two people agree about the very pairs that a model is tested on: what it cannot be expected to exceed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefloop.evaluation.interval import share_interval
from prefloop.records import Comparison, prompt_id


def human_ceiling(rows: Sequence[Comparison], *, seed: int = 0) -> dict[str, Any] | None:
    """How often two annotators who both chose a side chose the same: {"value", "low", "high", "n" (pairs of people)}.

    From the columns `n` (votes) and `ties` (their share of ties) of a snapshot's rows. None where no pair has two
    votes, or where the labels are not shares of votes (a model's, a soft label of the source's own).
    """
    agreed: list[float] = []
    prompts: list[str] = []
    for row in rows:
        votes = row.columns.get("n")
        if not isinstance(votes, int) or isinstance(votes, bool) or votes < 2:
            continue
        ties = float(row.columns.get("ties") or 0.0)
        first = (row.label - ties / 2) * votes
        second = votes - first - ties * votes
        if abs(first - round(first)) > 1e-6 or abs(second - round(second)) > 1e-6:
            return None
        one, other = round(first), round(second)
        same, different = one * (one - 1) // 2 + other * (other - 1) // 2, one * other
        agreed += [1.0] * same + [0.0] * different
        prompts += [prompt_id(row.prompt)] * (same + different)
    return share_interval(agreed, prompts, seed=seed).as_dict() if agreed else None
