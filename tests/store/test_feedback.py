"""Prompts, completions, questions and answers: once each, all or none, in order, and never changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from prefloop.errors import InputError, RunError
from prefloop.records import prompt_id
from prefloop.store import database, feedback
from prefloop.store.counting import counts
from prefloop.store.database import Store, open_store
from prefloop.store.erasure import scrub
from prefloop.store.feedback import (
    add_completions,
    add_guideline,
    add_prompts,
    add_questions,
    answers,
    answers_by_ids,
    erase_answers,
    erased_among,
    import_answers,
)


def imported(choice: str = "a", number: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "kind": "comparison",
        "messages": [{"role": "user", "content": f"What is {number} + 5?"}],
        "candidates": ["Ten.", "I am a model."],
        "value": {"choice": choice},
        "annotator": "worker 7",
        "source": "a crowd",
        "licence": "MIT",
        "columns": {"subset": "arithmetic"},
    } | more


def test_prompts_are_kept_once(store: Store) -> None:
    messages = [{"role": "user", "content": "Grüße, 你好 👋"}]
    first, second = add_prompts(store, [{"messages": messages, "source": "x"}, {"prompt": "Grüße, 你好 👋"}])
    assert first == second == prompt_id(messages)  # type: ignore[arg-type]
    assert add_prompts(store, [{"messages": messages}]) == [first]
    assert counts(store)["prompts"] == 1


def test_a_completion_knows_its_policy_and_sampling(store: Store) -> None:
    (prompt,) = add_prompts(store, [{"messages": "2 + 2?"}])
    item = {"prompt_id": prompt, "text": "4", "policy": "abc", "sampling": {"temperature": 0.7}, "terminated": True}
    ids = add_completions(store, [item, item | {"policy": "def"}, item | {"sampling": {"temperature": 1.0}}, item])
    assert len(set(ids)) == 3
    assert ids[3] == ids[0]
    assert add_completions(store, [item]) == [ids[0]]
    (question,) = add_questions(store, [{"kind": "approval", "prompt_id": prompt, "candidates": [ids[1]]}])
    with store.read() as connection:
        assert feedback.candidates_of(connection, [question]) == {
            question: [{"id": ids[1], "text": "4", "policy": "def"}]
        }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "opinion"}, r"questions\[0\].kind must be one of"),
        ({"candidates": []}, r"questions\[0\]: a comparison has 2 candidate\(s\), got 0"),
        ({"candidates": ["x", "x"]}, "must differ"),
        ({"candidates": ["x", "y"]}, "the store has no completion"),
        ({"prompt_id": "0" * 16}, "the store has no prompt 0000"),
        ({"overlap": 0}, "overlap must be a whole number from 1"),
        ({"overlap": True}, "overlap must be a whole number"),
        ({"round": -1}, "round must be"),
        ({"guideline": 3}, "the store has no guideline 3"),
        ({"columns": {"x": float("inf")}}, "must be finite"),
        ({"columns": ["x"]}, "columns must be an object"),
    ],
)
def test_questions_that_are_refused(store: Store, change: dict[str, Any], message: str) -> None:
    (prompt,) = add_prompts(store, [{"messages": "2 + 2?"}])
    shown = add_completions(store, [{"prompt_id": prompt, "text": text} for text in ("4", "5")])
    with pytest.raises(InputError, match=message):
        add_questions(store, [{"kind": "comparison", "prompt_id": prompt, "candidates": shown} | change])
    assert counts(store)["questions"] == {}


def test_a_question_shows_completions_of_its_own_prompt_only(store: Store) -> None:
    one, other = add_prompts(store, [{"messages": "2 + 2?"}, {"messages": "3 + 3?"}])
    shown = add_completions(store, [{"prompt_id": one, "text": "4"}, {"prompt_id": other, "text": "6"}])
    with pytest.raises(InputError, match=f"answers prompt {other}, not {one}"):
        add_questions(store, [{"kind": "comparison", "prompt_id": one, "candidates": shown}])


def test_the_same_question_is_asked_once_a_round(store: Store) -> None:
    (prompt,) = add_prompts(store, [{"messages": "Write a poem"}])
    item = {"kind": "demonstration", "prompt_id": prompt, "candidates": [], "overlap": 2}
    first, again, later = add_questions(store, [item, item, item | {"round": 1}])
    assert first == again != later
    assert add_questions(store, [item | {"overlap": 5}]) == [first]
    assert counts(store)["slots"] == {"open": 4, "leased": 0, "done": 0}


def test_imported_answers_come_back_as_they_were(store: Store) -> None:
    (identity,) = import_answers(store, [imported("b", at="2024-02-29T12:00:00+02:00", seconds=3.5)])
    (row,) = answers(store)
    assert row.id == identity
    assert (row.kind, row.value, row.raw) == ("comparison", {"choice": "b"}, {"choice": "b"})
    assert row.messages == [{"role": "user", "content": "What is 0 + 5?"}]
    assert [one["text"] for one in row.candidates] == ["Ten.", "I am a model."]
    assert row.presented_order == [one["id"] for one in row.candidates]
    assert (row.source, row.licence, row.columns) == ("a crowd", "MIT", {"subset": "arithmetic"})
    assert (row.at, row.seconds, row.late, row.skipped) == ("2024-02-29T10:00:00Z", 3.5, False, False)
    assert row.annotator.startswith("imported:")
    assert not row.simulated


def test_importing_again_adds_nothing(store: Store) -> None:
    items = [imported("a", n) for n in range(5)] + [imported("a", 4), imported("b", 4)]
    ids = import_answers(store, items)
    assert len(set(ids)) == 6  # the sixth repeats the fifth; the seventh says otherwise
    assert ids[5] == ids[4]
    assert import_answers(store, items) == ids
    assert len(list(answers(store))) == 6


def test_an_import_is_all_or_nothing(store: Store) -> None:
    with pytest.raises(InputError, match=r"answers\[1\]: choice must be one of"):
        import_answers(store, [imported(), imported("c", 1)])
    with pytest.raises(InputError, match=r"answers\[1\]\.candidates\[0\]\.text: the text holds a NUL"):
        import_answers(store, [imported(), imported(candidates=["a\x00", "b"])])
    with pytest.raises(InputError, match=r"answers\[0\]\.messages\[0\]\.content: .* lone surrogate \(U\+D800"):
        import_answers(store, [imported(messages=[{"role": "user", "content": "\ud800"}])])
    with pytest.raises(InputError, match=r"answers\[0\] lacks annotator"):
        import_answers(store, [imported(annotator=None)])
    with pytest.raises(InputError, match=r"answers\[0\]\.at must be a time"):
        import_answers(store, [imported(at="yesterday")])
    with pytest.raises(InputError, match=r"answers\[0\]: messages must be text or a list"):
        import_answers(store, [imported(messages=[{"role": "robot", "content": "x"}])])
    assert counts(store)["prompts"] == counts(store)["completions"] == 0
    assert counts(store)["annotators"] == counts(store)["answers"] == {}


def test_nobody_else_is_asked_an_imported_question(store: Store) -> None:
    import_answers(store, [imported()])
    assert counts(store)["slots"] == {"open": 0, "leased": 0, "done": 0}


def test_workers_of_two_sources_are_two_people_and_machines_stay_machines(store: Store) -> None:
    import_answers(store, [imported(), imported(number=1), imported(number=2, source="another crowd")])
    import_answers(store, [imported(number=3, annotator="simulated:careful"), imported(number=4, annotator="ai:x")])
    rows = list(answers(store))
    assert rows[0].annotator == rows[1].annotator != rows[2].annotator
    assert [row.simulated for row in rows] == [False, False, False, True, True]
    assert counts(store)["answers_by"] == {"person": 3, "simulated": 1, "ai": 1}


def test_an_imported_ranking_may_name_candidates_by_position(store: Store) -> None:
    import_answers(store, [imported(kind="ranking", candidates=["x", "y", "z"], value={"order": [[2], [0, 1]]})])
    (row,) = answers(store, kind="ranking")
    x, y, z = (one["id"] for one in row.candidates)
    assert row.value == {"order": [[z], [x, y]]}


def test_answers_stream_in_order_and_a_cursor_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "PAGE", 3)
    ids = import_answers(store, [imported("a", n) for n in range(8)])
    assert [row.id for row in answers(store)] == ids
    third = list(answers(store))[2]
    assert [row.id for row in answers(store, after=third.cursor)] == ids[3:]
    assert list(answers(store, kind="rating")) == []
    assert [row.id for row in answers(store, round=0)] == ids
    assert list(answers(store, round=1)) == []
    with pytest.raises(InputError, match="must be one of"):
        next(answers(store, kind="comparisons"))


def test_whoever_reads_may_write_meanwhile(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "PAGE", 3)
    ids = import_answers(store, [imported("a", n) for n in range(7)])
    seen = []
    for n, row in enumerate(answers(store)):
        import_answers(store, [imported("b", n)])  # neither waits for the reader nor is read by it
        seen.append(row.id)
    assert seen == ids
    assert len(list(answers(store))) == 14


def test_answers_are_found_by_id_for_lineage(store: Store) -> None:
    ids = import_answers(store, [imported("a", n) for n in range(3)])
    found = answers_by_ids(store, [ids[2], ids[0], "unknown"])
    assert set(found) == {ids[0], ids[2]}
    assert found[ids[2]].messages[0]["content"] == "What is 2 + 5?"


def test_an_erased_answer_leaves_its_id_and_hash_and_does_not_come_back(store: Store) -> None:
    secret = "my telephone number is in here"
    item = imported(kind="demonstration", candidates=[], value={"text": secret})
    kept, gone = import_answers(store, [imported(), item])
    before = answers_by_ids(store, [gone])[gone].hash
    assert erase_answers(store, [gone], "asked to") == 1
    assert erase_answers(store, [gone], "asked to") == 0
    assert [row.id for row in answers(store)] == [kept]
    assert answers_by_ids(store, [gone]) == {}
    assert set(erased_among(store, [kept, gone])) == {gone}
    with store.read() as connection:
        row = connection.execute(sa.text("SELECT * FROM answers WHERE id = :id"), {"id": gone}).mappings().one()
        tombstone = connection.execute(sa.text("SELECT * FROM tombstones")).mappings().one()
    assert (row["value"], row["key"], row["columns"]) == (None, None, None)
    assert row["hash"] == tombstone["hash"] == before
    assert (tombstone["subject_id"], tombstone["reason"]) == (gone, "asked to")
    assert import_answers(store, [item]) == [gone]
    assert counts(store)["answers"] == {"comparison": 1}
    assert counts(store)["erased"] == 1
    with pytest.raises(InputError, match="the store has no answer nonsense"):
        erase_answers(store, ["nonsense"], "asked to")


def test_an_erased_text_leaves_no_bytes_in_the_sqlite_file(tmp_path: Path) -> None:
    path = tmp_path / "prefloop.db"
    store = open_store(path)
    secret = b"a sentence that nobody may read again"
    item = imported(kind="demonstration", candidates=[], value={"text": secret.decode() * 200})
    ids = import_answers(store, [item])
    files = list(tmp_path.glob("prefloop.db*"))  # the write-ahead log, too
    assert any(secret in one.read_bytes() for one in files)
    erase_answers(store, ids, "asked to")
    scrub(store)
    assert not any(secret in one.read_bytes() for one in files)
    store.close()


def test_while_somebody_reads_the_file_cannot_be_scrubbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.2)
    store, other = open_store(tmp_path / "prefloop.db"), open_store(tmp_path / "prefloop.db")
    ids = import_answers(store, [imported(kind="demonstration", candidates=[], value={"text": "a secret"})])
    erase_answers(store, ids, "asked to")
    with other.read() as reading:
        assert reading.scalar(sa.text("SELECT count(*) FROM answers")) == 1
        with pytest.raises(RunError, match="stop the programs that read it, then erase again"):
            scrub(store)
    scrub(store)
    store.close()
    other.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE answers SET value = '{}'",
        "UPDATE answers SET value = NULL, key = NULL, columns = NULL",  # no tombstone
        "DELETE FROM answers",
        "UPDATE prompts SET messages = '[]'",
        "DELETE FROM candidates",
        "UPDATE completions SET text = 'better'",
        "UPDATE questions SET overlap = 100",
        "UPDATE annotators SET kind = 'person'",
        "INSERT INTO annotators (id, name, kind, created_at) VALUES ('simulated:x', 'x', 'person', 0)",
    ],
)
def test_the_database_itself_refuses_changes(store: Store, statement: str) -> None:
    (identity,) = import_answers(store, [imported()])
    before = answers_by_ids(store, [identity])
    with pytest.raises(sa.exc.DBAPIError, match="append-only|ck_annotators_simulated"), store.write() as connection:
        connection.execute(sa.text(statement))
    assert answers_by_ids(store, [identity]) == before


def test_a_tombstone_allows_blanking_and_nothing_else(store: Store) -> None:
    (identity,) = import_answers(store, [imported()])
    erase_answers(store, [identity], "asked to")
    for statement in ("UPDATE answers SET value = '{}'", "UPDATE answers SET hash = 'x'", "DELETE FROM tombstones"):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), store.write() as connection:
            connection.execute(sa.text(statement))


def test_the_hash_commits_to_what_was_said(store: Store) -> None:
    ids = import_answers(store, [imported("a"), imported("a", 1)])
    with store.read() as connection:
        rows = connection.execute(sa.text("SELECT * FROM answers ORDER BY number")).mappings().all()
    assert rows[0]["hash"] != rows[1]["hash"]
    row = answers_by_ids(store, ids)[ids[0]]
    key = rows[0]["key"]
    assert feedback.commitment(key, row.question_id, row.annotator, row.raw, row.presented_order) == row.hash
    assert feedback.commitment(key, row.question_id, row.annotator, {"choice": "b"}, row.presented_order) != row.hash


def test_guidelines_have_versions(store: Store) -> None:
    assert add_guideline(store, "Be fair.") == 1
    assert add_guideline(store, "Be fair.") == 1
    assert add_guideline(store, "Be fair and quick.") == 2
    with pytest.raises(InputError, match="needs text"):
        add_guideline(store, " ")
