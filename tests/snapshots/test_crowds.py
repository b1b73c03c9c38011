"""Published crowds: one row per vote, with annotators, times and reasons."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefloop.errors import InputError
from prefloop.snapshots.crowds import import_rows
from prefloop.snapshots.importing import import_file
from prefloop.snapshots.rows import Reject
from prefloop.store.database import Store
from prefloop.store.feedback import answers

Write = Callable[..., Path]


def vote(worker: str, said: str, accept: str = "2016-01-31 16:00:00.0 UTC") -> dict[str, Any]:
    done = "2016-01-31 16:01:00.0 UTC"
    return {
        "worker": worker,
        "vote": said,
        "reason": f"{worker} likes it",
        "accept": accept,
        "submit": done,
        "mace": 0.5,
    }


def pair(n: int, *votes: dict[str, Any]) -> dict[str, Any]:
    texts = {"a1": f"first {n}", "a2": f"second {n}"}
    return {"id": str(n), "topic": "bottles_no-bad", "debate": "Bottles", **texts, "gold": "a1", "votes": list(votes)}


def test_every_vote_is_an_answer_of_its_worker(store: Store, jsonl: Write) -> None:
    file = jsonl([pair(1, vote("w", "a1"), vote("v", "a2")), pair(2, vote("w", "equal"), vote("v", "neither"))])
    result = import_file(store, file, "comparisons", rejects_dir=file.parent)
    assert (result.imported, result.reasons) == (3, {"malformed": 1})
    said = list(answers(store))
    assert [row.value["choice"] for row in said] == ["a", "b", "tie"]
    assert len({row.annotator for row in said}) == 2
    assert {row.seconds for row in said} == {30.0}  # a minute for two pairs
    assert said[0].at == "2016-01-31T16:01:00Z"
    assert said[0].columns["reason"] == "w likes it"
    assert "gold" not in said[0].columns  # somebody else's consensus is no known answer of ours
    assert said[0].columns["published_gold"] == "a1"
    assert said[0].source == "UKPLab/acl2016-convincing-arguments"
    assert said[0].messages[0]["content"] == "Give a convincing argument. Debate: Bottles. Side: no bad."


def test_the_rag_crowd_finds_its_texts_and_workers_beside_it(store: Store, jsonl: Write) -> None:
    row = {"submission": "s", "query_id": "q", "a": "r1", "b": "r2", "workers": ["w", "v"], "gold": {}, "spam_p": {}}
    row["votes"] = {"quality_overall": ["A", "B"], "coverage_deep": ["N", "A"]}
    pairs = jsonl([row], "rag.pairs.jsonl")
    with pytest.raises(InputError, match=r"rag\.responses\.jsonl is not beside it"):
        list(import_rows(pairs))
    jsonl([{"id": "r1", "text": "one", "style": "essay"}, {"id": "r2", "text": "two"}], "rag.responses.jsonl")
    jsonl([{"worker": "w", "age": "57", "sex": "Male", "time_taken": 100.0}], "rag.workers.jsonl")
    import_file(store, pairs, "comparisons", rejects_dir=pairs.parent)
    first, second = answers(store)
    assert (first.value["choice"], second.value["choice"]) == ("a", "b")
    assert (first.seconds, second.seconds) == (100.0, None)
    assert (first.columns["worker_age"], first.columns["worker_sex"]) == ("57", "Male")
    assert first.columns["dimensions"] == {"coverage_deep": "n"}


def test_other_rows_are_left_as_they_are(jsonl: Write) -> None:
    rows = [{"prompt": "p", "chosen": "x", "rejected": "y"}, "no json"]
    first, second = import_rows(jsonl(rows))
    assert first == (1, rows[0])
    assert isinstance(second[1], Reject)
    assert list(import_rows(jsonl([]))) == []


@pytest.mark.parametrize(
    ("name", "n", "people", "reasons"), [("ukpconvarg1", 300, 100, True), ("rag_crowd.pairs", 100, 60, False)]
)
def test_real_crowds_keep_who_when_and_why(
    store: Store, data_dir: Path, tmp_path: Path, name: str, n: int, people: int, reasons: bool
) -> None:
    """The first rows of the real files; `python -m benchmarks.worth` reads them whole."""
    import gzip

    source = data_dir / "preferences" / f"{name}.jsonl.gz"
    file = tmp_path / f"{name}.jsonl"
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        file.write_text("".join(line for line, _ in zip(lines, range(n), strict=False)), encoding="utf-8")
    for part in ("responses", "workers"):
        beside = source.with_name(source.name.replace("pairs", part))
        if beside != source:
            (tmp_path / file.name.replace("pairs", part)).write_text(gzip.decompress(beside.read_bytes()).decode())
    import_file(store, file, "comparisons", rejects_dir=tmp_path)
    rows = list(answers(store))
    assert len(rows) > 4.5 * n
    assert len({row.annotator for row in rows}) > people
    assert not any(row.simulated for row in rows)
    assert sum(row.seconds is not None and row.seconds > 0 for row in rows) > 0.7 * len(rows)
    assert all(bool(row.columns.get("reason")) == reasons for row in rows[:50])
    assert json.dumps([row.licence for row in rows[:1]]) == '["CC BY 4.0"]'
