"""Answers and their consensus, frozen: the same answers under the same rules give the same bytes, so the same hash.

    comparisons      a row per pair of completions: prompt, chosen, rejected, label, weight, n, uncertain, and
                     ties, margin and strength where there are any
    demonstrations   a row per answer: prompt, completion, weight; and so for rankings, ratings, approvals, edits and
                     flags, each with the columns in which it would be imported (answer_rows.py) and its `kind`.
                     Answers to the same question share its weight
    feedback         everything that people said, of whatever kind; what they called both bad is two approvals that
                     were not given

Every row also has question, answers and annotators (ids), simulated, source and licence, and the columns that came
with the data, such as subset. `train.jsonl` and `test.jsonl` are split by the prompt's first user turn, never by row.

Texts wait in a temporary file until they are written, so that memory holds votes and not conversations.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from prefloop.artifacts.folder import Artifact, write_artifact
from prefloop.errors import InputError, RunError
from prefloop.quality.aggregation import VOTES, Consensus, comparison_consensus, pairwise_agreement
from prefloop.quality.assessment import ItemConsensus, consensus_of, standings_of
from prefloop.quality.evidence import asked_about, gather, pair_item
from prefloop.records import Ledger, canonical_json, content_hash, split_of
from prefloop.settings import check_choice
from prefloop.snapshots.answer_rows import QUESTION_KIND
from prefloop.snapshots.rows import Progress
from prefloop.store.consents import said_no
from prefloop.store.database import Store
from prefloop.store.feedback import AnswerRow, answers
from prefloop.store.rulings import Ruling, rulings

FEEDBACK = "feedback"
KINDS: dict[str, str | None] = {**QUESTION_KIND, FEEDBACK: None}
"""What a snapshot can be made as -> the kind of answer that it takes; None takes every kind."""
PAIR_COLUMNS = {"chosen", "rejected", "label", "n", "uncertain", "ties", "margin", "strength"}
SAID_COLUMNS = {"kind", "completion", "completions", "ranks", "best", "scores", "edited", "spans", "flags", "both_bad"}
COMMON_COLUMNS = {"prompt", "weight", "question", "answers", "annotators", "simulated", "source", "licence"}
RESERVED = frozenset(PAIR_COLUMNS | COMMON_COLUMNS | SAID_COLUMNS)
"""What a row says itself; a column of the same name that came with the data is left in the store."""
ASIDE = {"both_bad": "both bad", "unsure": "unsure", "skip": "skipped", "late": "late"}
"""Answers that are no votes -> the reason in the ledger when there is nothing else about a pair."""
PEOPLE = ("people", "imported")
CONSENSUS = {
    "weighted": "the share of votes, each at the weight that findings leave its annotator",
    "majority": "the share of votes, each alike",
    "davidson": "the probability that a reliable person prefers it, from a model of annotators and ties",
}


@dataclass(frozen=True)
class SnapshotResult:
    """A frozen dataset, and where every pair or demonstration went."""

    artifact: Artifact
    rows: int
    hash: str
    ledger: Ledger

    def as_dict(self) -> dict[str, Any]:
        """What `snapshot --json` prints."""
        return {
            "artifact": str(self.artifact.path),
            "rows": self.rows,
            "hash": self.hash,
            "ledger": self.ledger.as_dict(),
        }


def build_snapshot(
    store: Store,
    artifacts_root: Path,
    kind: str = "comparisons",
    name: str | None = None,
    *,
    test_share: float = 0.1,
    round: int | None = None,
    min_answers: int = 1,
    max_dropped: float = 0.05,
    seed: int = 0,
    consensus: str = "weighted",
    progress: Progress | None = None,
) -> SnapshotResult:
    """Freeze the consensus of all answers of one kind (of one round, if given) as a snapshot artifact.

    kind: one of KINDS. test_share: share of the prompts, 0 <= share < 1. min_answers: votes that
    a pair needs. seed: orders the rows, so that the first N of them are a fair sample; it does not touch the split.
    consensus: one of CONSENSUS. Under "weighted" and "davidson" a row's weight is the largest of its annotators'.

    The rules for a pair: the same two completions of a prompt are one row, however often and in whichever order they
    were asked about; a tie stays, with label 0.5 and the note "tie" (a measure of accuracy leaves it out); answers of
    somebody whom a lead excluded, or who said no to training, are set aside; where people voted, machines' votes on
    that pair are set aside; an adjudication stands alone, whatever the votes were. The last two hold for the answers to
    every kind of question but demonstrations. A pair that nobody voted on is dropped as "both bad", "unsure",
    "skipped", "late", "no consent" or "excluded by a lead", one with fewer votes than
    min_answers as "too few answers", one whose text is gone as "erased": none of these are defects. Defects, held
    against max_dropped, are "identical" and "empty".

    Raises InputError for an unknown kind or when there are no such answers, RunError when more than max_dropped of the
    rows are defective or the disk is full; then nothing is written.
    """
    if kind not in KINDS:
        raise InputError(f"a snapshot is made as {', '.join(KINDS)}, got {kind!r}")
    if not 0.0 <= test_share < 1.0 or min_answers < 1:
        raise InputError(f"test_share must be in [0, 1) and min_answers at least 1, got {test_share} and {min_answers}")
    check_choice("consensus", consensus, tuple(CONSENSUS))
    worth = _Worth.of(store, consensus)
    with tempfile.TemporaryFile() as texts:
        draft = _Draft(kind, test_share, min_answers, texts, worth)
        for number, answer in enumerate(answers(store, kind=KINDS[kind], round=round), 1):
            draft.add(answer)
            if progress is not None and number % 1000 == 0:
                progress(number, None)
        if not draft.entries:
            of_round = "" if round is None else f" of round {round}"
            what = f"{KINDS[kind]} answers" if KINDS[kind] else "answers"
            example = kind if KINDS[kind] else "comparisons"
            raise InputError(
                f"there are no {what}{of_round} to freeze; collect some, or: prefloop import FILE --as {example}"
            )
        rows = draft.rows()
        draft.ledger.check(max_dropped, f"snapshot {name or kind}")
        rows.sort(key=lambda row: hashlib.sha256(f"{seed}:".encode() + row.key).digest())
        artifact = write_artifact(
            artifacts_root,
            "snapshot",
            name or kind,
            lambda folder: _write(folder, rows, texts),
            settings={
                "as": kind,
                "test_share": test_share,
                "round": round,
                "min_answers": min_answers,
                "max_dropped": max_dropped,
                "split": "by the first user turn of the prompt",
                "consensus": consensus,
                "votes": "one per annotator and pair; where people voted, machines do not",
                "ties": "kept, label 0.5",
            },
            parents=[],
            seeds={"order": seed},
            metrics={"rows": len(rows), **_counts(rows)},
            extra={"ledger": draft.ledger.as_dict(), **_origin(rows), **worth.lowered(rows)},
        )
    return SnapshotResult(artifact, len(rows), artifact.hash, draft.ledger)


def snapshot_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Every row of a snapshot, train before test, each with its `split`."""
    for split in ("train", "test"):
        if (folder / f"{split}.jsonl").is_file():
            with (folder / f"{split}.jsonl").open("rb") as file:
                for line in file:
                    yield {**json.loads(line), "split": split}


def provenance(folder: Path) -> dict[str, list[str]]:
    """The ids behind a snapshot's rows, sorted: `{"questions", "answers", "annotators"}`; for lineage."""
    found: dict[str, set[str]] = {"questions": set(), "answers": set(), "annotators": set()}
    for row in snapshot_rows(folder):
        found["questions"].add(row["question"])
        found["answers"].update(row["answers"])
        found["annotators"].update(row["annotators"])
    return {name: sorted(ids) for name, ids in found.items()}


def annotator_kind(annotator: str) -> str:
    """people, imported (people too, whom another project asked), simulated or ai, as the id says."""
    kind = annotator.partition(":")[0]
    return kind if kind in ("simulated", "ai", "imported") else "people"


@dataclass(frozen=True)
class _Said:
    """One answer, without its texts."""

    id: str
    annotator: str
    question: str
    what: str
    """a or b (in the entry's order), tie, both_bad, unsure, skip, late; or said, for what is no comparison."""
    strength: int | None
    settles: bool
    """An adjudication."""

    @property
    def voter(self) -> str:
        """Who the vote counts for. Behind an imported id there may be a whole crowd, so that each answer counts."""
        return self.id if annotator_kind(self.annotator) == "imported" else self.annotator


@dataclass
class _Entry:
    """What will become one row: where its texts wait, and what was said about it."""

    at: int
    defect: str | None
    split: str
    source: str | None
    licence: str | None
    group: bytes | None = None
    """Answers to one question, and so about the same; None for a pair, which is one entry, and a demonstration."""
    item: str | None = None
    """Of the pair, as quality/ names it."""
    item_swapped: bool = False
    said: list[_Said] = field(default_factory=list)


@dataclass(frozen=True)
class _Row:
    key: bytes
    entry: _Entry
    used: list[_Said]
    consensus: Consensus | None
    """None for what is no comparison."""
    weight: float


@dataclass(frozen=True)
class _Worth:
    """What each annotator's answers are worth, and what a model makes of each pair."""

    weights: dict[str, float]
    """Those below 1."""
    pairs: dict[str, ItemConsensus]
    ruled: dict[str, Ruling]
    """What leads decided about findings."""
    barred: dict[str, str]
    """Whose answers are in no row -> why."""

    @classmethod
    def of(cls, store: Store, consensus: str) -> _Worth:
        """From every answer in the store, of every round: the more is known of somebody, the better."""
        ruled = rulings(store)
        barred = dict.fromkeys(said_no(store, "training"), "no consent")
        barred |= {who: "excluded by a lead" for who, ruling in ruled.items() if ruling.decision == "exclude"}
        if consensus == "majority":
            return cls({}, {}, ruled, barred)
        judgements = gather(store)
        weights = {one.id: one.weight for one in standings_of(judgements, ruled) if one.weight < 1}
        if consensus == "weighted":
            return cls(weights, {}, ruled, barred)
        counted = [one for one in judgements if one.annotator not in barred]
        people = {atom.item for one in counted if one.person for atom in one.atoms}
        used = [one for one in counted if one.person or not any(atom.item in people for atom in one.atoms)]
        return cls(weights, consensus_of(used, weights), ruled, barred)

    def weight(self, used: Sequence[_Said]) -> float:
        return max((self.weights.get(said.annotator, 1.0) for said in used), default=1.0)

    def modelled(self, entry: _Entry, votes: Consensus) -> Consensus:
        """The consensus of the votes with its label from the model, where there is one of this pair."""
        pair = None if entry.item is None else self.pairs.get(entry.item)
        if pair is None or pair.preferred is None:
            return votes
        label = 1 - pair.preferred if entry.item_swapped else pair.preferred
        return replace(votes, label=label, uncertain=pair.uncertain)

    def lowered(self, rows: Sequence[_Row]) -> dict[str, Any]:
        """Whose weight findings lowered, and what leads decided about findings, for the manifest."""
        used = {said.annotator for row in rows for said in row.used}
        return {
            "weights": {who: round(w, 4) for who, w in sorted(self.weights.items()) if who in used},
            "rulings": {
                who: {"decision": ruling.decision, "findings": sorted(ruling.findings)}
                for who, ruling in sorted(self.ruled.items())
            },
        }


class _Draft:
    """Collects answers: by pair for comparisons, one by one for every other kind."""

    def __init__(self, kind: str, test_share: float, min_answers: int, texts: IO[bytes], worth: _Worth) -> None:
        self.worth = worth
        self.kind = kind
        self.test_share = test_share
        self.min_answers = min_answers
        self.texts = texts
        self.entries: dict[bytes, _Entry] = {}
        self.first_order: dict[bytes, bytes] = {}
        self.ledger = Ledger()

    def add(self, answer: AnswerRow) -> None:
        if answer.kind != "comparison":
            self._add_one(answer, answer.value)
            return
        self._add_pair(answer)
        if self.kind == FEEDBACK and answer.value.get("choice") == "both_bad":
            for place in (0, 1):
                self._add_one(answer, {"approved": False, "both_bad": True}, place)

    def _add_pair(self, answer: AnswerRow) -> None:
        written = [candidate["text"] for candidate in answer.candidates]
        about = asked_about(answer.messages or [], answer.columns)
        order = _digest(about, *written)
        key = _digest(about, *sorted(map(str, written)))
        swapped = self.first_order.setdefault(key, order) != order
        if key not in self.entries:
            item, item_swapped = pair_item(about, *map(str, written))
            self.entries[key] = self._entry(answer, written, {}, item=item, item_swapped=item_swapped)
        what = _what(answer, str(answer.value.get("choice")))
        self._said(key, answer, {"a": "b", "b": "a"}.get(what, what) if swapped else what)

    def _add_one(self, answer: AnswerRow, value: dict[str, Any], place: int | None = None) -> None:
        """An answer as a row of its own; of a comparison, what it says about the completion at `place`."""
        if answer.kind == "demonstration":
            written, group = [value.get("text", "-")], None
        else:
            shown = answer.candidates if place is None else answer.candidates[place : place + 1]
            written = [candidate["text"] for candidate in shown]
            about = asked_about(answer.messages or [], answer.columns)
            asked = (answer.kind, place is None, about, *sorted(map(str, written)))
            group = _digest(*asked)
            value = _by_place(value, [candidate["id"] for candidate in shown])
        key = _digest(answer.id, *([] if place is None else [place]))
        self.entries[key] = self._entry(answer, written, value, group=group)
        self._said(key, answer, _what(answer, "said"))

    def _entry(self, answer: AnswerRow, written: Sequence[str | None], value: dict[str, Any], **more: Any) -> _Entry:
        kept = {"prompt": answer.messages, "texts": written, "columns": answer.columns, "answer": answer.id}
        at = self.texts.tell()
        self.texts.write(canonical_json({**kept, "kind": answer.kind, "value": value}).encode("utf-8") + b"\n")
        return _Entry(
            at=at,
            defect=_defect(answer, written),
            split=split_of(answer.messages or [], self.test_share),
            source=answer.source,
            licence=answer.licence,
            **more,
        )

    def _said(self, key: bytes, answer: AnswerRow, what: str) -> None:
        said = _Said(
            answer.id,
            answer.annotator,
            answer.question_id,
            what,
            answer.value.get("strength"),
            answer.adjudication,
        )
        self.entries[key].said.append(said)

    def rows(self) -> list[_Row]:
        """The rows that can be made; everything else goes to the ledger."""
        result = []
        shares = self._shares()
        for key, entry in self.entries.items():
            self.ledger.seen()
            said_so = [said for said in entry.said if said.what in VOTES or said.what == "said"]
            votes = [said for said in said_so if said.annotator not in self.worth.barred]
            barred = [self.worth.barred[said.annotator] for said in said_so if said.annotator in self.worth.barred]
            for reason in barred:
                self.ledger.note(f"answer set aside: {reason}")
            if entry.defect is not None:
                self.ledger.drop(entry.defect)
            elif barred and not votes:
                self.ledger.drop(barred[0])
            elif not votes:
                self.ledger.drop(
                    next(reason for what, reason in ASIDE.items() if any(s.what == what for s in entry.said))
                )
            elif entry.item is None:
                share = shares.get(votes[0].id, 1.0) if entry.group is not None else 1.0
                if isinstance(share, str):
                    self.ledger.drop(share)
                else:
                    result.append(_Row(key, entry, votes, None, self.worth.weight(votes) * share))
            else:
                used = self._used(entry, votes)
                consensus = self._consensus(entry, used)
                if consensus.n < self.min_answers:
                    self.ledger.drop("too few answers")
                    continue
                if consensus.tie:
                    self.ledger.note("tie")
                result.append(_Row(key, entry, used, consensus, self.worth.weight(used)))
        return result

    def _shares(self) -> dict[str, float | str]:
        """By answer to a question that several answered: its share of the question's weight, or why it is left out."""
        groups: dict[bytes, list[_Said]] = {}
        for entry in self.entries.values():
            said = entry.said[0]
            stands = said.what == "said" and said.annotator not in self.worth.barred
            if entry.group is not None and entry.defect is None and stands:
                groups.setdefault(entry.group, []).append(said)
        result: dict[str, float | str] = {}
        for all_said in groups.values():
            settled = [said for said in all_said if said.settles][-1:]
            people = [said for said in all_said if annotator_kind(said.annotator) in PEOPLE]
            used = settled or people or all_said
            reason = "adjudicated" if settled else "a machine's beside people's"
            if len(used) < self.min_answers and not settled:
                used, reason = [], "too few answers"
            result |= {said.id: reason for said in all_said}
            result |= {said.id: 1 / len(used) for said in used}
        return result

    def _consensus(self, entry: _Entry, used: Sequence[_Said]) -> Consensus:
        weights = {said.voter: self.worth.weights.get(said.annotator, 1.0) for said in used}
        votes = comparison_consensus(((s.voter, s.what, s.strength) for s in used), weights)
        return votes if any(said.settles for said in used) else self.worth.modelled(entry, votes)

    def _used(self, entry: _Entry, votes: list[_Said]) -> list[_Said]:
        for said in entry.said:
            if said.what in ASIDE:
                self.ledger.note(f"answer set aside: {ASIDE[said.what]}")
        settled = [said for said in votes if said.settles]
        if settled:
            self.ledger.note("answer set aside: adjudicated", len(votes) - 1)
            return settled[-1:]
        people = [said for said in votes if annotator_kind(said.annotator) in PEOPLE]
        if people and len(people) < len(votes):
            self.ledger.note("answer set aside: a machine's beside people's", len(votes) - len(people))
        return people or votes


def _what(answer: AnswerRow, said: str) -> str:
    return "late" if answer.late else "skip" if answer.skipped else said


def _by_place(value: dict[str, Any], ids: Sequence[str]) -> dict[str, Any]:
    """A ranking's candidates by their places; anything else unchanged."""
    if "order" not in value:
        return value
    return {**value, "order": [[ids.index(one) for one in group] for group in value["order"]]}


def _defect(answer: AnswerRow, written: Sequence[str | None]) -> str | None:
    """Why no row can be made from these texts, whatever was said about them."""
    if not answer.messages or any(text is None for text in written):
        return "erased"
    texts = [str(text).strip() for text in written]
    if not all(texts):
        return "empty"
    return "identical" if len(set(texts)) < len(texts) else None


def _write(folder: Path, rows: Sequence[_Row], texts: IO[bytes]) -> None:
    with (folder / "train.jsonl").open("wb") as train, (folder / "test.jsonl").open("wb") as test:
        for row in rows:
            texts.seek(row.entry.at)
            line = canonical_json(_as_columns(row, json.loads(texts.readline())))
            (test if row.entry.split == "test" else train).write(line.encode("utf-8") + b"\n")


def _as_columns(row: _Row, kept: dict[str, Any]) -> dict[str, Any]:
    columns = {name: value for name, value in kept["columns"].items() if name not in RESERVED}
    # A single imported answer may bring its own soft label, weight or margin; several answers make their own.
    alone = len(row.used) == 1 and row.used[0].id == kept["answer"]
    given = {name: _number(kept["columns"].get(name)) for name in ("label", "weight", "margin")} if alone else {}
    weight = given.get("weight")
    common = {
        "prompt": kept["prompt"],
        "weight": row.weight * (1.0 if weight is None else weight),
        "question": min(said.question for said in row.used),
        "answers": sorted(said.id for said in row.used),
        "annotators": sorted({said.annotator for said in row.used}),
        "simulated": any(annotator_kind(said.annotator) == "simulated" for said in row.used),
        "source": row.entry.source,
        "licence": row.entry.licence,
        **columns,
    }
    if row.consensus is None:
        return {**common, **_said_columns(kept["kind"], kept["texts"], kept["value"])}
    return {**common, **_pair_columns(row.consensus, kept["texts"], given)}


def _said_columns(kind: str, texts: Sequence[str], value: dict[str, Any]) -> dict[str, Any]:
    """What was said in the columns in which it would be imported."""
    if kind == "demonstration":
        return {"completion": texts[0]}
    if kind == "ranking":
        ranks = {place: rank for rank, group in enumerate(value["order"], 1) for place in group}
        return {"kind": kind, "completions": list(texts), "ranks": [ranks[place] for place in range(len(texts))]}
    about = {"completion": texts[0]}
    if "approved" in value:
        both = {"both_bad": True} if value.get("both_bad") else {}
        return {**about, "kind": "approval", "label": value["approved"], **both}
    names = {"scores": "scores", "flags": "flags", "text": "edited", "spans": "spans"}
    said = {column: value[name] for name, column in names.items() if name in value}
    return {**about, "kind": kind, **said, **({"rejected": texts[1]} if len(texts) > 1 else {})}


def _pair_columns(consensus: Consensus, texts: Sequence[str], given: dict[str, float | None]) -> dict[str, Any]:
    soft = given.get("label")
    label = soft if soft is not None else consensus.label
    if label is None:
        raise RunError("a pair without votes reached the snapshot")  # rows() drops them
    first, second = texts if label >= 0.5 else reversed(texts)
    # A model of the annotators may be surer of the better side than the votes were: ties cannot be more than it leaves.
    ties = min(consensus.ties, 2 * min(label, 1 - label)) if soft is None else 0.0
    known = ties if ties or label == 0.5 else None
    optional = {"ties": known, "margin": given.get("margin"), "strength": consensus.strength}
    return {
        "chosen": first,
        "rejected": second,
        "label": max(label, 1.0 - label),
        "n": consensus.n,
        "uncertain": consensus.uncertain,
        **{name: value for name, value in optional.items() if value is not None},
    }


def _counts(rows: Sequence[_Row]) -> dict[str, Any]:
    """Rows per split, answers and annotators per kind, and how far people agreed (the ceiling for a reward model)."""
    used = [said for row in rows for said in row.used]
    who = {said.annotator for said in used}
    people = [
        [(s.voter, s.what) for s in row.used if annotator_kind(s.annotator) in PEOPLE]
        for row in rows
        if row.consensus is not None
    ]
    agreement = pairwise_agreement(people)
    splits = Counter(row.entry.split for row in rows)
    kinds = ("people", "imported", "simulated", "ai")
    answers_by, annotators_by = Counter(annotator_kind(s.annotator) for s in used), Counter(map(annotator_kind, who))
    return {
        "train": splits["train"],
        "test": splits["test"],
        "answers": {kind: answers_by[kind] for kind in kinds},
        "annotators": {kind: annotators_by[kind] for kind in kinds},
        "agreement": {"value": agreement.value, "n": agreement.n, "questions": agreement.questions},
    }


def _origin(rows: Sequence[_Row]) -> dict[str, Any]:
    """Where the rows came from, and one hash over the ids of all answers: proof of which they were, without a text."""
    return {
        "sources": dict(sorted(Counter(row.entry.source or "this workspace" for row in rows).items())),
        "licences": dict(sorted(Counter(row.entry.licence or "not stated" for row in rows).items())),
        "simulated": any(annotator_kind(s.annotator) == "simulated" for row in rows for s in row.used),
        "answers_commitment": content_hash(sorted(s.id for row in rows for s in row.used)),
    }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _digest(*parts: Any) -> bytes:
    return hashlib.blake2b(canonical_json(parts).encode("utf-8"), digest_size=16).digest()
