"""The answers as the statistics need them: who said what about which item, how it was shown, and no texts.

An item is the smallest thing that people can agree about. The same two completions of a prompt are one item, however
often, in whichever order, and by whichever kind of question (comparison or ranking) they were asked about:

| kind | items | labels |
|---|---|---|
| comparison | its pair of completions | a, b, tie |
| ranking | each of its pairs | a, b, tie |
| approval | the completion | yes, no |
| rating | each criterion of the completion | 1 to 5 |
| flags | each flag that is in use, on the completion | yes, no |

Demonstrations and edits have no label; their texts are only compared with one another.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from prefloop.quality.texts import signature
from prefloop.records import Messages, prompt_id
from prefloop.store.asking import gold_answers
from prefloop.store.database import Store
from prefloop.store.feedback import AnswerRow, answers
from prefloop.store.tables import questions

Family = Literal["pair", "approval", "rating", "flag"]
LABELS: dict[Family, tuple[str, ...]] = {
    "pair": ("a", "b", "tie"),
    "approval": ("yes", "no"),
    "rating": ("1", "2", "3", "4", "5"),
    "flag": ("yes", "no"),
}
SCALES: dict[Family, tuple[str, ...] | None] = {
    "pair": ("b", "tie", "a"),
    "approval": None,
    "rating": LABELS["rating"],
    "flag": None,
}
"""Labels from low to high, where they have an order."""
MAX_FLAGS = 30
"""Flags that are followed, the most frequent first; rarer ones tell too little."""
SHOWN_AS_STORED = 0.1
"""An imported source whose answers are b at least this often did not put the chosen text first."""
TEXT = 40
"""Characters that a text must have before it is compared with others: "A is better" may be said twice."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


class Atom(NamedTuple):
    """What one answer says about one item."""

    item: str
    family: Family
    label: str
    first: int = 0
    """Pairs: 1 when "a" was shown first, -1 when "b" was, 0 when nobody knows."""
    longer: float = 0.0
    """Pairs: log of (length of "a" / length of "b"), in characters."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One answer: skips and late answers are none."""

    answer: str
    question: str
    """The same for all answers that bear on the same items; intervals draw whole questions."""
    kind: str
    annotator: str
    number: int
    """Order in which the answers came."""
    atoms: tuple[Atom, ...] = ()
    gold: Mapping[str, str] = field(default_factory=dict)
    """Item -> the label that is known to be right."""
    repeat: bool = False
    """Asked for once more: it shows how consistent somebody is, and is no second vote."""
    adjudication: bool = False
    """Said with the others' answers in view: it settles the question, and is nobody's vote."""
    person: bool = True
    """Imported people count as people; simulated and AI annotators do not."""
    seconds: float | None = None
    guideline: int | None = None
    slices: Mapping[str, str] = field(default_factory=dict)
    texts: tuple[tuple[int, ...], ...] = ()
    """Signatures (texts.py) of what was written: demonstrations, edits, reasons, notes."""


@dataclass(frozen=True)
class Votes:
    """The atoms of one family as arrays, one entry per vote: each annotator's first word on an item."""

    family: Family
    labels: tuple[str, ...]
    items: list[str]
    item: Ints
    who: Ints
    """Index into the panel's annotators."""
    label: Ints
    """Index into `labels`."""
    shown: Ints
    """The label as it looked to the annotator: 0 is what was shown first, where that is known."""
    first: Ints
    longer: Floats
    number: Ints
    gold: Ints
    """By item: the label that is right, or -1."""

    @property
    def categories(self) -> int:
        return len(self.labels)

    def __len__(self) -> int:
        return len(self.item)


def votes_of(judgements: Sequence[Judgement], annotators: Sequence[str]) -> list[Votes]:
    """The votes of each family that there is, in the order of LABELS, without repeats and adjudications."""
    place = {name: index for index, name in enumerate(annotators)}
    rows: dict[Family, list[tuple[str, int, Atom, int]]] = {family: [] for family in LABELS}
    gold: dict[str, str] = {}
    seen: set[tuple[str, int]] = set()
    for one in judgements:
        gold.update(one.gold)
        if one.repeat or one.adjudication:
            continue
        who = place[one.annotator]
        for atom in one.atoms:
            if (atom.item, who) not in seen:
                seen.add((atom.item, who))
                rows[atom.family].append((atom.item, who, atom, one.number))
    return [_votes(family, found, gold) for family, found in rows.items() if found]


def _votes(family: Family, rows: Sequence[tuple[str, int, Atom, int]], gold: Mapping[str, str]) -> Votes:
    labels = {name: index for index, name in enumerate(LABELS[family])}
    items = list(dict.fromkeys(item for item, *_ in rows))
    place = {item: index for index, item in enumerate(items)}
    label = np.array([labels[atom.label] for _, _, atom, _ in rows])
    first = np.array([atom.first for _, _, atom, _ in rows])
    return Votes(
        family=family,
        labels=LABELS[family],
        items=items,
        item=np.array([place[item] for item, *_ in rows]),
        who=np.array([who for _, who, *_ in rows]),
        label=label,
        shown=np.where((first < 0) & (label < 2), 1 - label, label) if family == "pair" else label,
        first=first,
        longer=np.array([atom.longer for _, _, atom, _ in rows]),
        number=np.array([number for *_, number in rows]),
        gold=np.array([labels.get(gold.get(item, ""), -1) for item in items]),
    )


def coarse(votes: Votes) -> Votes:
    """Ratings as low (1, 2), middle and high (4, 5): neighbours on the scale are no disagreement between two people."""
    if votes.family != "rating":
        return votes
    step = np.array([0, 0, 1, 2, 2])
    gold = np.where(votes.gold >= 0, step[votes.gold], -1)
    label = step[votes.label]
    return replace(votes, labels=("low", "middle", "high"), label=label, shown=label, gold=gold)


# --- from the store ------------------------------------------------------------------------------------------------


def gather(
    store: Store, *, round: int | None = None, slices: Collection[str] = ("subset", "source")
) -> list[Judgement]:
    """Every answer that stands and judges something, or was written, in the order in which they came.

    slices: columns by whose values figures are also given. Reads each answer once; texts are not kept.
    """
    asked = _asked(store)
    said_rows = answers(store, round=round, repeats=True)
    rows = [_draft(row, asked, slices) for row in said_rows if not row.skipped and not row.late]
    order_known = _sources_in_shown_order(rows)
    flags = [name for name, _ in Counter(f for row in rows for f in row.flags).most_common(MAX_FLAGS)]
    said: set[tuple[str, str, str]] = set()
    return [row.judgement(order_known, flags, said) for row in rows]


class _Asked(NamedTuple):
    guideline: int | None
    imported: bool
    gold: Any


def _asked(store: Store) -> dict[str, _Asked]:
    gold = gold_answers(store)
    with store.read() as connection:
        rows = connection.execute(sa.select(questions.c.id, questions.c.guideline, questions.c.overlap))
        return {row.id: _Asked(row.guideline, row.overlap == 0, gold.get(row.id)) for row in rows}


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """An answer without its texts, before it is known which sources show the order and which flags are in use."""

    row_id: str
    kind: str
    annotator: str
    person: bool
    number: int
    keys: list[str]
    """A digest of prompt and text for each candidate, in stored order."""
    lengths: list[int]
    shown: list[int]
    """Places in the stored order, as the annotator saw them."""
    value: dict[str, Any]
    gold: Mapping[str, Any] | None
    imported: bool
    source: str | None
    seconds: float | None
    guideline: int | None
    slices: dict[str, str]
    texts: tuple[tuple[int, ...], ...]
    repeat: bool
    adjudication: bool

    @property
    def flags(self) -> list[str]:
        return list(self.value.get("flags", ())) if self.kind == "flags" else []

    def judgement(self, order_known: set[str | None], flags: list[str], said: set[tuple[str, str, str]]) -> Judgement:
        known = not self.imported or self.source in order_known
        first = {place: seen for seen, place in enumerate(self.shown)} if known else {}
        atoms = tuple(self._atoms(self.value, flags, first))
        question = f"{self.kind}:{'|'.join(sorted(self.keys))}"
        again = (self.annotator, self.kind, question)
        # Two questions about the same pair are a repeat as well, whatever they were meant as.
        repeat = self.repeat or (self.kind in ("comparison", "ranking") and again in said)
        if not self.adjudication:
            said.add(again)
        gold = {} if self.gold is None else {atom.item: atom.label for atom in self._atoms(self.gold, flags, {})}
        return Judgement(
            answer=self.row_id,
            question=question,
            kind=self.kind,
            annotator=self.annotator,
            number=self.number,
            atoms=atoms,
            gold=gold,
            repeat=repeat,
            adjudication=self.adjudication,
            person=self.person,
            seconds=self.seconds,
            guideline=self.guideline,
            slices=self.slices,
            texts=self.texts,
        )

    def _atoms(self, value: Mapping[str, Any], flags: list[str], first: Mapping[int, int]) -> Iterable[Atom]:
        if self.kind == "comparison":
            if value.get("choice") in LABELS["pair"]:
                yield self._pair(0, 1, str(value["choice"]), first)
        elif self.kind == "ranking":
            rank = {place: at for at, group in enumerate(value["order"]) for place in group}
            for one, other in itertools.combinations(range(len(self.keys)), 2):
                better = rank[one] - rank[other]
                yield self._pair(one, other, "tie" if better == 0 else "a" if better < 0 else "b", first)
        elif self.kind == "approval":
            yield Atom(f"approval:{self.keys[0]}", "approval", "yes" if value["approved"] else "no")
        elif self.kind == "rating":
            for criterion, score in sorted(value["scores"].items()):
                yield Atom(f"rating:{self.keys[0]}:{criterion}", "rating", str(score))
        elif self.kind == "flags":
            for flag in flags:
                yield Atom(f"flag:{self.keys[0]}:{flag}", "flag", "yes" if flag in value["flags"] else "no")

    def _pair(self, one: int, other: int, label: str, first: Mapping[int, int]) -> Atom:
        """The pair in the order of its keys, so that it does not matter who was asked in which."""
        if self.keys[other] < self.keys[one]:
            one, other, label = other, one, {"a": "b", "b": "a"}.get(label, label)
        before = 0 if not first else 1 if first[one] < first[other] else -1
        longer = math.log((self.lengths[one] + 1) / (self.lengths[other] + 1))
        return Atom(f"pair:{self.keys[one]}|{self.keys[other]}", "pair", label, before, longer)


def _draft(row: AnswerRow, asked: Mapping[str, _Asked], slices: Collection[str]) -> _Draft:
    prompt = asked_about(row.messages or [], row.columns)
    stored = [candidate["id"] for candidate in row.candidates]
    value = _by_place(row.value, stored)
    columns = {**row.columns, "source": row.source}
    written = [row.value.get("text"), row.value.get("note"), columns.get("reason")]
    question = asked[row.question_id]
    return _Draft(
        row_id=row.id,
        kind=row.kind,
        annotator=row.annotator,
        person=not row.simulated,
        number=row.cursor,
        keys=[_digest(prompt, candidate["text"] or candidate["id"]) for candidate in row.candidates] or [prompt],
        lengths=[len(candidate["text"] or "") for candidate in row.candidates],
        shown=[stored.index(one) for one in row.presented_order],
        value=value,
        gold=known_answer(row.kind, columns.get("gold") if question.gold is None else question.gold, stored),
        imported=question.imported,
        source=row.source,
        seconds=row.seconds,
        guideline=question.guideline,
        slices={name: str(columns[name])[:80] for name in slices if columns.get(name) is not None},
        texts=tuple(signature(text) for text in written if isinstance(text, str) and len(text) >= TEXT),
        repeat=row.repeat_of is not None,
        adjudication=row.adjudication,
    )


def asked_about(messages: Messages, columns: Mapping[str, Any]) -> str:
    """The prompt's id, and the `criterion` that the answer is about, where it is not the whole."""
    criterion = columns.get("criterion")
    return f"{prompt_id(messages)} {criterion}" if isinstance(criterion, str) else prompt_id(messages)


def pair_item(prompt: str, one: str, other: str) -> tuple[str, bool]:
    """(the item of a pair of completions, whether its "a" is `other`); `prompt` as `asked_about` gives it."""
    first, second = _digest(prompt, one), _digest(prompt, other)
    return f"pair:{min(first, second)}|{max(first, second)}", second < first


def known_answer(kind: str, gold: Any, stored: Sequence[str]) -> dict[str, Any] | None:
    """The right answer to a gold question, as the `gold` column says it; None where it says nothing of this kind.

    An answer's own form (`{"choice": "a"}`), or shorter: `a`, `b`, `tie`, `chosen`, `rejected` for a comparison, true
    or false for an approval. "a" is the first candidate in stored order.
    """
    short = {"a": "a", "chosen": "a", "b": "b", "rejected": "b", "tie": "tie"}
    if kind == "comparison":
        choice = gold.get("choice") if isinstance(gold, Mapping) else gold
        found = short.get(choice) if isinstance(choice, str) else None
        return {"choice": found} if found else None
    if kind == "approval":
        approved = gold.get("approved") if isinstance(gold, Mapping) else gold
        return {"approved": approved} if isinstance(approved, bool) else None
    if not isinstance(gold, Mapping):
        return None
    if kind == "ranking":
        order = _by_place(gold, stored).get("order")
        whole = isinstance(order, list) and sorted(x for g in order for x in g) == list(range(len(stored)))
        return {"order": order} if whole else None
    if kind == "rating" and isinstance(gold.get("scores"), Mapping):
        return {"scores": {name: score for name, score in gold["scores"].items() if score in (1, 2, 3, 4, 5)}}
    if kind == "flags" and isinstance(gold.get("flags"), list):
        return {"flags": gold["flags"]}
    return None


def _by_place(value: Mapping[str, Any], stored: Sequence[str]) -> dict[str, Any]:
    """A ranking's candidate ids as places in the stored order; anything else unchanged."""
    order = value.get("order")
    if not isinstance(order, list):
        return dict(value)
    place = {one: index for index, one in enumerate(stored)}
    return {**value, "order": [[place[one] for one in group if one in place] for group in order]}


def _sources_in_shown_order(rows: Sequence[_Draft]) -> set[str | None]:
    """Imported sources whose first text is not simply the chosen one."""
    choices: dict[str | None, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if row.imported and row.kind == "comparison":
            choices[row.source][str(row.value.get("choice"))] += 1
    return {source for source, said in choices.items() if said["b"] >= SHOWN_AS_STORED * (said["a"] + said["b"])}


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=9).hexdigest()
