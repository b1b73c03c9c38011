"""Snapshots: consensus by hand, splits by prompt, the same bytes for the same answers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from prefloop.artifacts.folder import list_artifacts, read_artifact
from prefloop.errors import InputError, RunError
from prefloop.records import content_hash, prompt_id
from prefloop.snapshots.build import annotator_kind, build_snapshot, provenance, snapshot_rows
from prefloop.snapshots.formats import load_comparisons, load_demonstrations
from prefloop.snapshots.importing import import_file
from prefloop.store.annotators import add_annotator, list_annotators
from prefloop.store.consents import record_consent
from prefloop.store.database import Store, open_store
from prefloop.store.feedback import add_completions, add_prompts, add_questions, answers, import_answers
from prefloop.store.queue import lease
from prefloop.store.rulings import rule
from prefloop.store.submissions import Submission, submit

P = [{"role": "user", "content": "Which is better?"}]


def said(
    annotator: str, first: str, second: str, choice: str = "a", prompt: str = "Which is better?", **more: Any
) -> dict[str, Any]:
    value = {"skip": "no idea"} if choice == "skip" else {"choice": choice, **more.pop("value", {})}
    return {
        "kind": "comparison",
        "messages": [{"role": "user", "content": prompt}],
        "candidates": [first, second],
        "value": value,
        "annotator": annotator,
        "source": "survey",
        **more,
    }


def built(store: Store, root: Path, *items: dict[str, Any], **more: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    import_answers(store, items)
    result = build_snapshot(store, root, **more)
    return list(snapshot_rows(result.artifact.path)), result.ledger.as_dict()


def test_a_pair_by_two_criteria_is_two_rows(store: Store, tmp_path: Path) -> None:
    """From a file: what helps and what harms are told apart, also where one person says the opposite of the two."""
    said_of = [("ann", "x", "y", "helpful"), ("bo", "x", "y", "helpful"), ("ann", "y", "x", "harmless")]
    rows = [
        {"prompt": "Which?", "chosen": one, "rejected": other, "annotator": who, "criterion": criterion}
        for who, one, other, criterion in said_of
    ]
    rows.append({"prompt": "Which?", "chosen": "y", "rejected": "x", "annotator": "cy"})
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert import_file(store, file, "comparisons", rejects_dir=tmp_path / "rejects").imported == 4
    found = list(snapshot_rows(build_snapshot(store, tmp_path / "artifacts").artifact.path))
    assert sorted((row.get("criterion", ""), row["chosen"], row["label"], row["n"]) for row in found) == [
        ("", "y", 1.0, 1),
        ("harmless", "y", 1.0, 1),
        ("helpful", "x", 1.0, 2),
    ]


def test_one_pair_asked_in_both_orders_is_one_row(store: Store, tmp_path: Path) -> None:
    rows, ledger = built(
        store,
        tmp_path,
        said("ann", "x", "y", "a", value={"strength": 3}, columns={"subset": "s"}, licence="CC0"),
        said("bo", "y", "x", "b", value={"strength": 2}),  # x again
        said("cy", "y", "x", "a"),  # y
        said("di", "x", "y", "unsure"),
    )
    [row] = rows
    assert {name: row[name] for name in ("prompt", "chosen", "rejected", "n", "weight", "strength", "uncertain")} == {
        "prompt": P,
        "chosen": "x",
        "rejected": "y",
        "n": 3,
        "weight": 1.0,
        "strength": 2.5,
        "uncertain": True,
    }
    assert row["label"] == pytest.approx(2 / 3)
    assert (row["subset"], row["source"], row["licence"], row["simulated"]) == ("s", "survey", "CC0", False)
    assert len(row["answers"]) == len(row["annotators"]) == 3
    assert ledger == {"rows": 1, "used": 1, "dropped": {}, "notes": {"answer set aside: unsure": 1}}


def test_ties_stay_and_what_nobody_voted_on_goes_without_being_a_defect(store: Store, tmp_path: Path) -> None:
    rows, ledger = built(
        store,
        tmp_path,
        said("ann", "x", "y", "tie", "one"),
        said("ann", "x", "y", "a", "two"),
        said("bo", "x", "y", "b", "two"),
        said("ann", "x", "y", "both_bad", "three"),
        said("ann", "x", "y", "unsure", "four"),
        said("ann", "x", "y", "skip", "five"),
        said("ann", "x", "y", "skip", "six"),
        said("bo", "x", "y", "both_bad", "six"),
        max_dropped=0.0,
    )
    assert {row["prompt"][0]["content"]: row["label"] for row in rows} == {"one": 0.5, "two": 0.5}
    assert ledger["dropped"] == {"both bad": 2, "skipped": 1, "unsure": 1}
    assert ledger["notes"] == {"tie": 2}
    assert (ledger["rows"], ledger["used"]) == (6, 2)


@pytest.mark.parametrize("consensus", ["weighted", "majority", "davidson"])
def test_whom_a_lead_excluded_is_in_no_row(store: Store, tmp_path: Path, consensus: str) -> None:
    import_answers(store, [said("ann", "x", "y", "a", "one"), said("bo", "x", "y", "b", "one")])
    import_answers(store, [said("bo", "x", "y", "b", "two"), said("ann", "x", "y", "tie", "three")])
    bo = next(one.id for one in list_annotators(store) if one.name.startswith("bo"))
    rule(store, bo, "exclude", ["sticky"])
    result = build_snapshot(store, tmp_path, consensus=consensus, max_dropped=0.0)
    rows = {row["prompt"][0]["content"]: row for row in snapshot_rows(result.artifact.path)}
    assert {prompt: (row["n"], row["chosen"]) for prompt, row in rows.items()} == {"one": (1, "x"), "three": (1, "x")}
    assert all(bo not in row["annotators"] for row in rows.values())
    assert result.ledger.as_dict()["dropped"] == {"excluded by a lead": 1}
    assert result.ledger.as_dict()["notes"] == {"answer set aside: excluded by a lead": 2, "tie": 1}
    manifest = read_artifact(result.artifact.path).manifest
    assert manifest["rulings"] == {bo: {"decision": "exclude", "findings": ["sticky"]}}
    rule(store, bo, "as_found")
    assert build_snapshot(store, tmp_path, consensus=consensus).rows == 3


@pytest.mark.parametrize("consensus", ["weighted", "davidson"])
def test_who_said_no_to_training_is_in_no_row_until_they_say_yes(store: Store, tmp_path: Path, consensus: str) -> None:
    import_answers(store, [said("ann", "x", "y", "a", "one"), said("bo", "x", "y", "b", "one")])
    import_answers(store, [said("bo", "x", "y", "b", "two")])
    bo = next(one.id for one in list_annotators(store) if one.name.startswith("bo"))
    record_consent(store, bo, "publication", 1, False)
    assert build_snapshot(store, tmp_path, consensus=consensus).rows == 2
    record_consent(store, bo, "training", 1, False)
    result = build_snapshot(store, tmp_path, consensus=consensus)
    [row] = snapshot_rows(result.artifact.path)
    assert (row["n"], row["chosen"], row["label"] > 0.5) == (1, "x", True)
    assert result.ledger.as_dict()["dropped"] == {"no consent": 1}
    assert result.ledger.as_dict()["notes"] == {"answer set aside: no consent": 2}
    record_consent(store, bo, "training", 1, True)
    assert build_snapshot(store, tmp_path, consensus=consensus).rows == 2


def test_fewer_votes_than_needed(store: Store, tmp_path: Path) -> None:
    rows, ledger = built(
        store,
        tmp_path,
        said("ann", "x", "y", "a", "one"),
        said("ann", "x", "y", "b", "two"),
        said("bo", "x", "y", "b", "two"),
        min_answers=2,
    )
    assert [(row["chosen"], row["label"], row["n"]) for row in rows] == [("y", 1.0, 2)]
    assert ledger["dropped"] == {"too few answers": 1}


def test_machines_do_not_outvote_people(store: Store, tmp_path: Path) -> None:
    rows, ledger = built(
        store,
        tmp_path,
        said("ann", "x", "y", "a", "one"),
        said("simulated:s", "x", "y", "b", "one"),
        said("ai:j", "x", "y", "b", "one"),
        said("simulated:s", "x", "y", "b", "two"),
    )
    by = {row["prompt"][0]["content"]: row for row in rows}
    assert (by["one"]["chosen"], by["one"]["label"], by["one"]["simulated"]) == ("x", 1.0, False)
    assert (by["two"]["chosen"], by["two"]["simulated"], by["two"]["annotators"]) == ("y", True, ["simulated:s"])
    assert ledger["notes"] == {"answer set aside: a machine's beside people's": 2}


def test_defects_are_counted_and_stop_above_their_share(store: Store, tmp_path: Path) -> None:
    items = [said("ann", "x", "y", "a", f"p{i}") for i in range(9)]
    import_answers(store, [*items, said("ann", "same", "same ", "a", "bad")])
    with pytest.raises(RunError, match=r"1 of 10 rows would be dropped \(identical: 1\)"):
        build_snapshot(store, tmp_path / "artifacts")
    assert list_artifacts(tmp_path / "artifacts") == []
    result = build_snapshot(store, tmp_path / "artifacts", max_dropped=0.1)
    assert (result.rows, result.ledger.reasons) == (9, {"identical": 1})


def test_a_single_imported_answer_keeps_its_own_label_weight_and_margin(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    pair = {"prompt": "p", "chosen": "x", "rejected": "y", "label": 0.3, "weight": 2.0, "margin": 1.5}
    path.write_text(json.dumps(pair) + "\n", encoding="utf-8")
    import_file(store, path, "comparisons", rejects_dir=tmp_path)
    [row] = snapshot_rows(build_snapshot(store, tmp_path).artifact.path)
    assert (row["chosen"], row["rejected"], row["label"]) == ("y", "x", 0.7)
    assert (row["weight"], row["margin"]) == (2.0, 1.5)


def test_the_same_answers_give_the_same_hash_whatever_their_order(tmp_path: Path) -> None:
    items = [said(f"annotator {i % 3}", "x", f"y{i}", "ab"[i % 2], f"p{i}") for i in range(40)]
    hashes = []
    for name, order in (("one", items), ("two", items[::-1])):
        store = open_store(f"sqlite:///{tmp_path / name}.db")
        import_answers(store, order)
        first = build_snapshot(store, tmp_path / name)
        again = build_snapshot(store, tmp_path / name)
        assert first.hash == again.hash
        assert first.artifact.path == again.artifact.path
        hashes.append(first.hash)
        assert build_snapshot(store, tmp_path / name, seed=1).hash != first.hash
        import_answers(store, [said("late comer", "x", "y0", "a", "p0")])
        assert build_snapshot(store, tmp_path / name).hash != first.hash
        store.close()
    assert hashes[0] == hashes[1]


def test_the_split_is_by_prompt_and_the_seed_leaves_it_alone(store: Store, tmp_path: Path) -> None:
    import_answers(store, [said("ann", "x", f"y{n}", "a", f"p{i}") for i in range(50) for n in range(3)])
    sides = []
    for seed in (0, 1):
        result = build_snapshot(store, tmp_path, test_share=0.3, seed=seed)
        by: dict[str, set[str]] = {"train": set(), "test": set()}
        for row in snapshot_rows(result.artifact.path):
            by[row["split"]].add(row["prompt"][0]["content"])
        assert not by["train"] & by["test"]
        assert len(by["train"] | by["test"]) == 50
        counted = result.artifact.manifest["metrics"]
        assert counted["train"] == 3 * len(by["train"]) > counted["test"] == 3 * len(by["test"]) > 0
        sides.append(by)
    assert sides[0] == sides[1]


def test_the_manifest_says_where_the_rows_came_from(store: Store, tmp_path: Path) -> None:
    rows, _ = built(
        store,
        tmp_path,
        said("ann", "x", "y", "a", "one", licence="CC0"),
        said("bo", "x", "y", "a", "one", licence="CC0"),
        said("simulated:s", "x", "y", "b", "two", source=None),
        name="mixed",
    )
    [artifact] = list_artifacts(tmp_path, "snapshot")
    manifest = read_artifact(artifact.path).manifest
    assert (artifact.name, artifact.parents) == ("mixed", [])
    assert manifest["settings"]["test_share"] == 0.1
    assert manifest["metrics"]["answers"] == {"people": 0, "imported": 2, "simulated": 1, "ai": 0}
    assert manifest["metrics"]["annotators"] == {"people": 0, "imported": 2, "simulated": 1, "ai": 0}
    assert manifest["metrics"]["agreement"] == {"value": 1.0, "n": 1, "questions": 1}
    assert manifest["sources"] == {"survey": 1, "this workspace": 1}
    assert manifest["licences"] == {"CC0": 1, "not stated": 1}
    assert manifest["simulated"] is True
    ids = sorted(identity for row in rows for identity in row["answers"])
    assert manifest["answers_commitment"] == content_hash(ids)
    behind = provenance(artifact.path)
    assert behind["answers"] == ids == sorted(answer.id for answer in answers(store))
    assert [annotator_kind(one) for one in behind["annotators"]] == ["imported", "imported", "simulated"]
    assert "ann" not in json.dumps([*rows, manifest["metrics"]]).replace("annotators", "")


def test_answers_from_the_queue_by_round(store: Store, tmp_path: Path) -> None:
    annotator = add_annotator(store, "careful", kind="simulated")
    [prompt] = add_prompts(store, [{"messages": P}])
    assert prompt == prompt_id(P)
    completions = add_completions(store, [{"prompt_id": prompt, "text": text, "policy": "sft"} for text in "xyz"])
    for number, candidates in enumerate((completions[:2], completions[1:])):
        add_questions(
            store,
            [{"kind": "comparison", "prompt_id": prompt, "candidates": candidates, "round": number, "overlap": 1}],
        )
    add_questions(store, [{"kind": "demonstration", "prompt_id": prompt, "candidates": [], "overlap": 1}])
    for held in lease(store, annotator, limit=10):
        texts = [candidate["text"] for candidate in held.candidates]
        first_wins = bool(texts) and texts[0] < texts[1]
        value = {"text": "shown"} if not texts else {"choice": "a" if first_wins else "b", "strength": 1}
        submit(store, [Submission(lease_token=held.token, value=value, idempotency_key=held.token, seconds=1.0)])
    [row] = snapshot_rows(build_snapshot(store, tmp_path, round=1).artifact.path)
    assert (row["chosen"], row["rejected"], row["simulated"]) == ("y", "z", True)
    both = list(snapshot_rows(build_snapshot(store, tmp_path).artifact.path))
    assert sorted((row["chosen"], row["rejected"]) for row in both) == [("x", "y"), ("y", "z")]
    shown = build_snapshot(store, tmp_path, "demonstrations")
    [row] = snapshot_rows(shown.artifact.path)
    assert (row["prompt"], row["completion"], row["simulated"]) == (P, "shown", True)
    [demonstration], _ = load_demonstrations(shown.artifact.path)
    assert (demonstration.prompt, demonstration.completion) == (P, "shown")
    with pytest.raises(InputError, match="no comparison answers of round 7"):
        build_snapshot(store, tmp_path, round=7)


def test_wrong_arguments_and_an_empty_store(store: Store, tmp_path: Path) -> None:
    for arguments in ({"kind": "opinions"}, {"test_share": 1.0}, {"min_answers": 0}):
        with pytest.raises(InputError, match=r"opinions|got"):
            build_snapshot(store, tmp_path, **arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="there are no demonstration answers"):
        build_snapshot(store, tmp_path, "demonstrations")


def test_a_changed_snapshot_is_refused(store: Store, tmp_path: Path) -> None:
    import_answers(store, [said("ann", "x", "y", "a", f"p{i}") for i in range(3)])
    folder = build_snapshot(store, tmp_path).artifact.path
    file = folder / "train.jsonl"
    file.write_text(file.read_text().replace('"chosen":"x"', '"chosen":"Q"', 1))
    with pytest.raises(RunError, match="does not match the SHA-256"):
        load_comparisons(folder)


def test_both_databases_give_the_same_bytes(tmp_path: Path, postgresql_url: str) -> None:
    items = [
        said(f"annotator {i % 5}", "x ünï", f"y {i % 60}", "ab"[i % 2], f"p{i % 40}", seconds=1.5) for i in range(200)
    ]
    hashes = []
    for number, url in enumerate((f"sqlite:///{tmp_path / 'prefloop.db'}", postgresql_url)):
        store = open_store(url)
        import_answers(store, items)
        hashes.append(build_snapshot(store, tmp_path / str(number)).hash)
        store.close()
    assert hashes[0] == hashes[1]


def test_anthropics_file_from_import_to_training_data(store: Store, data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "preferences" / "hh_rlhf.jsonl.gz"
    imported = import_file(store, path, "comparisons", rejects_dir=tmp_path / "rejects")
    assert (imported.imported, imported.rejected) == (4615, 22)
    assert imported.reasons == {"diverges before the last turn": 4, "empty": 9, "identical": 9}
    assert len((tmp_path / "rejects" / "hh_rlhf.rejects.jsonl").read_text().splitlines()) == 22
    first = next(answers(store))
    assert (first.source, first.licence, first.columns) == ("anthropics/hh-rlhf", "MIT", {"subset": "helpful-base"})
    result = build_snapshot(store, tmp_path / "artifacts", name="hh")
    assert (result.rows, result.ledger.dropped) == (4615, 0)
    train, _ = load_comparisons(result.artifact.path, split="train")
    test, _ = load_comparisons(result.artifact.path, split="test")
    direct, _ = load_comparisons(path)
    assert {(c.prompt[-1]["content"], c.chosen, c.rejected) for c in [*train, *test]} == {
        (c.prompt[-1]["content"], c.chosen, c.rejected) for c in direct
    }
    assert Counter(c.columns["subset"] for c in [*train, *test]) == Counter(c.columns["subset"] for c in direct)
    assert not {c.prompt[0]["content"] for c in train} & {c.prompt[0]["content"] for c in test}
    assert {(c.label, c.weight, c.columns["source"], c.columns["licence"]) for c in train} == {
        (1.0, 1.0, "anthropics/hh-rlhf", "MIT")
    }


def carelessly(n: int) -> list[dict[str, Any]]:
    """Three people with gold all right, and one who gets it all wrong; texts in an order of their own."""
    items = []
    for i in range(n):
        right = "ab"[i * 7 % 3 % 2]
        for who in ("ann", "bo", "cy", "wrong"):
            said_ = {"a": "b", "b": "a"}[right] if who == "wrong" else right
            gold = {"gold": right} if i < 12 else {}
            items.append(said(who, f"x{i}", f"y{i}", said_, f"question {i}", columns=gold))
    return items


def test_findings_lower_a_weight_and_majority_counts_alike(store: Store, tmp_path: Path) -> None:
    lone = said("wrong", "x", "y", "a", "nobody else saw this")
    weighted, _ = built(store, tmp_path, *carelessly(30), lone)
    alike = list(snapshot_rows(build_snapshot(store, tmp_path, consensus="majority").artifact.path))
    modelled = list(snapshot_rows(build_snapshot(store, tmp_path, consensus="davidson").artifact.path))
    by = [
        {row["prompt"][0]["content"]: row for row in rows if row["prompt"][0]["content"] != "nobody else saw this"}
        for rows in (weighted, alike, modelled)
    ]
    assert {row["label"] for row in by[1].values()} == {0.75}
    assert {round(row["label"], 6) for row in by[0].values()} == {round(3 / 3.1, 6)}
    assert {row["weight"] for rows in by for row in rows.values()} == {1.0}
    assert all(0.6 < row["label"] < 1 for row in by[2].values())
    [low] = [row for row in weighted if row["prompt"][0]["content"] == "nobody else saw this"]
    assert (low["label"], low["weight"]) == (1.0, 0.1)
    [full] = [row for row in alike if row["prompt"][0]["content"] == "nobody else saw this"]
    assert full["weight"] == 1.0


def test_without_findings_weighted_and_majority_are_the_same_bytes(store: Store, tmp_path: Path) -> None:
    import_answers(store, [item for item in carelessly(20) if item["annotator"] != "wrong"])
    assert build_snapshot(store, tmp_path).hash == build_snapshot(store, tmp_path, consensus="majority").hash
    with pytest.raises(InputError, match="davidson"):
        build_snapshot(store, tmp_path, consensus="davids")
