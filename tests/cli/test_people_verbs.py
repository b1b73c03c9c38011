"""The verbs token, audit-log, erase, backup and restore as a user types them."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import prefloop
from prefloop.cli.app import run
from prefloop.store.database import open_store
from prefloop.store.feedback import add_prompts, add_questions, answers
from prefloop.store.queue import lease
from prefloop.store.submissions import Submission, submit
from prefloop.store.tokens import token_owner


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A workspace to work in; the program's signal handler is taken back afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    prefloop.init(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


def call(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and the object that --json prints."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as left:
        run([*arguments, "--json"])
    out, _ = capfd.readouterr()
    assert out.count("\n") == 1
    return int(left.value.code or 0), json.loads(out)


def test_from_a_token_to_an_erasure_and_back(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, made = call(capfd, "token", "create", "--name", "judge", "--role", "annotator")
    assert (code, set(made)) == (0, {"token", "annotator", "id", "name", "role"})
    store = open_store(workspace / "prefloop.db")
    owner = token_owner(store, made["token"])
    assert owner is not None
    assert owner.annotator == made["annotator"]
    (prompt,) = add_prompts(store, [{"messages": "Write about herons."}])
    add_questions(store, [{"kind": "demonstration", "prompt_id": prompt, "candidates": []}])
    (held,) = lease(store, owner.annotator)
    text = "Herons stand still for an hour."
    submit(store, [Submission(lease_token=held.token, value={"text": text}, idempotency_key="1")])

    assert call(capfd, "audit-log", "head", "--out", "head.json")[0] == 0
    code, found = call(capfd, "audit-log", "verify", "--head", "head.json")
    assert (code, found["ok"], found["compared"], found["answers"]) == (0, True, True, 1)
    code, copy = call(capfd, "backup", "copy")
    assert (code, copy["answers"]) == (0, 1)
    code, erased = call(capfd, "erase", made["annotator"], "--reason", "asked to")
    assert (code, erased["answers"], erased["backups"]) == (0, 1, [str(workspace / "copy")])
    assert not any(text.encode() in path.read_bytes() for path in workspace.glob("prefloop.db*"))
    assert token_owner(store, made["token"]) is None
    assert call(capfd, "audit-log", "verify", "--head", "head.json")[0] == 0
    store.close()

    code, restored = call(capfd, "restore", "copy")
    assert (code, restored["erased_again"]) == (0, 2)  # the answer and its annotator
    store = open_store(workspace / "prefloop.db")
    assert list(answers(store)) == []
    with store.write() as connection:
        connection.execute(sa.text("DROP TRIGGER events_fixed"))
        connection.execute(sa.text("UPDATE events SET subject = 'x' WHERE number = 2"))
    store.close()
    code, broken = call(capfd, "audit-log", "verify")
    assert code == 1
    assert broken["exit_code"] == 1
    assert "event 2 (roles) was changed" in broken["error"]


def test_tokens_are_listed_and_revoked(capfd: pytest.CaptureFixture[str]) -> None:
    _, made = call(capfd, "token", "create", "--name", "judge", "--role", "lead", "--days", "7")
    _, listed = call(capfd, "token", "list")
    (one,) = listed["tokens"]
    assert (one["id"], one["role"], one["revoked_at"]) == (made["id"], "lead", None)
    assert made["token"] not in json.dumps(listed)
    assert call(capfd, "token", "revoke", "--id", made["id"])[0] == 0
    assert call(capfd, "token", "list")[1]["tokens"][0]["revoked_at"] is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["token", "create", "--name", "x"], "needs --name and --role"),
        (["token", "create", "--name", "x", "--role", "annotater"], "did you mean 'annotator'"),
        (["token", "revoke"], "needs --id"),
        (["token", "make"], "unknown 'make'"),
        (["audit-log", "verify", "--out", "x"], "--head FILE goes with verify"),
        (["audit-log", "verify", "--head", "none"], "no such file"),
        (["audit-log", "head", "--out", "prefloop.yaml"], "exists already"),
        (["erase", "nobody"], "no annotator, answer, prompt or completion with the id 'nobody'"),
        (["backup", "prefloop.yaml"], "exists already"),
        (["restore", "none"], "no such file"),
        (["restore", "prefloop.yaml"], "is no SQLite database"),
        (["restore", "prefloop.db"], "is the database itself"),
        (["token", "list", "--id", "x"], "--id with revoke"),
        (["serve", "--allow-host", ""], "--allow-host takes a name"),
        (["serve", "--host", "256.1.1.1"], "--host is an address of this machine"),
        (["quality", "--round", "-1"], "greater than or equal to 0"),
        (["quality", "--seed", "-1"], "greater than or equal to 0"),
        (["quality", "--slice", ""], "--slice needs the name of a column"),
        (["quality", "--keep", "nobody"], "no annotator 'nobody'"),
        (["snapshot", "--consensus", "magic"], "known: weighted, majority, davidson"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, found = call(capfd, *arguments)
    assert (code, found["exit_code"]) == (2, 2)
    assert words in found["error"]
