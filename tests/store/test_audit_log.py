"""The audit log: whatever is changed past prefloop is found, and what an exported head adds to that."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from prefloop.errors import InputError
from prefloop.records import canonical_json
from prefloop.store.accounts import add_person, set_roles
from prefloop.store.annotators import add_annotator
from prefloop.store.audit_log import Head, Verified, append, audited, commitment, head, read_head, verify, write_head
from prefloop.store.corrections import correct
from prefloop.store.database import Store, open_store
from prefloop.store.feedback import (
    add_completions,
    add_guideline,
    add_prompts,
    add_questions,
    answers,
    erase_answers,
    import_answers,
)
from prefloop.store.queue import lease
from prefloop.store.submissions import Submission, submit


def imported(n: int) -> list[dict[str, Any]]:
    return [
        {
            "kind": "comparison",
            "messages": f"prompt {index}",
            "candidates": ["yes", "no"],
            "value": {"choice": "a"},
            "annotator": f"worker {index % 3}",
            "seconds": 3,
            "columns": {"weight": 0.5},
        }
        for index in range(n)
    ]


def some_history(store: Store) -> None:
    """An answer of each way in which one can come: 4 answers, and 9 events."""
    add_guideline(store, "Be kind.")
    import_answers(store, imported(2))
    who = add_person(store, "Ada", roles=["annotator"])
    (prompt,) = add_prompts(store, [{"messages": "2 + 2?"}])
    shown = add_completions(store, [{"prompt_id": prompt, "text": text} for text in ("4", "5")])
    add_questions(store, [{"kind": "comparison", "prompt_id": prompt, "candidates": shown}])
    (held,) = lease(store, who)
    (receipt,) = submit(store, [Submission(lease_token=held.token, value={"choice": "a"}, idempotency_key="1")])
    correct(store, who, receipt.answer_id, {"choice": "b", "strength": 2}, idempotency_key="2", seconds=1.5)
    set_roles(store, who, ["annotator", "viewer"])
    erase_answers(store, [next(row.id for row in answers(store, kind="comparison"))], "asked to")


def tamper(store: Store, *statements: str) -> None:
    """What somebody with the database's password can do: the triggers hold nobody back who may drop them."""
    with store.write() as connection:
        if store.dialect == "sqlite":
            for name in connection.scalars(sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
                connection.execute(sa.text(f"DROP TRIGGER {name}"))
        else:
            connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        for statement in statements:
            connection.execute(sa.text(statement))


def test_an_untouched_history_is_verified(store: Store) -> None:
    nothing = Head(number=0, hash="0" * 64, at=None)
    assert verify(store) == Verified(ok=True, events=0, answers=0, head=nothing, compared=False)
    some_history(store)
    found = verify(store, head(store))
    assert found.problems == []
    assert (found.ok, found.events, found.answers, found.compared) == (True, 9, 4, True)


def test_an_events_hash_is_what_the_page_says(store: Store) -> None:
    with audited(store) as connection:
        append(connection, "option", "operator", "gold_share", "c" * 64)
        row = connection.execute(sa.text("SELECT * FROM events")).mappings().one()
    said = f'[1,{row["at"]},"option","operator","gold_share","{"c" * 64}","{"0" * 64}"]'
    assert row["hash"] == hashlib.sha256(said.encode()).hexdigest()


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("""UPDATE answers SET value = '{"choice":"tie"}' WHERE replaces IS NOT NULL""", "answer .* was changed"),
        ("UPDATE answers SET late = true WHERE replaces IS NOT NULL", "answer .* was changed"),
        ("UPDATE answers SET seconds = 99 WHERE replaces IS NOT NULL", "answer .* was changed"),
        ("UPDATE slots SET answer_id = NULL; DELETE FROM answers WHERE replaces IS NOT NULL", "answer .* is gone"),
        (
            "UPDATE answers SET value = NULL, key = NULL, columns = NULL WHERE replaces IS NOT NULL",
            "was erased, but no event tells",
        ),
        ("UPDATE guidelines SET text = 'Be rude.'", "guideline 1 was changed"),
        ("INSERT INTO roles SELECT id, 'admin' FROM annotators WHERE name = 'Ada'", "the roles of person:.* changed"),
        ("UPDATE events SET \"by\" = 'somebody' WHERE number = 2", r"event 2 \(import\) was changed"),
        ("DELETE FROM events WHERE number = 2", "event 2 is missing"),
    ],
)
def test_what_was_changed_past_prefloop_is_found(store: Store, statement: str, problem: str) -> None:
    some_history(store)
    tamper(store, *statement.split("; "))
    found = verify(store)
    assert not found.ok
    assert any(re.search(problem, one) for one in found.problems), found.problems


def test_an_end_that_was_cut_off_is_found_with_an_exported_head_only(store: Store, tmp_path: Path) -> None:
    some_history(store)
    written = write_head(store, tmp_path / "head.json")
    assert read_head(tmp_path / "head.json") == written
    assert json.loads((tmp_path / "head.json").read_text())["number"] == 9
    tamper(store, "DELETE FROM events WHERE number >= 8", "DELETE FROM roles WHERE role = 'viewer'")
    found = verify(store, written)
    assert any("the exported head is event 9, but the chain ends at 7" in one for one in found.problems)


def test_a_rewritten_chain_is_found_with_an_exported_head_only(store: Store) -> None:
    some_history(store)
    known = head(store)
    with store.read() as connection:
        rows = [dict(row) for row in connection.execute(sa.text("SELECT * FROM events ORDER BY number")).mappings()]
    changes = []
    previous = "0" * 64
    for row in rows:
        by = "somebody" if row["number"] == 3 else row["by"]
        said = [row["number"], row["at"], row["event"], by, row["subject"], row["commitment"], previous]
        new = hashlib.sha256(json.dumps(said, separators=(",", ":")).encode()).hexdigest()
        change = "UPDATE events SET \"by\" = '{}', previous = '{}', hash = '{}' WHERE number = {}"
        changes.append(change.format(by, previous, new, row["number"]))
        previous = new
    tamper(store, *changes)
    assert verify(store).ok
    assert not verify(store).compared
    assert any("event 9 is not the one of the exported head" in one for one in verify(store, known).problems)


def test_a_file_that_holds_no_head(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_head(tmp_path / "none")
    for text in ("", "[]", '{"number": "x", "hash": ""}', "[" * 100000):
        (tmp_path / "head").write_text(text)
        with pytest.raises(InputError, match="holds no head of an audit log"):
            read_head(tmp_path / "head")


def test_events_cannot_be_changed(store: Store) -> None:
    add_annotator(store, "Ada", kind="person")
    add_guideline(store, "Be kind.")
    for statement in ("UPDATE events SET hash = ''", "DELETE FROM events"):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), store.write() as connection:
            connection.execute(sa.text(statement))


def test_answers_from_before_the_audit_log_are_entered_by_the_migration(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "upgrade", lambda config, to, upgrade=command.upgrade: upgrade(config, "0001"))
    old = open_store(empty_url)
    monkeypatch.undo()
    key, value = "ab" * 32, {"text": "4"}
    with old.write() as connection:
        for statement in (
            "INSERT INTO annotators (id, name, kind, created_at) VALUES ('person:1', 'Ada', 'person', 0)",
            "INSERT INTO prompts (id, messages, created_at) VALUES ('p', '[]', 0)",
            "INSERT INTO guidelines (version, text, created_at) VALUES (1, 'Be kind.', 0)",
            "INSERT INTO questions VALUES (1, 'q', 'demonstration', 'p', 1, 0, 0, NULL, NULL, NULL, NULL, 0)",
        ):
            connection.execute(sa.text(statement))
        insert = sa.text(
            "INSERT INTO answers (id, question_id, annotator_id, ordinal, value, key, hash, presented_order, skipped, "
            "late, seconds, columns, at) VALUES (:id, 'q', 'person:1', :n, :value, :key, :hash, '[]', false, false, "
            "2, :columns, 1234567)"
        )
        for n, columns in enumerate([None, '{"weight":0.5}']):
            said = {"id": f"answer {n}", "n": n, "value": canonical_json(value), "columns": columns}
            hashed = commitment(key, "q", "person:1", value, [])
            connection.execute(insert, said | {"key": key, "hash": hashed})
    old.close()
    store = open_store(empty_url)
    found = verify(store)
    assert (found.problems, found.events, found.answers) == ([], 3, 2)
    tamper(store, "UPDATE answers SET columns = NULL")
    assert verify(store).problems == ["answer answer 1 was changed: it no longer says what was committed to"]
    store.close()
