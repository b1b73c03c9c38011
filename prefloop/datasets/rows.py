"""Comparisons and demonstrations become rows of token ids; the ledger learns what was dropped or cut, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from prefloop.models.template import Encoded, Template
from prefloop.models.trees import tokens_of
from prefloop.records import Comparison, Demonstration, Feedback, Ledger, Messages, Rewarded, prompt_id, split_of
from prefloop.snapshots.formats import (
    annotator_of,
    load_comparisons,
    load_demonstrations,
    load_prompts,
    load_rewarded,
    parse_prompt,
)
from prefloop.snapshots.rows import Reject, read_rows

Item = TypeVar("Item", Comparison, Demonstration, Feedback, Messages, Rewarded)
Row = TypeVar("Row")


@dataclass(frozen=True)
class TextRow:
    """A prompt and its completion."""

    text: Encoded
    weight: float
    identity: str

    @property
    def completion_tokens(self) -> int:
        return self.text.completion_length


@dataclass(frozen=True)
class PairRow:
    """A prompt with its chosen and its rejected completion."""

    chosen: Encoded
    rejected: Encoded
    label: float
    """Probability that `chosen` is the better one."""
    weight: float
    margin: float
    identity: str

    @cached_property
    def length(self) -> int:
        """Tokens of the pair when it stands alone: what the two sides begin with in common counts once."""
        return tokens_of([self.chosen, self.rejected])


@dataclass(frozen=True)
class RewardedRow(TextRow):
    """A prompt, its completion, and the reward of the whole completion."""

    reward: float


def encode_demonstration(
    item: Demonstration | Rewarded, template: Template, max_length: int, ledger: Ledger
) -> TextRow | None:
    """One demonstration as a row, or None when nothing of its completion is left."""
    text = template.encode(item.prompt, item.completion, max_length)
    note_cuts(ledger, text)
    if text.length == text.prompt_length or not item.completion.strip():
        ledger.drop("fully masked")
        return None
    return TextRow(text, item.weight, name_of(item.prompt))


def encode_comparison(item: Comparison, template: Template, max_length: int, ledger: Ledger) -> PairRow | None:
    """One comparison as a row, or None when truncation left its two sides alike or empty."""
    chosen = template.encode(item.prompt, item.chosen, max_length)
    rejected = template.encode(item.prompt, item.rejected, max_length)
    if chosen.ids == rejected.ids:
        ledger.drop("truncated to identical")
        return None
    if min(chosen.completion_length, rejected.completion_length) == 0:
        ledger.drop("fully masked")
        return None
    note_cuts(ledger, chosen, rejected)
    if item.label == 0.5:
        ledger.note("tie")
    note_columns(ledger, item.columns)
    return PairRow(chosen, rejected, item.label, item.weight, item.margin or 0.0, name_of(item.prompt))


def demonstration_rows(
    source: Path, template: Template, max_length: int, ledger: Ledger, *, test_share: float, max_dropped: float
) -> tuple[list[TextRow], list[TextRow]]:
    """(train rows, held-out rows) of a snapshot or file; chosen completions serve as demonstrations."""
    train, test = split_rows(load_demonstrations, source, ledger, test_share, max_dropped)
    encoded = [[encode_demonstration(item, template, max_length, ledger) for item in side] for side in (train, test)]
    return kept(encoded[0]), kept(encoded[1])


def comparison_rows(
    source: Path, template: Template, max_length: int, ledger: Ledger, *, test_share: float, max_dropped: float
) -> tuple[list[PairRow], list[PairRow]]:
    """(train rows, held-out rows) of a snapshot or file of comparisons."""
    train, test = split_rows(load_comparisons, source, ledger, test_share, max_dropped)
    encoded = [[encode_comparison(item, template, max_length, ledger) for item in side] for side in (train, test)]
    return kept(encoded[0]), kept(encoded[1])


def annotated_rows(
    source: Path, template: Template, max_length: int, ledger: Ledger, *, test_share: float, max_dropped: float
) -> tuple[dict[str, list[PairRow]], dict[str, list[PairRow]]]:
    """(train rows, held-out rows) of comparisons, by annotator.

    A snapshot brings its own split; of any other file a share of the annotators is held out with all that they said. A
    row of nobody, or of several people together, is dropped as "no single annotator".
    """
    load = partial(load_comparisons, by_annotator=True)
    sides = split_rows(load, source, ledger, 0.0, max_dropped)
    found: tuple[dict[str, list[PairRow]], dict[str, list[PairRow]]] = ({}, {})
    for side, items in zip(found, sides, strict=True):
        for item in items:
            who = annotator_of(item.columns)
            row = None if who is None else encode_comparison(item, template, max_length, ledger)
            if who is None:
                ledger.drop("no single annotator")
            elif row is not None:
                side.setdefault(who, []).append(row)
    if not source.is_dir():
        held_out = [who for who in found[0] if split_of([{"role": "user", "content": who}], test_share) == "test"]
        found[1].update({who: found[0].pop(who) for who in held_out})
    return found


def rewarded_rows(
    source: Path,
    template: Template,
    max_length: int,
    ledger: Ledger,
    *,
    test_share: float,
    max_dropped: float,
    reward: Callable[[Sequence[Messages], Sequence[str]], Sequence[float]] | None = None,
) -> tuple[list[RewardedRow], list[RewardedRow]]:
    """(train rows, held-out rows) of a snapshot or file of completions with their rewards.

    With `reward` it gives the rewards, and whatever the rows say about theirs counts for nothing.
    """

    def encode(items: Sequence[Rewarded]) -> list[RewardedRow]:
        rewards = [item.reward for item in items]
        if reward is not None and items:
            rewards = list(reward([item.prompt for item in items], [item.completion for item in items]))
        texts = [encode_demonstration(item, template, max_length, ledger) for item in items]
        rows = zip(texts, rewards, strict=True)
        return [RewardedRow(t.text, t.weight, t.identity, r) for t, r in rows if t is not None]

    load = partial(load_rewarded, rewarded=reward is None)
    train, test = split_rows(load, source, ledger, test_share, max_dropped)
    return encode(train), encode(test)


def train_demonstrations(source: Path, ledger: Ledger, *, test_share: float, max_dropped: float) -> list[Demonstration]:
    """The training side's demonstrations of a snapshot or file, as texts."""
    return split_rows(load_demonstrations, source, ledger, test_share, max_dropped)[0]


def train_prompts(source: Path, ledger: Ledger, *, test_share: float, max_dropped: float) -> list[Messages]:
    """The training side's prompts of a snapshot or file of any kind, each once, in order."""
    items, _ = split_rows(load_prompts, source, ledger, test_share, max_dropped)
    return list({prompt_id(item): item for item in items}.values())


def held_out_prompts(source: Path, *, test_share: float, max_dropped: float) -> list[Messages]:
    """The held-out side's prompts, each once, in order; `train_prompts` has them in its ledger already."""
    _, items = split_rows(load_prompts, source, Ledger(), test_share, max_dropped)
    return list({prompt_id(item): item for item in items}.values())


TEXTS = frozenset({"prompt", "completion", "chosen", "rejected", "messages", "conversations"})
"""Columns that are the conversation itself."""


def prompt_columns(source: Path, ledger: Ledger) -> dict[str, dict[str, Any]]:
    """What the rows of a file or snapshot say beside each prompt, by the prompt's id; for rewards that look things up.

    Of a prompt with several rows the first one counts; where others say something else, the ledger notes it.
    """
    files = sorted(source.glob("*.jsonl")) if source.is_dir() else [source]
    found: dict[str, dict[str, Any]] = {}
    for file in (f for f in files if f.name in ("train.jsonl", "test.jsonl") or f == source):
        for _, row in read_rows(file):
            prompt = row if isinstance(row, Reject) else parse_prompt(row)
            if isinstance(row, Reject) or isinstance(prompt, Reject):
                continue  # in the ledger already, by whoever loaded the prompts
            said = {str(name): value for name, value in row.items() if name not in TEXTS}
            if found.setdefault(prompt_id(prompt), said) != said:
                ledger.note("prompt again with other columns")
    return found


def split_rows(
    load: Callable[..., tuple[list[Item], Ledger]], source: Path, ledger: Ledger, test_share: float, max_dropped: float
) -> tuple[list[Item], list[Item]]:
    """A snapshot brings its split in two files; the rows of any other file are split by their prompt."""
    if source.is_dir():
        sides: list[list[Item]] = []
        for split in ("train", "test"):
            file = source / f"{split}.jsonl"
            if file.is_file() and file.stat().st_size == 0:
                sides.append([])
                continue
            items, loaded = load(source, split=split, max_dropped=max_dropped)
            ledger.absorb(loaded)
            sides.append(items)
        return sides[0], sides[1]
    items, loaded = load(source, max_dropped=max_dropped)
    ledger.absorb(loaded)
    sides = [[], []]
    for item in items:
        sides[split_of(_prompt(item), test_share) == "test"].append(item)
    return sides[0], sides[1]


def _prompt(item: Comparison | Demonstration | Feedback | Messages | Rewarded) -> Messages:
    return item if isinstance(item, list) else item.prompt


def kept(rows: Iterable[Row | None]) -> list[Row]:
    """The rows that could be made."""
    return [row for row in rows if row is not None]


def note_cuts(ledger: Ledger, *texts: Encoded) -> None:
    """Count a row of which something was cut off."""
    if any(text.truncated for text in texts):
        ledger.note("truncated")
    if any(text.prompt_truncated for text in texts):
        ledger.note("prompt truncated")


def note_columns(ledger: Ledger, columns: Mapping[str, Any]) -> None:
    """Count a comparison about which a reader should know more."""
    if columns.get("implicit_prompt"):
        ledger.note("prompt guessed from the shared beginning")
    if columns.get("tools"):
        ledger.note("tools ignored")


def name_of(prompt: Messages) -> str:
    """What a row is called in an error message."""
    words = prompt[-1]["content"]
    return repr(words if len(words) <= 48 else f"{words[:45]}...")
