"""Agreement against published worked examples, and intervals against what they must be."""

from __future__ import annotations

import numpy as np
import pytest

from prefloop.quality.agreement import agreement_of, human_ceiling, krippendorff_alpha, percent_agreement
from prefloop.quality.evidence import Atom, Judgement

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", example C: four observers, twelve units.
OBSERVERS = [
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
]
UNITS = [
    (str(number), [label for label in unit if label != "."])
    for number, unit in enumerate(zip(*(row.split() for row in OBSERVERS), strict=True))
]


def said(annotator: str, item: str, label: str, **more: object) -> Judgement:
    atoms = (Atom(f"pair:{item}", "pair", label),)
    fixed = {"answer": f"{annotator}-{item}", "question": item, "kind": "comparison", "number": 0}
    return Judgement(annotator=annotator, atoms=atoms, **{**fixed, **more})  # type: ignore[arg-type]


def test_alpha_of_the_published_example_nominal_and_ordinal() -> None:
    nominal = krippendorff_alpha(UNITS, "12345")
    ordinal = krippendorff_alpha(UNITS, "12345", level="ordinal")
    assert nominal.value == pytest.approx(0.743, abs=5e-4)
    assert ordinal.value == pytest.approx(0.815, abs=5e-4)
    assert (nominal.n, nominal.questions) == (40, 11)  # the twelfth unit has one value only
    assert nominal.low is not None
    assert nominal.high is not None
    assert nominal.low < 0.743 < nominal.high


def test_alpha_of_the_published_binary_example() -> None:
    # The same paper, example A: two observers, ten units, alpha 0.095.
    one, other = "0100000010", "1110010000"
    units = [(str(i), list(pair)) for i, pair in enumerate(zip(one, other, strict=True))]
    assert krippendorff_alpha(units, "01").value == pytest.approx(0.095, abs=5e-4)


def test_alpha_by_hand_at_its_ends() -> None:
    agree = [("1", ["a", "a"]), ("2", ["b", "b"])]
    assert krippendorff_alpha(agree, "ab").value == 1.0
    # Two units, all against all: observed 1; expected 2 * 2 * 2 / (4 * 3) = 2/3; 1 - 1 / (2/3) = -0.5.
    oppose = [("1", ["a", "b"]), ("2", ["b", "a"])]
    assert krippendorff_alpha(oppose, "ab").value == pytest.approx(-0.5)


def test_alpha_is_undefined_and_says_why() -> None:
    one_value = krippendorff_alpha([("1", ["a", "a"]), ("2", ["a", "a", "a"])], "ab")
    assert (one_value.value, one_value.n) == (None, 5)
    assert one_value.why is not None
    assert "every answer is 'a'" in one_value.why
    nobody = krippendorff_alpha([("1", ["a"])], "ab")
    assert nobody.as_dict() == {
        "value": None, "low": None, "high": None, "n": 0, "questions": 0, "why": "no item has answers from two people",
    }  # fmt: skip


def test_percent_counts_pairs_of_people() -> None:
    measured = percent_agreement([("1", ["a", "a", "b"]), ("2", ["tie", "tie"]), ("3", ["a"])])
    assert (measured.value, measured.n, measured.questions) == (0.5, 4, 2)


def test_the_interval_is_of_questions_and_not_of_answers() -> None:
    """Ten answers that repeat within each of 40 questions tell no more than two would: the interval stays as wide."""
    rng = np.random.default_rng(0)
    agree = rng.random(40) < 0.7
    few = [(str(i), ["a", "a"] if same else ["a", "b"]) for i, same in enumerate(agree)]
    many = [(str(i), labels) for i, labels in few for _ in range(20)]
    narrow, wide = percent_agreement(many), percent_agreement(few)
    assert narrow.low == pytest.approx(wide.low)
    assert narrow.high == pytest.approx(wide.high)
    share = float(agree.mean())
    # honest: the normal approximation of 40 draws, against a percentile bootstrap of them
    assert wide.low == pytest.approx(share - 1.96 * (share * (1 - share) / 40) ** 0.5, rel=0.1)


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(100):
        same = rng.random(200) < 0.7
        found = percent_agreement(
            [(str(i), ["a", "a"] if one else ["a", "b"]) for i, one in enumerate(same)], seed=seed, resamples=400
        )
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0.7 <= found.high
    assert 89 <= hits <= 100  # 95 of 100, three standard deviations below


def test_figures_by_kind_guideline_and_slice_and_the_ceiling() -> None:
    judgements = [
        said("x", "1", "a", guideline=1, slices={"subset": "s"}),
        said("y", "1", "a", guideline=1, slices={"subset": "s"}),
        said("x", "2", "a", guideline=2, slices={"subset": "t"}),
        said("y", "2", "b", guideline=2, slices={"subset": "t"}),
        said("x", "3", "tie"),
        said("y", "3", "b"),
        said("y", "1", "b", repeat=True),  # no second vote
        said("z", "1", "b", person=False),  # no person
        said("z", "2", "b", adjudication=True),
    ]
    found = agreement_of(judgements)
    assert found["percent"]["value"] == pytest.approx(1 / 3)
    assert found["kinds"]["comparison"]["percent"] == found["percent"]
    assert found["guidelines"]["version 1"]["comparison"]["percent"]["value"] == 1.0
    assert found["slices"]["subset"]["t"]["comparison"]["percent"]["value"] == 0.0
    assert found["ceiling"]["all"]["value"] == 0.5  # without the tie
    assert found["ceiling"]["slices"]["subset"]["s"]["value"] == 1.0
    assert not found["simulated"]


def test_machines_are_measured_only_where_there_are_no_people_and_are_named() -> None:
    machines = [said("simulated:x", "1", "a", person=False), said("simulated:y", "1", "a", person=False)]
    assert agreement_of(machines)["simulated"]
    assert agreement_of(machines)["percent"]["value"] == 1.0
    assert agreement_of([])["percent"]["value"] is None
    assert human_ceiling([])["all"]["value"] is None
