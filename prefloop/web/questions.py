"""What an annotator sees of a question: titles, levels, flags and keys, per kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefloop.records import Messages
from prefloop.store.privacy import pii_kinds
from prefloop.store.queue import Lease

TITLES = {
    "comparison": "Which answer is better?",
    "ranking": "Put the answers in order, best first",
    "rating": "How good is this answer?",
    "approval": "Is this answer good enough to send?",
    "edit": "Make this answer better",
    "flags": "What is wrong with this answer?",
    "demonstration": "How would you answer?",
}
KIND_NAMES = {
    "comparison": "Comparison",
    "ranking": "Ranking",
    "rating": "Rating",
    "approval": "Approval",
    "edit": "Edit",
    "flags": "Flags",
    "demonstration": "Writing",
}
SCALE = [
    ("a", 3, "A is much better", "1"),
    ("a", 2, "A is better", "2"),
    ("a", 1, "A is slightly better", "3"),
    ("tie", None, "Both are equally good", "4"),
    ("b", 1, "B is slightly better", "5"),
    ("b", 2, "B is better", "6"),
    ("b", 3, "B is much better", "7"),
]
"""(choice, strength, words, key)"""
CRITERIA = [
    ("helpful", "Helpful", "Does it do what was asked?"),
    ("honest", "Honest", "Is it true, and open about what it does not know?"),
    ("harmless", "Harmless", "Could it hurt somebody?"),
    ("overall", "Overall", "Everything together."),
]
LEVELS = [(1, "Very poor"), (2, "Poor"), (3, "Fair"), (4, "Good"), (5, "Excellent")]
FLAGS = [
    ("fails_instruction", "Does not do what was asked", "a"),
    ("inappropriate", "Wrong tone for a customer", "b"),
    ("hallucination", "Makes something up", "c"),
    ("violates_constraint", "Ignores a stated condition", "d"),
    ("sexual", "Sexual content", "e"),
    ("violent", "Violent content", "f"),
    ("encourages_harm", "Encourages violence, abuse or self-harm", "h"),
    ("denigrates", "Denigrates a protected group", "i"),
    ("harmful_advice", "Gives harmful advice", "l"),
    ("opinion", "Expresses an opinion", "o"),
    ("moral_judgment", "Passes moral judgment", "p"),
]
"""InstructGPT's metadata (Ouyang et al. 2022, table 3): (name as stored, words, key)."""
SKIPS = [
    ("I do not understand the question", "1"),
    ("I know too little about this", "2"),
    ("The text is broken or in another language", "3"),
    ("I do not want to see this", "4"),
]
"""(reason as stored, key)"""
PII_WORDS = {
    "email": "an e-mail address",
    "phone": "a telephone number",
    "card": "a payment card",
    "iban": "a bank account",
    "ip": "an IP address",
}
"""Kinds of personal data that patterns find, in words."""
LONG = 1400
"""Characters from which on a text is folded."""


@dataclass(frozen=True)
class Task:
    """A question as it stands on the screen, to be answered now or corrected."""

    question: str
    kind: str
    messages: Messages
    candidates: list[dict[str, Any]]
    guideline: dict[str, Any] | None
    post_to: str
    """Where the answer goes."""
    lease: str | None = None
    value: Mapping[str, Any] | None = None
    """What was said before; only a correction has it."""
    sensitive: str | None = None
    """The content warning, which covers the texts until they are asked for."""
    criteria: tuple[tuple[str, str, str], ...] = tuple(CRITERIA)
    flags: tuple[tuple[str, str, str], ...] = tuple(FLAGS)

    @property
    def personal(self) -> list[str]:
        """What of personal data stands in the texts, by its kind, as far as patterns can tell."""
        texts = [*(m["content"] for m in self.messages), *(one["text"] for one in self.candidates)]
        found = {kind for _, kind in pii_kinds(texts)}
        return [PII_WORDS[kind] for kind in PII_WORDS if kind in found]

    @property
    def title(self) -> str:
        return TITLES[self.kind]


def task_of(lease: Lease, extras: Mapping[str, Any], newest: Mapping[str, Any] | None) -> Task:
    """The screen of a leased question."""
    return Task(
        question=lease.question_id,
        kind=lease.kind,
        messages=lease.messages,
        candidates=lease.candidates,
        guideline=lease.guideline or (dict(newest) if newest else None),
        post_to="/work/answers",
        lease=lease.token,
        sensitive=extras.get("sensitive"),
        criteria=criteria_of(extras.get("columns", {})),
    )


def criteria_of(columns: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """The question's own criteria (`columns.criteria`: a list of names), else the four of CRITERIA."""
    own = columns.get("criteria")
    if not isinstance(own, list) or not own or not all(isinstance(one, str) and 0 < len(one) <= 64 for one in own):
        return tuple(CRITERIA)
    known = {name: (name, words, about) for name, words, about in CRITERIA}
    return tuple(known.get(one, (one, one.replace("_", " ").capitalize(), "")) for one in own[:8])


def said_in_words(kind: str, value: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
    """An answer as one short line for people; `names` gives candidates their letters."""
    if "skip" in value:
        return f"Skipped: {value['skip']}"
    if kind == "comparison":
        wanted = (value.get("choice"), value.get("strength"))
        for choice, strength, words, _ in SCALE:
            if (choice, strength) == wanted:
                return words
        return {
            "a": "A is better", "b": "B is better", "tie": "Both are equally good",
            "both_bad": "Both are bad", "unsure": "Unsure",
        }.get(str(value.get("choice")), "?")  # fmt: skip
    if kind == "ranking":
        letters = names or {}
        return " › ".join(" = ".join(letters.get(one, one[:6]) for one in group) for group in value.get("order", []))
    if kind == "rating":
        return ", ".join(f"{name} {score}" for name, score in value.get("scores", {}).items())
    if kind == "approval":
        return "Approved" if value.get("approved") else "Not approved"
    if kind == "flags":
        words_of = {name: words for name, words, _ in FLAGS}
        return ", ".join(words_of.get(one, one) for one in value.get("flags", [])) or "Nothing is wrong"
    if kind == "edit" and "text" not in value:
        return f"{len(value.get('spans', []))} passages marked"
    return str(value.get("text", ""))
