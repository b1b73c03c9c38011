"""Simulated people: probabilities worked by hand, and answers through the real queue."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from prefloop.errors import InputError
from prefloop.labelers.simulated import (
    ARGMAX,
    PANEL,
    PROFILES,
    Profile,
    choose,
    fresh_panel,
    judges,
    label,
    probability_first,
    profiles_of,
)
from prefloop.store.annotators import list_annotators
from prefloop.store.database import Store, open_store
from prefloop.store.feedback import add_completions, add_prompts, add_questions, answers

LN2, LN3 = math.log(2), math.log(3)


def person(**values: float) -> Profile:
    return Profile(**({"name": "test", "skill": LN3, "tie": 0.0} | values))  # type: ignore[arg-type]


# --- how one answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "first", "second", "longer_by", "expected"),
    [
        # beta = ln 3 and a difference of 1: odds 3 to 1.
        (person(), 1.0, 0.0, 0, 0.75),
        (person(), 0.0, 1.0, 0, 0.25),
        (person(), 0.4, 0.4, 0, 0.5),
        # flips: 0.9 * 0.75 + 0.1 * 0.25
        (person(mistake=0.1), 1.0, 0.0, 0, 0.7),
        (person(mistake=0.5), 1.0, 0.0, 0, 0.5),
        # argmax is sure of it; only mistakes are left.
        (person(skill=ARGMAX), 0.51, 0.5, 0, 1.0),
        (person(skill=ARGMAX, mistake=0.1), 0.5, 0.51, 0, 0.1),
        (person(skill=ARGMAX), 0.5, 0.5, 0, 0.5),
        # a liking for the first place of ln 3: odds 3 to 1 on equal texts; 9 to 1 and 1 to 1 on unequal ones.
        (person(position_bias=LN3), 0.4, 0.4, 0, 0.75),
        (person(position_bias=LN3), 1.0, 0.0, 0, 0.9),
        (person(position_bias=LN3), 0.0, 1.0, 0, 0.5),
        # a liking for length of ln 2 per 100 characters: 200 characters longer is odds 4 to 1.
        (person(length_bias=LN2), 0.4, 0.4, 200, 0.8),
        (person(length_bias=LN2), 0.4, 0.4, -200, 0.2),
        # beta 0 sees no difference at all.
        (person(skill=0.0), 1.0, 0.0, 0, 0.5),
    ],
)
def test_probabilities(profile: Profile, first: float, second: float, longer_by: float, expected: float) -> None:
    assert probability_first(profile, first, second, longer_by) == pytest.approx(expected)


def test_without_position_bias_the_order_does_not_matter() -> None:
    profile = person(mistake=0.1, length_bias=0.3)
    straight = probability_first(profile, 0.9, 0.3, 50)
    assert straight + probability_first(profile, 0.3, 0.9, -50) == pytest.approx(1)


def test_position_bias_cancels_over_both_orders_in_the_odds() -> None:
    def odds(p: float) -> float:
        return math.log(p / (1 - p))

    profile = person(position_bias=0.7)
    straight, swapped = probability_first(profile, 0.9, 0.3), probability_first(profile, 0.3, 0.9)
    assert odds(straight) + odds(swapped) == pytest.approx(2 * 0.7)
    assert odds(straight) - odds(swapped) == pytest.approx(2 * LN3 * 0.6)


def test_far_scores_do_not_overflow() -> None:
    assert probability_first(person(skill=1e6), 1.0, 0.0) == 1
    assert probability_first(person(skill=1e6), 0.0, 1.0) == 0


def test_choices_follow_the_probability() -> None:
    rng = Random(0)
    said = Counter(choose(person(mistake=0.1), 1.0, 0.0, 0, rng) for _ in range(5000))
    assert said["a"] / 5000 == pytest.approx(0.7, abs=0.02)  # 3 standard deviations
    assert set(said) == {"a", "b"}


def test_order_of_the_rules() -> None:
    profile = person(skill=ARGMAX, mistake=1.0, tie=0.1, skip=0.2)
    said = [
        choose(profile, first, second, 0, Random(0))
        for first, second in ((0.15, 0.0), (0.25, 0.0), (0.6, 0.55), (0.15, 0.1), (0.0, 1.0))
    ]
    # Both too bad: skipped, even where they are also equal. Else ties overwrite the flip. Else always flipped.
    assert said == ["skip", "b", "tie", "skip", "a"]


def test_thresholds_are_applied_once() -> None:
    """B-Pref's code multiplies its threshold by epsilon a second time: 0.1 would become 0.01."""
    profile = person(skill=ARGMAX, tie=0.1, skip=0.1)
    assert choose(profile, 0.55, 0.5, 0, Random(0)) == "tie"
    assert choose(profile, 0.65, 0.5, 0, Random(0)) == "a"
    assert choose(profile, 0.05, 0.0, 0, Random(0)) == "skip"


@pytest.mark.parametrize("wrong", [{"skill": -2.0}, {"mistake": 1.5}, {"tie": -0.1}, {"skip": 2.0}])
def test_impossible_people_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must be"):
        person(**wrong)


def test_names_of_people() -> None:
    assert [profile.name for profile in profiles_of("panel")] == list(PANEL)
    assert profiles_of(["careful", person()]) == [PROFILES["careful"], person()]
    with pytest.raises(InputError, match="no simulated profile 'carefull'; there are careful"):
        profiles_of("carefull")
    assert sum(PROFILES[name].mistake for name in PANEL) / len(PANEL) == pytest.approx(0.1)


def test_the_fresh_panel_is_others() -> None:
    panel = fresh_panel(5, seed=1)
    assert panel == fresh_panel(5, seed=1)
    assert panel != fresh_panel(5, seed=2)
    assert len({profile.skill for profile in panel}) == 5
    assert not {profile.name for profile in panel} & set(PROFILES)


# --- through the queue -------------------------------------------------------------------------------------------

SUMS = [(f"What is {a} + {b}?", a + b) for a in range(2, 12) for b in (3, 8)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path / 'prefloop.db'}")
    yield opened
    opened.engine.dispose()


def ask(store: Store, overlap: int = 1, sums: list[tuple[str, int]] = SUMS) -> None:
    """For each sum a comparison of a right answer (stored first) with a wrong one, and a request to write."""
    prompts = add_prompts(store, [{"prompt": text, "source": "test", "licence": "CC0-1.0"} for text, _ in sums])
    texts = [f"The answer is {answer + wrong}." for _, answer in sums for wrong in (0, 1)]
    ids = add_completions(
        store, [{"prompt_id": prompts[k // 2], "text": text, "policy": "test"} for k, text in enumerate(texts)]
    )
    add_questions(
        store,
        [
            {"kind": "comparison", "prompt_id": prompt, "candidates": ids[2 * k : 2 * k + 2], "overlap": overlap}
            for k, prompt in enumerate(prompts)
        ]
        + [{"kind": "demonstration", "prompt_id": prompt, "candidates": []} for prompt in prompts],
    )


def test_everything_that_waits_is_answered_once(store: Store) -> None:
    ask(store)
    seen: list[int] = []
    done = label(store, Profile(name="sure", skill=ARGMAX), progress=seen.append)
    assert done == {
        "annotators": ["simulated:sure-1"],
        "answers": 40,
        "comparison": 20,
        "demonstration": 20,
        "skipped": 0,
        "ties": 0,
    }
    assert seen == [40]
    rows = list(answers(store, kind="comparison"))
    assert [row.value["choice"] for row in rows] == ["a"] * 20  # stored order: the right one is first
    assert {row.presented_order[0] == row.candidates[0]["id"] for row in rows} == {True, False}
    assert all(row.simulated and row.annotator.startswith("simulated:") for row in rows)
    assert all(row.value["strength"] == 3 for row in rows)  # 1.0 against 0.1
    written = [row.value["text"] for row in answers(store, kind="demonstration")]
    assert len(written) == 20
    assert label(store, Profile(name="sure", skill=ARGMAX))["answers"] == 0


def test_the_profile_is_kept_with_the_annotator(store: Store) -> None:
    label(store, "careful", seed=3)
    (annotator,) = list_annotators(store)
    assert (annotator.id, annotator.kind) == ("simulated:careful-1", "simulated")
    assert annotator.profile["skill"] == 30.0
    assert annotator.profile["seed"] == 3


def test_a_panel_shares_the_questions(store: Store) -> None:
    ask(store, overlap=2)
    done = label(store, "panel", seed=0)
    assert done["answers"] == 60
    by = Counter(row.annotator for row in answers(store))
    assert set(by) == {f"simulated:{name}-1" for name in PANEL}
    pairs = Counter((row.annotator, row.question_id) for row in answers(store))
    assert set(pairs.values()) == {1}
    per_question = Counter(row.question_id for row in answers(store, kind="comparison"))
    assert set(per_question.values()) == {2}


def test_answers_depend_on_seed_annotator_and_question_alone(tmp_path: Path) -> None:
    def said(name: str, seed: int, sums: list[tuple[str, int]], limit: int) -> dict[str, object]:
        opened = open_store(f"sqlite:///{tmp_path / name}.db")
        ask(opened, sums=sums)
        while label(opened, "hasty", seed=seed, limit=limit)["answers"]:
            pass
        values = {row.question_id: (row.value, row.seconds) for row in answers(opened)}
        opened.engine.dispose()
        return values

    one = said("one", 0, SUMS, 100)
    assert said("two", 0, SUMS[::-1], 7) == one
    assert said("three", 1, SUMS, 100) != one


def test_a_limit_is_kept(store: Store) -> None:
    ask(store)
    assert label(store, "panel", limit=7)["answers"] == 7
    assert sum(1 for _ in answers(store)) == 7


def test_only_the_kinds_asked_for(store: Store) -> None:
    ask(store)
    assert label(store, "careful", kinds=["demonstration"])["comparison"] == 0
    with pytest.raises(InputError, match="simulated people answer comparison and demonstration, not ranking"):
        label(store, "careful", kinds=["ranking"])


def test_what_nobody_simulated_knows_is_skipped_with_the_reason(store: Store) -> None:
    ask(store, sums=[("What is the capital of France?", 0)])
    done = label(store, "careful")
    assert (done["answers"], done["skipped"]) == (2, 2)
    assert all("not one of the tasks" in row.value["skip"] for row in answers(store))


# --- judging -----------------------------------------------------------------------------------------------------

RIGHT, WRONG = "5 + 5 = 10.", "5 + 5 = 11."


def test_a_sure_judge() -> None:
    (verdicts,) = judges(Profile(name="sure", skill=ARGMAX))
    prompts = ["What is 5 + 5?", [{"role": "user", "content": "What is 5 + 5?"}], "What is 5 + 5?"]
    assert verdicts(prompts, [RIGHT, WRONG, RIGHT], [WRONG, RIGHT, RIGHT]) == ["a", "b", "tie"]


def test_a_panel_of_judges_is_the_same_for_the_same_seed() -> None:
    prompts = [f"What is {a} + 1?" for a in range(60)]
    right, wrong = [f"{a + 1}" for a in range(60)], [f"{a + 2}" for a in range(60)]
    panel = fresh_panel(5, seed=0)
    first = [one(prompts, right, wrong) for one in judges(panel, seed=0)]
    assert [one(prompts, right, wrong) for one in judges(panel, seed=0)] == first
    assert [one(prompts, right, wrong) for one in judges(panel, seed=1)] != first
    # Skilled people (beta of 10 or more, a difference of 0.9) are wrong by mistake only: 2 to 12 in a hundred.
    assert all(said.count("a") >= 45 for said in first)
    # Two people of one profile make mistakes of their own.
    twins = judges([panel[0], panel[0]])
    assert twins[0](prompts, right, wrong) != twins[1](prompts, right, wrong)


def test_a_judge_says_what_it_cannot_judge() -> None:
    with pytest.raises(InputError, match="cannot judge 'What is the capital of France"):
        judges("careful")[0](["What is the capital of France?"], ["Paris"], ["Rome"])
