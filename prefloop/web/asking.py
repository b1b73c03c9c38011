"""Questions with their prompt and candidates as text, as pages and machines bring them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefloop.errors import InputError
from prefloop.records import Message, as_messages
from prefloop.store.audit_log import OPERATOR
from prefloop.store.database import Store
from prefloop.store.feedback import add_completions, add_prompts, add_questions, newest_guideline
from prefloop.store.values import check_candidate_count


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question to ask."""

    kind: str
    prompt: str | Sequence[Message]
    candidates: Sequence[str] = ()
    overlap: int = 1
    most: int | None = None
    """Answers at most, where the first ones leave it uncertain; None: never more than `overlap`."""
    priority: int = 0
    sensitive: str | None = None
    """A content warning, such as "violence"."""
    audience: Sequence[str] = ()
    """Roles and annotators' ids: nobody else is asked. Empty: everybody."""
    gold: Mapping[str, Any] | None = None
    """The right answer; "a" is `candidates[0]`, and a ranking names candidates by position: `[[0], [1, 2]]`."""
    columns: dict[str, Any] = field(default_factory=dict)


def ask(store: Store, items: Sequence[Item], *, source: str | None = None, by: str = OPERATOR) -> list[str]:
    """Add prompts, completions and questions, under the guideline that holds now; the questions' ids, one per item.

    Raises InputError, naming the item, before anything is written; adding the same again adds nothing.
    """
    for index, item in enumerate(items):
        check_candidate_count(item.kind, len(item.candidates), f"items[{index}]")
        if len(set(item.candidates)) != len(item.candidates):
            raise InputError(f"items[{index}]: the candidates must differ; two of them are the same text")
    newest = newest_guideline(store)
    prompts = add_prompts(store, [{"messages": as_messages(item.prompt), "source": source} for item in items])
    texts = [
        {"prompt_id": prompt, "text": text}
        for prompt, item in zip(prompts, items, strict=True)
        for text in item.candidates
    ]
    written = iter(add_completions(store, texts))
    asked = []
    for prompt, item in zip(prompts, items, strict=True):
        ids = [next(written) for _ in item.candidates]
        asked.append(
            {
                "kind": item.kind,
                "prompt_id": prompt,
                "candidates": ids,
                "overlap": item.overlap,
                "priority": item.priority,
                "guideline": None if newest is None else newest["version"],
                "source": source,
                "columns": item.columns,
                **({} if item.most is None else {"most": item.most}),
                **({} if item.sensitive is None else {"sensitive": item.sensitive}),
                **({"audience": list(item.audience)} if item.audience else {}),
                **({} if item.gold is None else {"gold": _by_id(item, ids)}),
            }
        )
    return add_questions(store, asked, by=by)


def _by_id(item: Item, ids: Sequence[str]) -> dict[str, Any]:
    """The right answer with a ranking's positions as candidate ids, which nobody knows before they are stored."""
    value = dict(item.gold or {})
    order = value.get("order")
    if item.kind == "ranking" and isinstance(order, list):
        try:
            value["order"] = [[ids[place] if isinstance(place, int) else place for place in group] for group in order]
        except (IndexError, TypeError):
            raise InputError(
                f"gold.order must name candidates by position, such as [[0], [1, 2]], got {order!r:.80}"
            ) from None
    return value
