"""The nouns of the loop. Standard library only, so that every layer can use them.

A prompt is a list of messages, `[{"role": "user", "content": "..."}]`; a completion is the text that
answers it. `annotator` ids of machines always begin with `simulated:` or `ai:`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from prefloop.errors import RunError


class Message(TypedDict):
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


Messages = list[Message]
QuestionKind = Literal["comparison", "ranking", "rating", "approval", "edit", "flags", "demonstration"]
QUESTION_KINDS: tuple[QuestionKind, ...] = (
    "comparison",
    "ranking",
    "rating",
    "approval",
    "edit",
    "flags",
    "demonstration",
)


def as_messages(prompt: str | Sequence[Message]) -> Messages:
    """A prompt as messages: plain text is one user turn."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": str(m["role"]), "content": str(m["content"])} for m in prompt]


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN. What is hashed is always this."""
    return _CANONICAL.encode(value)


def content_hash(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode("utf-8")).hexdigest()


def prompt_id(messages: Sequence[Message]) -> str:
    """The same prompt always has the same id."""
    return content_hash(as_messages(messages))[:16]


def split_of(messages: Sequence[Message], test_share: float = 0.1) -> Literal["train", "test"]:
    """Train or test, decided by the conversation's first user turn and nothing else.

    Rows that share a prompt, and the later turns of one conversation, therefore land on the same side.
    """
    opening = next((m["content"] for m in messages if m["role"] == "user"), "")
    key = " ".join(opening.lower().split())
    bucket = int(hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:8], 16) / 0x100000000
    return "test" if bucket < test_share else "train"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two completions of one prompt, and how strongly people preferred the first."""

    prompt: Messages
    chosen: str
    rejected: str
    label: float = 1.0
    """Consensus probability that `chosen` is the better one; 0.5 is a tie."""
    weight: float = 1.0
    """Share of this row in the loss."""
    margin: float | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    """Everything else that is known: subset, source, licence, question, answers, annotators, simulated."""


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """What somebody said, in any of the ways there are, about completions of one prompt."""

    kind: QuestionKind
    prompt: Messages
    completions: list[str]
    """What was judged; of a demonstration, what was written."""
    value: dict[str, Any]
    """An answer's value (store.values), a ranking's order by the places of the completions. Of a comparison, the
    consensus: `label`, and where known `ties` (their share), `margin`, `strength`."""
    weight: float = 1.0
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """A prompt and the answer that a person wrote for it."""

    prompt: Messages
    completion: str
    weight: float = 1.0
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Rewarded:
    """A logged completion, and the reward that it got."""

    prompt: Messages
    completion: str
    reward: float
    weight: float = 1.0
    columns: dict[str, Any] = field(default_factory=dict)


EXPECTED_DROPS = frozenset(
    {
        "duplicate",
        "other split",
        "both bad",
        "unsure",
        "skipped",
        "too few answers",
        "excluded by a lead",
        "late",
        "erased",
        "no consent",
        "no answer",
        "no advantage",
        "filtered out",
        "other kind",
        "adjudicated",
        "a machine's beside people's",
        "all tied",
        "unchanged",
        "spans only",
        "nothing to compare with",
        "no approval",
        "no ranking",
        "alone of its annotator",
    }
)
"""Reasons that say nothing against the rows: they are counted like any other, but not held against `max_dropped`."""


@dataclass
class Ledger:
    """Where every row went: used, or dropped or truncated for a reason. Nothing leaves without a line here.

    `reasons` are the dropped rows; `notes` are rows that were kept but changed (truncated, tied).
    """

    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def dropped(self) -> int:
        return sum(self.reasons.values())

    @property
    def used(self) -> int:
        return self.rows - self.dropped

    @property
    def defective(self) -> int:
        """Dropped rows that something is wrong with: all but EXPECTED_DROPS."""
        return sum(n for reason, n in self.reasons.items() if reason not in EXPECTED_DROPS)

    def seen(self, n: int = 1) -> None:
        self.rows += n

    def drop(self, reason: str, n: int = 1) -> None:
        self.reasons[reason] += n

    def note(self, what: str, n: int = 1) -> None:
        self.notes[what] += n

    def absorb(self, other: Ledger) -> None:
        """Add another ledger's rows to this one."""
        self.rows += other.rows
        self.reasons.update(other.reasons)
        self.notes.update(other.notes)

    def check(self, max_dropped: float, what: str) -> None:
        """Stop when more than `max_dropped` (a share, 0..1) of the rows would be dropped as defective.

        Raises RunError that names the reasons and their counts.
        """
        if self.rows and self.used == 0:
            raise RunError(f"{what}: none of the {self.rows} rows can be used ({self.words()})")
        if self.rows and self.defective / self.rows > max_dropped:
            raise RunError(
                f"{what}: {self.defective} of {self.rows} rows would be dropped ({self.words()}), more than the "
                f"allowed share of {max_dropped:.0%}; mend the rows, or raise max_dropped if that is meant"
            )

    def words(self) -> str:
        return ", ".join(f"{reason}: {n}" for reason, n in sorted(self.reasons.items())) or "none dropped"

    def as_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "used": self.used,
            "dropped": dict(sorted(self.reasons.items())),
            "notes": dict(sorted(self.notes.items())),
        }
