"""Feedback of any kind becomes rows of token ids: the completions of one prompt, and what was said about them.

Seven kinds of answer say four kinds of thing: which of two is better, in which order several are, which level one has,
and yes or no. A best-of-K is a ranking, and so is an edit (edited > chosen > rejected) and a demonstration (better than
what else there is to its prompt); a flag is a yes to "is something wrong", and "both bad" two approvals not given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from prefloop.datasets.rows import kept, name_of, note_columns, note_cuts, split_rows
from prefloop.errors import InputError
from prefloop.models.template import Encoded, Template
from prefloop.models.trees import tokens_of
from prefloop.records import Feedback, Ledger, Messages, content_hash, prompt_id
from prefloop.snapshots.feedback import load_feedback
from prefloop.snapshots.formats import parse_prompt
from prefloop.snapshots.rows import Reject, read_rows

NEUTRAL_FLAGS = frozenset({"satisfies_constraint", "opinion", "moral_judgment"})
"""Flags that say what an answer is like and not that something is wrong with it (InstructGPT's metadata)."""
HARM_FLAGS = frozenset({"unsafe", "sexual", "violent", "encourages_harm", "denigrates", "harmful_advice"})
"""Flags that say that an answer could do harm, and not only that it is poor."""
BESIDE = 4
"""Other completions of its prompt that a demonstration is set against, at most."""


@dataclass(frozen=True)
class Compared:
    """Which of two is better."""

    label: float
    """Probability that the first one is."""
    ties: float
    """Share of the answers that saw no difference; half of it is in `label`."""
    margin: float
    strength: float
    """1 (slightly) to 3 (much better); 0 where nobody said."""
    signs: tuple[float, float] = field(default=(0.0, 0.0), repr=False)
    """Of either completion, 1 where people called it unsafe, -1 safe, 0 where nobody said."""


@dataclass(frozen=True)
class Ranked:
    """In which order they are: 1 is best, equal is a tie."""

    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Rated:
    """Which of five levels one has, 1 to 5, by criterion."""

    scores: Mapping[str, int]


@dataclass(frozen=True)
class Judged:
    """Yes, that one is good, or no."""

    good: bool


Said = Compared | Ranked | Rated | Judged


@dataclass(frozen=True)
class FeedbackRow:
    """The completions of one prompt, and what was said about them."""

    kind: str
    """Of the question: those of one kind share their thresholds."""
    texts: tuple[Encoded, ...]
    said: Said
    weight: float
    identity: str
    criterion: str | None = None
    """What a comparison, a ranking, an approval is about, where it is not the whole."""

    @cached_property
    def key(self) -> str:
        """Names the row by its content."""
        return content_hash([self.kind, [text.ids for text in self.texts], repr(self.said)])

    @cached_property
    def length(self) -> int:
        """Tokens of the row when it stands alone: what the texts begin with in common counts once."""
        return tokens_of(self.texts)


def faulty(flags: AbstractSet[str]) -> bool:
    """Something is wrong with an answer that has these flags."""
    return bool(flags - NEUTRAL_FLAGS)


def harmful(flags: AbstractSet[str]) -> bool:
    """An answer that has these flags could do harm."""
    return bool(flags & HARM_FLAGS)


def feedback_rows(
    sources: Sequence[Path],
    template: Template,
    max_length: int,
    ledger: Ledger,
    *,
    test_share: float,
    max_dropped: float,
    bad: Callable[[AbstractSet[str]], bool] = faulty,
) -> tuple[list[FeedbackRow], list[FeedbackRow]]:
    """(train rows, held-out rows) of snapshots and files, whatever kinds they hold; `bad` reads an answer's flags."""
    sides: tuple[list[Feedback], list[Feedback]] = ([], [])
    for source in sources:
        for side, found in zip(sides, split_rows(load_feedback, source, ledger, test_share, max_dropped), strict=True):
            side.extend(found)
    train, test = (_encoded(side, template, max_length, ledger, bad) for side in sides)
    return train, test


def _encoded(
    items: Sequence[Feedback],
    template: Template,
    max_length: int,
    ledger: Ledger,
    bad: Callable[[AbstractSet[str]], bool],
) -> list[FeedbackRow]:
    others: dict[str, list[str]] = {}
    for item in items:
        if item.kind != "demonstration":
            others.setdefault(prompt_id(item.prompt), []).extend(item.completions[:BESIDE])
    return kept(encode_feedback(item, template, max_length, ledger, others, bad) for item in items)


def samples_of(file: Path) -> list[tuple[Messages, list[str]]]:
    """The different completions of each prompt in a file of samples: prompts with two or more, in the file's order.

    Rows have `prompt` and `completion` (as `prefloop sample --out` writes them) or `completions`. Raises InputError for
    a file without such a prompt, and for a row that is none.
    """
    found: dict[str, tuple[Messages, dict[str, None]]] = {}
    for line, row in read_rows(file):
        prompt = row if isinstance(row, Reject) else parse_prompt(row)
        if isinstance(row, Reject) or isinstance(prompt, Reject):
            reason = prompt.reason if isinstance(prompt, Reject) else "malformed"
            raise InputError(f"{file}, line {line}: {reason}; samples have a prompt and a completion")
        texts = row.get("completions") or [row.get("completion")]
        _, group = found.setdefault(prompt_id(prompt), (prompt, {}))
        group.update(dict.fromkeys(text for text in texts if isinstance(text, str) and text.strip()))
    groups = [(prompt, list(texts)) for prompt, texts in found.values() if len(texts) > 1]
    if not groups:
        raise InputError(f"{file} has no prompt with two different completions; use: prefloop sample --per-prompt 4")
    return groups


def marked_passages(source: Path) -> tuple[list[str], list[str]]:
    """(good, bad): the passages that people marked in edits of a snapshot's training side or of a file, each once.

    A span with `good: true` is good, any other is bad. Raises InputError where nobody marked anything.
    """
    found: dict[bool, dict[str, None]] = {True: {}, False: {}}
    items, _ = load_feedback(source, split="train" if source.is_dir() else None)
    for item in items:
        for span in item.value.get("spans", []) if item.kind == "edit" else []:
            quote = span.get("quote")
            passage = quote if isinstance(quote, str) else item.completions[0][span["start"] : span["end"]]
            if passage.strip():
                found[span.get("good") is True][passage.strip()] = None
    if not any(found.values()):
        raise InputError(f"{source} has no marked passage; it needs edits with spans such as {{start: 0, end: 4}}")
    return list(found[True]), list(found[False])


def sample_groups(file: Path, template: Template, max_length: int) -> list[tuple[Encoded, ...]]:
    """`samples_of`, encoded."""
    return [tuple(template.encode(prompt, text, max_length) for text in texts) for prompt, texts in samples_of(file)]


def encode_feedback(
    item: Feedback,
    template: Template,
    max_length: int,
    ledger: Ledger,
    others: Mapping[str, Sequence[str]] | None = None,
    bad: Callable[[AbstractSet[str]], bool] = faulty,
) -> FeedbackRow | None:
    """What somebody said as a row, or None (the ledger has the reason) when it says nothing that can be learned.

    `others`: further completions by prompt id, which a demonstration is better than. `bad`: which flags are against it.
    """
    completions, said = _said(item, (others or {}).get(prompt_id(item.prompt), ()), bad)
    if isinstance(said, str):
        ledger.drop(said)
        return None
    texts = tuple(template.encode(item.prompt, completion, max_length) for completion in completions)
    if min(text.completion_length for text in texts) == 0:
        ledger.drop("fully masked")
        return None
    if len({tuple(text.ids) for text in texts}) < len(texts):
        ledger.drop("truncated to identical")
        return None
    note_cuts(ledger, *texts)
    if isinstance(said, Compared) and said.label == 0.5:
        ledger.note("tie")
    if item.kind == "comparison":
        note_columns(ledger, item.columns)
    criterion = item.columns.get("criterion")
    about = criterion if isinstance(criterion, str) else None
    return FeedbackRow(item.kind, texts, said, item.weight, name_of(item.prompt), about)


def _said(
    item: Feedback, others: Sequence[str], bad: Callable[[AbstractSet[str]], bool]
) -> tuple[list[str], Said | str]:
    """(which completions, what was said about them), or why nothing was."""
    value, completions = item.value, item.completions
    if item.kind == "comparison":
        numbers = [value.get(name, 0.0) for name in ("ties", "margin", "strength")]
        ties = 1.0 if value["label"] == 0.5 and "ties" not in value else numbers[0]
        safe = [item.columns.get(name) for name in ("chosen_safe", "rejected_safe")]
        if any(one is not None and not isinstance(one, bool) for one in safe):
            return completions, "chosen_safe or rejected_safe is neither true nor false"
        signs = [0.0 if one is None else -1.0 if one else 1.0 for one in safe]
        return completions, Compared(value["label"], ties, numbers[1], numbers[2], (signs[0], signs[1]))
    if item.kind == "ranking":
        ranks = {int(place): rank for rank, group in enumerate(value["order"], 1) for place in group}
        order = tuple(ranks[place] for place in range(len(completions)))
        return completions, Ranked(order) if len(set(order)) > 1 else "all tied"
    if item.kind == "rating":
        return completions, Rated(dict(value["scores"]))
    if item.kind == "approval":
        return completions, Judged(bool(value["approved"]))
    if item.kind == "flags":
        return completions, Judged(not bad(set(value["flags"])))
    if item.kind == "edit":
        if "text" not in value:
            return completions, "spans only"
        if value["text"].strip() in {one.strip() for one in completions}:
            return completions, "unchanged"
        return [value["text"], *completions], Ranked(tuple(range(1, len(completions) + 2)))
    written = completions[0]
    beside = [one for one in dict.fromkeys(others) if one.strip() != written.strip()][:BESIDE]
    if not beside:
        return completions, "nothing to compare with"
    return [written, *beside], Ranked((1,) + (2,) * len(beside))
