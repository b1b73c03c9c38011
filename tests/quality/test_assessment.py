"""Findings on planted panels: the quick ones of the tuning world, the long proof of the other world."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from random import Random

import pytest

from prefloop.labelers.planted import ANSWERS, BAD, GOLD, inverters_panel, proof_panel, tuning_panel
from prefloop.quality.assessment import (
    Standing,
    assess,
    binomial_below,
    consensus_of,
    flag_counts,
    standings_of,
)
from prefloop.quality.evidence import Atom, Judgement
from prefloop.store.rulings import Decision, Ruling

SIDE = Random(0).choices("ab", k=100)
OTHER = {"a": "b", "b": "a"}


def test_the_binomial_by_hand() -> None:
    assert binomial_below(0, 3, 0.5) == pytest.approx(1 / 8)
    assert binomial_below(1, 3, 0.5) == pytest.approx(4 / 8)
    assert binomial_below(3, 3, 0.9) == 1.0
    assert binomial_below(0, 0, 0.9) == 1.0


def test_a_panel_is_what_it_says_and_the_same_for_the_same_seed() -> None:
    panel = tuning_panel(7)
    said = {name: [one for one in panel.judgements if one.annotator == name] for name in panel.kinds}
    assert {len(answers) for answers in said.values()} == {ANSWERS}
    assert {sum(bool(one.gold) for one in answers) for answers in said.values()} == {GOLD}
    assert all(name.startswith("simulated:") for name in panel.kinds)
    assert tuning_panel(7) == panel
    assert tuning_panel(8) != panel
    assert proof_panel(7).judgements != panel.judgements


def test_planted_annotators_are_found_and_dissenters_are_not() -> None:
    wrong = []
    for seed in (1000, 1001, 1002):
        panel = tuning_panel(seed)
        for one in standings_of(panel.judgements):
            if bool(one.flags) != (panel.kinds[one.id] in BAD):
                wrong.append((seed, panel.kinds[one.id], one))
            assert (one.weight < 1) == bool(one.flags)
            assert 0 <= one.low <= one.reliability <= one.high <= 1
    assert len(wrong) <= 1, wrong  # 75 people; one ring member in a hundred passes


def test_nothing_is_removed_without_a_warning() -> None:
    found = assess(tuning_panel(1).judgements)
    assert found.removed > 0.05
    assert "unclear questions" in found.warnings[0]
    assert min(one.weight for one in found.annotators) > 0
    assert set(flag_counts(found.annotators)) >= {"gold", "position", "length", "inverted"}
    honest = assess(tuning_panel(1, each=0).judgements)
    assert (honest.removed, honest.warnings) == (0.0, [])


def test_nobody_answered() -> None:
    found = assess([])
    assert (found.annotators, found.consensus, found.removed, found.uncertain()) == ([], {}, 0.0, (0, 0))


def judgement(who: str, number: int, label: str, **more: object) -> Judgement:
    item = str(more.pop("item", f"pair:{number}"))
    atoms = (Atom(item, "pair", label, 1),)
    fixed = {"answer": f"{who}{number}", "question": item, "kind": "comparison", "number": number}
    return Judgement(annotator=who, atoms=atoms, **{**fixed, **more})  # type: ignore[arg-type]


def standing(judgements: list[Judgement], who: str) -> Standing:
    return next(one for one in standings_of(judgements) if one.id == who)


def crowd(n: int = 60) -> list[Judgement]:
    """Four people who agree about everything, at twenty seconds an answer."""
    return [judgement(f"p{w}", i, SIDE[i], seconds=20.0) for i in range(n) for w in range(4) if (i + w) % 5]


def test_times_texts_repeats_and_drift_are_findings() -> None:
    text = tuple(range(32))
    others = [tuple(range(1000 * i, 1000 * i + 32)) for i in range(1, 60)]
    rows = crowd()
    rows += [judgement("fast", i, SIDE[i], seconds=1.0, texts=(others[i - 1],)) for i in range(1, 60)]
    rows += [judgement("same text", i, SIDE[i], texts=(text,)) for i in range(60)]
    rows += [judgement("tired", i, SIDE[i] if i < 30 else SIDE[i + 1]) for i in range(60)]
    rows += [judgement("wavers", i, SIDE[i]) for i in range(60)]
    rows += [judgement("wavers", 100 + i, OTHER[SIDE[i]], item=f"pair:{i}", repeat=True) for i in range(10)]
    rows += [judgement("p0", 100 + i, SIDE[i], item=f"pair:{i}", repeat=True) for i in range(10) if i % 5]
    assert standing(rows, "fast").flags == ("fast",)
    assert standing(rows, "fast").alike == 0.0
    assert standing(rows, "same text").flags == ("duplicate_text",)
    assert "drift" in standing(rows, "tired").flags
    assert "repeats" in standing(rows, "wavers").flags
    assert (standing(rows, "wavers").repeats, standing(rows, "wavers").repeats_same) == (10, 0)
    assert standing(rows, "p0").flags == ()
    assert (standing(rows, "p0").repeats, standing(rows, "p0").repeats_same) == (8, 8)


def test_always_a_tie_is_a_finding_only_where_others_choose() -> None:
    rows = [*crowd(), *(judgement("ties", i, "tie") for i in range(60))]
    assert "one_answer" in standing(rows, "ties").flags
    equal = [judgement(f"p{w}", i, "tie") for i in range(60) for w in range(4)]
    assert standing(equal, "p0").flags == ()


def test_without_gold_the_others_opposite_is_a_finding_and_with_gold_right_it_is_not() -> None:
    turned = [judgement("other", i, OTHER[SIDE[i]]) for i in range(60)]
    assert "inverted" in standing([*crowd(), *turned], "other").flags
    rows = [judgement("other", 200 + i, SIDE[i], gold={f"pair:{200 + i}": SIDE[i]}) for i in range(20)]
    assert standing([*crowd(), *turned, *rows], "other").flags == ()


def test_a_weight_counts_in_the_consensus() -> None:
    rows = [judgement("x", 1, "a"), judgement("y", 1, "b")]
    [equal] = consensus_of(rows, {}).values()
    [lowered] = consensus_of(rows, {"y": 0.1}).values()
    assert equal.probability == pytest.approx(0.5)
    assert lowered.label == "a"
    assert lowered.probability > 0.6
    assert lowered.uncertain


def ruled(decision: Decision, *findings: str) -> dict[str, Ruling]:
    return {"other": Ruling(decision=decision, findings=frozenset(findings), by="operator", at=datetime.now(UTC))}


def test_a_lead_overrides_the_findings_that_were_seen_and_no_later_ones() -> None:
    rows = [*crowd(), *(judgement("other", i, OTHER[SIDE[i]], seconds=1.0) for i in range(60))]
    found = {one.id: one for one in standings_of(rows, ruled("keep", "inverted"))}["other"]
    assert (found.flags, found.weight, found.ruling) == (("fast", "inverted"), 0.5, "keep")  # "fast" was not yet seen
    kept = {one.id: one for one in standings_of(rows, ruled("keep", "inverted", "fast"))}["other"]
    assert (kept.flags, kept.weight) == (("fast", "inverted"), 1.0)
    assert {one.id: one.weight for one in standings_of(rows)}["other"] == 0.1


def test_the_excluded_have_no_say_in_any_consensus() -> None:
    alone = [judgement("other", 500, "a")]
    rows = [*crowd(), *(judgement("other", i, OTHER[SIDE[i]]) for i in range(60)), *alone]
    excluded, clean = assess(rows, ruled("exclude")), assess(crowd())
    assert excluded.consensus == clean.consensus  # "pair:500" is not among them
    assert {one.id: (one.weight, one.ruling) for one in excluded.annotators}["other"] == (0.0, "exclude")
    assert excluded.removed == pytest.approx(61 / len(rows))
    assert "exclusions" in excluded.warnings[0]


def test_the_order_in_which_annotators_are_named_does_not_matter() -> None:
    panel = tuning_panel(3, honest=6, dissenters=1)
    renamed = {name: f"z{999 - i:03d}" for i, name in enumerate(panel.kinds)}
    again = [dataclasses.replace(one, annotator=renamed[one.annotator]) for one in panel.judgements]
    flags = {renamed[one.id]: one.flags for one in standings_of(panel.judgements)}
    assert {one.id: one.flags for one in standings_of(again)} == flags


def accuracy(panel: object, share: dict[str, str]) -> float:
    truth: dict[str, str] = panel.truth  # type: ignore[attr-defined]
    return sum(label == truth[item] for item, label in share.items()) / len(share)


def test_inverters_do_little_to_the_consensus() -> None:
    """One panel: 3 of 30 answer the opposite; `make prove` has the figures over many."""
    bad, clean = inverters_panel(1), inverters_panel(1, inverted=0)
    said = [{i: c.label for i, c in assess(panel.judgements).consensus.items()} for panel in (bad, clean)]
    assert accuracy(clean, said[1]) - accuracy(bad, said[0]) < 0.04


@pytest.mark.prove
def test_planted_annotators_of_another_world_are_found() -> None:
    """The contract: 95 % of the bad, at most 1 % of the honest and 2 % of the dissenters; inverters cost 2 points."""
    from benchmarks.worth import consensus_accuracy, detection

    found, _ = detection(100, 90_000)
    bad = [sum(found[kind][i] for kind in BAD) for i in (0, 1)]
    assert bad[0] >= 0.95 * bad[1]
    for kind in BAD:
        assert found[kind][0] >= 0.95 * found[kind][1], (kind, found[kind])
    assert found["honest"][0] <= 0.01 * found["honest"][1]
    assert found["dissenter"][0] <= 0.02 * found["dissenter"][1]
    rows = consensus_accuracy(50, 5, 3, 90_000)
    ours, majority, clean = (sum(row[key] for row in rows) / len(rows) for key in ("ours", "majority", "clean"))
    assert clean - ours < 0.02
    assert ours > majority
