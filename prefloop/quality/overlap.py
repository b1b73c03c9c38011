"""How many answers a question needs: one first, more while the consensus is uncertain.

A question whose answers agree is settled sooner than one that divides people, so that the answers go where they tell
most. Stopping when people agree makes the settled questions look more unanimous than they are; therefore a random share
of the questions, the control arm, gets a fixed number of answers whatever they say, and agreement is measured there
without that bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prefloop.errors import InputError
from prefloop.quality.aggregation import beta_below
from prefloop.store.asking import Asked, draw


@dataclass(frozen=True, kw_only=True)
class AdaptiveOverlap:
    """An overlap policy for the queue: `submit(..., overlap=AdaptiveOverlap())`.

    The queue asks it when a question has all the answers that were asked for, and opens the slots it wants, up to the
    question's `most`. Raises InputError for settings that cannot be.
    """

    sure: float = 0.9
    """A comparison is settled when the majority's side has at least this probability."""
    most: int = 5
    """Answers at which a question is left as it is, however divided."""
    control_share: float = 0.1
    """Share of the questions in the control arm, drawn from the question's own seed."""
    control: int = 3
    """Answers that a question of the control arm gets, no more and no fewer."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Annotator -> weight of their answers (assessment.py); 1 for those who are not named."""

    def __post_init__(self) -> None:
        if not 0.5 < self.sure < 1:
            raise InputError(f"sure must be a probability above 0.5 and below 1, got {self.sure}")
        if not 0 <= self.control_share <= 1:
            raise InputError(f"control_share must be from 0 to 1, got {self.control_share}")
        if self.most < 1 or self.control < 1:
            raise InputError(f"most and control must be at least 1, got {self.most} and {self.control}")

    def __call__(self, question: Asked) -> int:
        """Answers wanted in all; at most one more than there are, so that each is weighed before the next."""
        n = len(question.answers)
        if self.in_control(question.seed):
            return self.control
        if n == 0 or (n < self.most and self.uncertain(question)):
            return max(question.overlap, n + 1)
        return question.overlap

    def in_control(self, seed: int) -> bool:
        """Whether the question with this seed belongs to the control arm; always the same answer."""
        return draw("control", seed) < self.control_share

    def uncertain(self, question: Asked) -> bool:
        """Whether another answer could still turn what the answers say together.

        Comparisons and approvals: the share of the majority, with a Beta(1, 1) prior, is above a half with less than
        `sure` probability. Other kinds: until two annotators have said the same.
        """
        if question.kind in ("comparison", "approval"):
            one, other = self._sides(question)
            below = beta_below(0.5, 1 + max(one, other), 1 + min(one, other))
            return 1 - below < self.sure
        if question.kind in ("demonstration", "edit"):
            return False
        said = [str(sorted(value.items(), key=str)) for _, value in question.answers]
        return len(said) == len(set(said))

    def _sides(self, question: Asked) -> tuple[float, float]:
        one = other = 0.0
        for annotator, value in question.answers:
            weight = self.weights.get(annotator, 1.0)
            if question.kind == "approval":
                one, other = (one + weight, other) if value["approved"] else (one, other + weight)
            else:
                share = {"a": 1.0, "tie": 0.5, "b": 0.0}.get(str(value.get("choice")))
                if share is not None:
                    one, other = one + weight * share, other + weight * (1 - share)
        return one, other
