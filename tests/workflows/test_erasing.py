"""Erasure leaves tombstones and no bytes: in the database file, snapshots, exports, reports; models are listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import prefloop
from prefloop.artifacts.folder import Artifact, find_artifact, read_manifest, write_artifact
from prefloop.artifacts.workspace import Workspace
from prefloop.errors import InputError, RunError
from prefloop.store.accounts import add_person, people
from prefloop.store.consents import record_consent
from prefloop.store.database import Store, open_store
from prefloop.store.feedback import add_completions, add_prompts, add_questions, answers, import_answers
from prefloop.store.queue import lease
from prefloop.store.submissions import Submission, submit
from prefloop.store.tokens import token_owner

SECRET = 'the heron that nobody else wrote about, é ✓ "quoted"'
IN_JSON = json.dumps(SECRET, ensure_ascii=False)[1:-1].encode()
PROMPT = "a prompt about the lighthouse at the end of the pier"
COMPLETION = "a completion that mentions the keeper's third daughter"


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return prefloop.init(tmp_path / "work")


def bytes_of(place: Workspace) -> bytes:
    """Everything in the workspace, the database and its journal included."""
    return b"\n".join(path.read_bytes() for path in sorted(place.root.rglob("*")) if path.is_file())


def stored_in(place: Workspace) -> bytes:
    """The database and its write-ahead log."""
    return b"\n".join(path.read_bytes() for path in sorted(place.root.glob("prefloop.db*")))


def ask_and_answer(store: Store, n: int = 1) -> tuple[str, list[str]]:
    """Somebody writes demonstrations, one of them secret, and prefers a completion. Returns who, and the prompts."""
    who = add_person(store, "Ada Lovelace of Marylebone", roles=["annotator"])
    record_consent(store, who, "training", 1, True)
    prompts = add_prompts(store, [{"messages": PROMPT}, *({"messages": f"prompt {i}"} for i in range(n))])
    shown = add_completions(store, [{"prompt_id": prompts[0], "text": text} for text in (COMPLETION, "a worse one")])
    add_questions(store, [{"kind": "demonstration", "prompt_id": one, "candidates": []} for one in prompts])
    add_questions(store, [{"kind": "comparison", "prompt_id": prompts[0], "candidates": shown}])
    for held in lease(store, who, limit=20):
        value: dict[str, Any] = {"text": SECRET} if held.kind == "demonstration" else {"choice": "a", "note": SECRET}
        submit(store, [Submission(lease_token=held.token, value=value, idempotency_key=held.token)])
    said = {"kind": "demonstration", "prompt": "another", "candidates": [], "annotator": "w1", "source": "s"}
    import_answers(store, [{**said, "value": {"text": "kept as it is, and long enough to be found"}}])
    return who, prompts


def made_from(place: Workspace, kind: str, name: str, parent: str, files: dict[str, str]) -> Artifact:
    def fill(folder: Path) -> None:
        for file, text in files.items():
            (folder / file).write_text(text)

    return write_artifact(place.artifacts, kind, name, fill, settings={}, parents=[parent], seeds={}, metrics={})


def test_somebody_is_erased_with_all_they_said(place: Workspace) -> None:
    with_token = prefloop.create_token("Ada Lovelace of Marylebone", "annotator", workspace=place)["token"]
    store = open_store(place.database_url)
    who, _ = ask_and_answer_as_token(store)
    snapshot = prefloop.snapshot("demonstrations", test_share=0.0, workspace=place)
    model = made_from(place, "policy", "sft", snapshot.hash, {"model.safetensors": "weights"})
    report = made_from(place, "report", "sft", model.hash, {"report.html": "<p>figures"})
    quoted = made_from(place, "evaluation", "sft", model.hash, {"rows.jsonl": json.dumps({"said": SECRET})})
    out = prefloop.export("trl-prompt-completion", place.root.parent / "out.jsonl.gz", workspace=place)
    (place.root / "rejects" / "x.rejects.jsonl").parent.mkdir(exist_ok=True)
    (place.root / "rejects" / "x.rejects.jsonl").write_text(json.dumps({"row": SECRET}) + '\n{"row": 1}\n')
    (place.root / "mine.txt").write_text(f"my notes: {SECRET}")
    prefloop.backup(place.root.parent / "copy", workspace=place)
    assert out.rows == 3
    assert IN_JSON in stored_in(place)
    head = prefloop.export_head(workspace=place)

    done = prefloop.erase(who, workspace=place)

    assert (done["kind"], done["answers"]) == ("annotator", 3)
    assert done["snapshots"] == [str(snapshot.artifact.path)]
    assert done["artifacts"] == [str(quoted.path)]
    assert done["exports"] == [str(out.out)]
    assert [(one["kind"], one["name"]) for one in done["models"]] == [
        ("policy", "sft"),
        ("report", "sft"),
        ("evaluation", "sft"),
    ]
    assert done["backups"] == [str(place.root.parent / "copy")]
    assert done["remaining"] == [str(place.root / "mine.txt")]
    (place.root / "mine.txt").unlink()
    for gone in (SECRET.encode(), json.dumps(SECRET)[1:-1].encode(), IN_JSON, b"Ada Lovelace", b"the heron"):
        assert gone not in bytes_of(place)
    assert b"kept as it is" in stored_in(place)
    assert not out.out.exists()
    assert (place.root / "rejects" / "x.rejects.jsonl").read_text() == '{"row": 1}\n'

    # Tombstones: what is left says what was there, and both chains hold.
    assert [row.annotator.partition(":")[0] for row in answers(store)] == ["imported"]
    assert people(store) == []
    assert token_owner(store, with_token) is None
    found = prefloop.verify_audit_log(workspace=place)
    assert (found.problems, found.answers) == ([], 4)
    assert found.head.number > head.number
    chain = prefloop.lineage(model.path, workspace=place)["chain"]
    assert [one["kind"] for one in chain] == ["policy", "snapshot"]
    assert list(read_manifest(model.path).manifest["erased_parents"]) == [snapshot.hash]
    assert "erased_parents" in read_manifest(report.path).manifest
    assert find_artifact(place.artifacts, "sft", "policy").hash == model.hash
    with pytest.raises(RunError, match="held was erased on"):
        find_artifact(place.artifacts, "demonstrations")

    # Again: nothing more to do, and nothing fails. A new snapshot is made from what is left.
    assert prefloop.erase(who, workspace=place)["erased"] == 0
    assert prefloop.snapshot("demonstrations", test_share=0.0, workspace=place).rows == 1
    store.close()


def ask_and_answer_as_token(store: Store) -> tuple[str, list[str]]:
    """As `ask_and_answer`, for the person that the token belongs to."""
    (person,) = people(store)
    record_consent(store, person.id, "training", 1, True)
    prompts = add_prompts(store, [{"messages": PROMPT}, {"messages": "another one"}])
    shown = add_completions(store, [{"prompt_id": prompts[0], "text": text} for text in (COMPLETION, "a worse one")])
    add_questions(store, [{"kind": "demonstration", "prompt_id": one, "candidates": []} for one in prompts])
    add_questions(store, [{"kind": "comparison", "prompt_id": prompts[0], "candidates": shown}])
    for held in lease(store, person.id, limit=20):
        value: dict[str, Any] = {"text": SECRET} if held.kind == "demonstration" else {"choice": "a", "note": SECRET}
        submit(store, [Submission(lease_token=held.token, value=value, idempotency_key=held.token)])
    said = {"kind": "demonstration", "prompt": "a third", "candidates": [], "annotator": "w1", "source": "s"}
    import_answers(store, [{**said, "value": {"text": "kept as it is, and long enough to be found"}}])
    return person.id, prompts


def test_a_prompt_takes_its_completions_and_answers_along(place: Workspace) -> None:
    store = open_store(place.database_url)
    who, prompts = ask_and_answer(store)
    done = prefloop.erase(prompts[0], reason="hurtful", workspace=place)
    assert (done["kind"], done["prompts"], done["completions"], done["answers"]) == ("prompt", 1, 2, 2)
    assert PROMPT.encode() not in bytes_of(place)
    assert COMPLETION.encode() not in bytes_of(place)
    assert {row.annotator for row in answers(store)} == {who, next(r.annotator for r in answers(store) if r.source)}
    # It does not come back, and nobody is asked about it.
    add_prompts(store, [{"messages": PROMPT}])
    add_questions(store, [{"kind": "demonstration", "prompt_id": prompts[0], "candidates": []}])
    assert lease(store, add_person(store, "Bo", roles=["annotator"]), limit=10) == []
    assert prefloop.verify_audit_log(workspace=place).ok
    store.close()


def test_an_answer_is_erased_alone(place: Workspace) -> None:
    store = open_store(place.database_url)
    ask_and_answer(store)
    before = {row.id for row in answers(store)}
    gone = next(row.id for row in answers(store, kind="comparison"))
    assert prefloop.erase(gone, workspace=place)["answers"] == 1
    assert {row.id for row in answers(store)} == before - {gone}
    store.close()


def test_what_cannot_be_erased(place: Workspace) -> None:
    store = open_store(place.database_url)
    who, _ = ask_and_answer(store)
    prefloop.create_token("simulated:careful", "annotator", workspace=place)
    with pytest.raises(InputError, match=f"is the name of {who}: give that id"):
        prefloop.erase("Ada Lovelace of Marylebone", workspace=place)
    with pytest.raises(InputError, match="no annotator, answer, prompt or completion with the id 'nobody'"):
        prefloop.erase("nobody", workspace=place)
    with pytest.raises(InputError, match="is a machine"):
        prefloop.erase("simulated:careful", workspace=place)
    store.close()


def test_an_erasure_that_was_interrupted_is_done_again(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(place.database_url)
    who, _ = ask_and_answer(store)
    snapshot = prefloop.snapshot("demonstrations", test_share=0.0, workspace=place)
    model = made_from(place, "policy", "sft", snapshot.hash, {"model.safetensors": "weights"})
    from prefloop.workflows import erasing

    def killed(self: object, *_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(erasing._Sweep, "_descendants", killed)
    with pytest.raises(KeyboardInterrupt):
        prefloop.erase(who, workspace=place)
    assert IN_JSON in stored_in(place)  # the store goes last
    monkeypatch.undo()
    done = prefloop.erase(who, workspace=place)
    assert [one["hash"] for one in done["models"]] == [model.hash]
    assert IN_JSON not in bytes_of(place)
    store.close()


def test_rows_without_consent_stay_out_of_an_export(place: Workspace) -> None:
    store = open_store(place.database_url)
    who, _ = ask_and_answer(store)
    prefloop.snapshot("demonstrations", test_share=0.0, workspace=place)
    out = place.root.parent
    assert prefloop.export("jsonl", out / "a.jsonl", workspace=place).rows == 3
    record_consent(store, who, "training", 1, False)
    result = prefloop.export("jsonl", out / "b.jsonl", workspace=place)
    assert (result.rows, result.ledger.reasons["no consent"]) == (1, 2)
    assert IN_JSON not in (out / "b.jsonl").read_bytes()
    assert prefloop.export("jsonl", out / "c.jsonl", purpose="research", workspace=place).rows == 1
    assert prefloop.verify_audit_log(workspace=place).ok
    store.close()


def test_personal_data_is_counted_and_replaced(place: Workspace) -> None:
    store = open_store(place.database_url)
    said = {"kind": "demonstration", "prompt": "mail bo@example.com", "candidates": [], "annotator": "w1"}
    import_answers(store, [{**said, "value": {"text": "from 127.0.0.1 and 127.0.0.2"}, "source": "s"}])
    prefloop.snapshot("demonstrations", test_share=0.0, workspace=place)
    plain = prefloop.export("jsonl", place.root / "a.jsonl", workspace=place)
    clean = prefloop.export("jsonl", place.root / "b.jsonl", workspace=place, redacted=True)
    assert plain.personal_data == clean.personal_data == {"email": 1, "ip": 1}
    assert b"bo@example.com" in (place.root / "a.jsonl").read_bytes()
    row = json.loads((place.root / "b.jsonl").read_text())
    assert (row["prompt"][0]["content"], row["completion"]) == ("mail [email]", "from [ip] and [ip]")
    store.close()
