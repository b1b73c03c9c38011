"""Published crowds: files in which one row is a pair with the votes of several people, as one row per vote.

    UKPConvArg1       a1, a2, votes: [{worker, vote: a1 | a2 | equal, reason, accept, submit, mace, stance}]
    RAG crowdsourcing a, b, workers, votes: {dimension: [A | B | N, ...]}; the texts are in `….responses.…` beside the
                      file `….pairs.…`, and what is known of the workers in `….workers.…`

Every vote keeps its worker (`annotator`), its time where one is known (`at`, `seconds`) and its reason (`reason`). Both
sources time a task of several pairs; `seconds` is the task's time divided by its pairs in the file. What others have
computed (gold labels, competence, spam probabilities) is kept under `published_…` and is used for nothing.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from prefloop.errors import InputError
from prefloop.snapshots.rows import Progress, Reject, read_rows

Row = dict[str, Any]
UKP_SOURCE = "UKPLab/acl2016-convincing-arguments"
RAG_SOURCE = "webis-de/sigir25-rag-crowdsourcing"
LICENCE = "CC BY 4.0"
OVERALL = "quality_overall"
"""The dimension that is the vote; the others are kept beside it as `dimensions`."""
PUBLIC = ("age", "sex", "ethnicity", "country", "nationality", "language", "employment", "student", "time_taken")
"""What is published of a RAG worker, kept as `worker_age` and so on."""


def import_rows(source: str | Path, progress: Progress | None = None) -> Iterator[tuple[int, Row | Reject]]:
    """`rows.read_rows`, with each row of a published crowd as one comparison per vote (all with the row's line)."""
    rows = read_rows(source, progress)
    first = next(rows, None)
    if first is None:
        return
    again = itertools.chain([first], rows)
    layout = _layout(first[1])
    if layout is None:
        yield from again
        return
    votes = (_Ukp if layout == "ukp" else _Rag)(source)
    for line, row in again:
        if isinstance(row, Reject) or _layout(row) != layout:
            yield line, row
        else:
            yield from ((line, one) for one in votes.of(row))


def _layout(row: Row | Reject) -> str | None:
    if isinstance(row, Reject):
        return None
    if {"a1", "a2", "votes"} <= row.keys() and isinstance(row["votes"], list):
        return "ukp"
    if {"a", "b", "workers", "votes"} <= row.keys() and isinstance(row["votes"], dict):
        return "rag"
    return None


class _Ukp:
    """Habernal, Gurevych 2016: which of two arguments of one side of a debate convinces more."""

    def __init__(self, source: str | Path) -> None:
        self.tasks = Counter(
            (vote.get("worker"), vote.get("accept"))
            for row in _good_rows(source)
            for vote in _mappings(row.get("votes"))
        )

    def of(self, row: Row) -> Iterator[Row | Reject]:
        side = str(row.get("topic", "")).partition("_")[2] or str(row.get("topic", ""))
        for vote in _mappings(row["votes"]):
            label = {"a1": 1.0, "equal": 0.5, "a2": 0.0}.get(str(vote.get("vote")))
            if label is None:
                yield Reject("malformed", f"a vote must be a1, a2 or equal, got {vote.get('vote')!r:.60}")
                continue
            begun, done = _time(vote.get("accept")), _time(vote.get("submit"))
            pairs = self.tasks[vote.get("worker"), vote.get("accept")]
            known = {
                "annotator": vote.get("worker"),
                "reason": vote.get("reason"),
                "at": None if done is None else done.isoformat(),
                "seconds": None if begun is None or done is None else max(0.0, (done - begun).total_seconds()) / pairs,
                "topic": row.get("topic"),
                "stance": vote.get("stance"),
                "pair": row.get("id"),
                "published_competence": vote.get("mace"),
                "published_gold": row.get("gold"),
            }
            yield {
                "prompt": f"Give a convincing argument. Debate: {row.get('debate')}. Side: {side.replace('-', ' ')}.",
                "chosen": row["a1"],
                "rejected": row["a2"],
                "label": label,
                "source": UKP_SOURCE,
                "licence": LICENCE,
                **{name: value for name, value in known.items() if value is not None},
            }


class _Rag:
    """Gienapp et al. 2025: which of two answers to a question of TREC RAG 2024 is the better one.

    The questions' texts are not in the data; the prompt names the topic.
    """

    def __init__(self, source: str | Path) -> None:
        self.texts = {str(row["id"]): row for row in _beside(source, "responses") if "id" in row}
        self.workers = {str(row["worker"]): row for row in _beside(source, "workers") if "worker" in row}
        self.pairs = Counter(str(who) for row in _good_rows(source) for who in row.get("workers", ()))

    def of(self, row: Row) -> Iterator[Row | Reject]:
        a, b = self.texts.get(str(row["a"])), self.texts.get(str(row["b"]))
        if a is None or b is None:
            lost = row["a"] if a is None else row["b"]
            yield Reject("missing column", f"the responses beside the file have no {lost!r:.60}")
            return
        names = {name: given for name, given in row["votes"].items() if isinstance(given, list)}
        for place, who in enumerate(map(str, row["workers"])):
            said = {name: str(given[place]).lower() for name, given in names.items() if place < len(given)}
            label = {"a": 1.0, "n": 0.5, "b": 0.0}.get(said.pop(OVERALL, ""))
            if label is None:
                yield Reject("malformed", f"a vote on {OVERALL} must be A, B or N")
                continue
            worker = self.workers.get(who, {})
            spent = worker.get("time_taken")
            spam = row.get("spam_p", {}).get(OVERALL, [])
            yield {
                "prompt": f"Answer the question of TREC RAG 2024, topic {row.get('query_id')}.",
                "chosen": a["text"],
                "rejected": b["text"],
                "label": label,
                "annotator": who,
                "source": RAG_SOURCE,
                "licence": LICENCE,
                "topic": row.get("query_id"),
                "submission": row.get("submission"),
                "styles": [a.get("style"), b.get("style")],
                "dimensions": said,
                "published_gold": row.get("gold", {}).get(OVERALL),
                **({"seconds": float(spent) / self.pairs[who]} if isinstance(spent, int | float) else {}),
                **({"published_spam": spam[place]} if place < len(spam) else {}),
                **{f"worker_{name}": worker[name] for name in PUBLIC if worker.get(name) is not None},
            }


def _good_rows(source: str | Path) -> Iterator[Row]:
    return (row for _, row in read_rows(source) if not isinstance(row, Reject))


def _beside(source: str | Path, part: str) -> Iterator[Row]:
    path = Path(source)
    other = path.with_name(path.name.replace("pairs", part, 1))
    if other == path or not other.is_file():
        wanted = other.name if other != path else f"a file of {part}"
        raise InputError(f"{path.name} names its {part} by id, but {wanted} is not beside it")
    return _good_rows(other)


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _time(text: Any) -> datetime | None:
    """`2016-01-31 16:53:19.0 UTC`."""
    try:
        return datetime.fromisoformat(str(text).replace(".0 UTC", "+00:00").replace(" UTC", "+00:00"))
    except ValueError:
        return None
