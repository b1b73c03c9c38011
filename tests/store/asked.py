"""Questions, people and answers for the tests of the queue."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from prefloop.store.annotators import add_annotator
from prefloop.store.database import Store
from prefloop.store.feedback import add_completions, add_prompts, add_questions
from prefloop.store.queue import Lease
from prefloop.store.submissions import Submission

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def after(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def ask(store: Store, n: int = 1, *, overlap: int = 1, **more: Any) -> list[str]:
    """`n` comparisons of "good" (stored first) and "bad"."""
    prompts = add_prompts(store, [{"messages": f"prompt {i}"} for i in range(n)])
    shown = add_completions(store, [{"prompt_id": p, "text": text} for p in prompts for text in ("good", "bad")])
    return add_questions(
        store,
        [
            {"kind": "comparison", "prompt_id": p, "candidates": shown[2 * i : 2 * i + 2], "overlap": overlap} | more
            for i, p in enumerate(prompts)
        ],
    )


def person(store: Store, name: str = "Ada") -> str:
    return add_annotator(store, name, kind="person")


def says(held: Lease, choice: str = "a", key: str | None = None, **more: Any) -> Submission:
    return Submission(lease_token=held.token, value={"choice": choice, **more}, idempotency_key=key or held.token)


def good(held: Lease) -> str:
    """The choice that picks "good" from what this annotator is shown."""
    return "ab"[[one["text"] for one in held.candidates].index("good")]
