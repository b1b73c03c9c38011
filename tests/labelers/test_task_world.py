"""The task world: what is asked, what people of other words ask, and what simulated people answer."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import pytest

from prefloop.errors import InputError
from prefloop.labelers.simulated import PANEL, PROFILES
from prefloop.labelers.task_words import FUNCTIONS, TOPICS
from prefloop.labelers.task_world import (
    FAMILIES,
    SHOW_PROMPTS,
    Task,
    demonstrate,
    email_spec,
    spec_of,
    task_prompts,
)
from prefloop.rewards.checkers import Check, check_many


@dataclass(frozen=True)
class Hand:
    """A writer with one number."""

    mistake: float


def checks(tasks: list[Task], texts: list[str]) -> list[Check]:
    return check_many([(t.family, t.prompt, text, t.spec) for t, text in zip(tasks, texts, strict=True)])


# --- prompts -----------------------------------------------------------------------------------------------------


def test_prompts_are_different_and_the_families_take_turns() -> None:
    tasks = task_prompts(600, seed=0)
    assert len({task.prompt for task in tasks}) == 600
    assert [task.family for task in tasks[:6]] == [*FAMILIES, *FAMILIES]
    assert tasks == task_prompts(600, seed=0)
    assert tasks != task_prompts(600, seed=1)


def test_the_prompts_that_are_shown_are_never_drawn_but_their_neighbours_are() -> None:
    tasks = [task for seed in range(3) for task in task_prompts(6000, seed=seed)]
    assert not {task.prompt for task in tasks} & set(SHOW_PROMPTS)
    specs = [task.spec for task in tasks]
    for shown in SHOW_PROMPTS:
        task = spec_of(shown)
        assert task is not None
        assert task.spec in specs
    assert "write an email requesting an interview" in {task.prompt.lower().rstrip(".") for task in tasks}


def test_fresh_prompts_share_no_combination_with_those_for_training() -> None:
    train, fresh = task_prompts(6000, seed=0), task_prompts(3000, seed=7, split="fresh")
    assert not {task.prompt for task in train} & {task.prompt for task in fresh}

    def sums(tasks: list[Task]) -> set[tuple[int, str, int]]:
        return {(t.spec["a"], t.spec["op"], t.spec["b"]) for t in tasks if t.family == "arithmetic"}

    assert len(sums(fresh)) > 100
    assert not sums(train) & sums(fresh)
    assert sum("courteous" in task.prompt or "Put together" in task.prompt for task in fresh) > 50
    assert not any("courteous" in task.prompt or "Put together" in task.prompt for task in train)


def test_phrasings_are_many() -> None:
    emails = task_prompts(2000, seed=0, families=["email"])
    # The words before the topic and the recipient: at least twenty ways to begin.
    assert len({" ".join(task.prompt.lower().split()[:3]) for task in emails}) >= 20
    sums = task_prompts(1500, seed=0, families=["arithmetic"])
    assert {task.spec["op"] for task in sums} == {"+", "-", "x"}
    assert max(max(task.spec["a"], task.spec["b"]) for task in sums) == 20
    assert any(task.spec["answer"] < 0 for task in sums)
    codes = task_prompts(1500, seed=0, families=["code"])
    assert {task.spec["idea"] for task in codes} == set(FUNCTIONS)


def test_more_prompts_than_wordings_repeat_rather_than_hang() -> None:
    tasks = task_prompts(900, seed=0, families=["code"], split="fresh")
    assert len(tasks) == 900


@pytest.mark.parametrize(("families", "split"), [((), "train"), (("poem",), "train"), (FAMILIES, "test")])
def test_wrong_requests_are_refused(families: tuple[str, ...], split: str) -> None:
    with pytest.raises(InputError, match="must be"):
        task_prompts(1, seed=0, families=families, split=split)  # type: ignore[arg-type]


# --- prompts of other people -------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "fresh"])
def test_our_own_prompts_are_understood(split: str) -> None:
    tasks = task_prompts(3000, seed=11, split=split)  # type: ignore[arg-type]
    understood = [spec_of(task.prompt) for task in tasks]
    assert [task for task, found in zip(tasks, understood, strict=True) if task != found] == []


@pytest.mark.parametrize(
    ("prompt", "topic"),
    [
        ("Write an email requesting an interview", "interview"),
        ("Compose a polite email asking my professor for a deadline extension.", "extension"),
        ("Draft an email to HR requesting two weeks of annual leave", "leave"),
        ("email my landlord asking for a repair of the sink", "repair"),
        ("Write an e-mail to a store asking for my money back for a faulty kettle", "refund"),
        ("Could you write an email to request a reference letter?", "recommendation"),
        ("Write an email to ask for a salary raise", "salary raise"),
        ("I'd like to schedule an appointment with the dentist, write an email", "appointment"),
    ],
)
def test_letters_in_other_words(prompt: str, topic: str) -> None:
    task = spec_of(prompt)
    assert task is not None
    assert (task.family, task.spec["topic"]) == ("email", topic)
    answer = demonstrate(task, Random(0), Hand(0))
    assert checks([task], [answer])[0].passed


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("What is 5 + 5?", 10),
        ("What's 12 plus 30?", 42),
        ("8*7", 56),
        ("What is seven times eight", 56),
        ("17-9", 8),
        ("What is the total of 4 and 9?", 13),
        ("Subtract 4 from 11", 7),
        ("What is the difference between 15 and 9?", 6),
        ("If I have 6 apples and eat 2, how many are left?", 4),
        ("Anna has 5 pens. She buys 3 more. How many pens does she have now?", 8),
        ("There are 4 bags with 6 marbles in each. How many marbles in total?", 24),
        ("A farmer has 12 cows and sells 5. How many cows remain?", 7),
    ],
)
def test_sums_in_other_words(prompt: str, answer: int) -> None:
    task = spec_of(prompt)
    assert task is not None
    assert (task.family, task.spec["answer"]) == ("arithmetic", answer)


@pytest.mark.parametrize(
    ("prompt", "language", "idea"),
    [
        ("Write a simple Java code that adds two integers", "java", "add"),
        ("Write a Python function that takes two integers and returns their sum.", "python", "add"),
        ("write java code to check whether a number is even", "java", "is_even"),
        ("Write a python function to find the sum of all elements in a list", "python", "sum_list"),
        ("Java method to find the larger of two numbers", "java", "max"),
        ("Python code for the absolute value", "python", "absolute"),
        ("Write a Python program to reverse a string", "python", "reverse"),
    ],
)
def test_code_in_other_words(prompt: str, language: str, idea: str) -> None:
    task = spec_of(prompt)
    assert task is not None
    assert (task.family, task.spec) == ("code", {"language": language, "idea": idea})


@pytest.mark.parametrize(
    "prompt",
    [
        "What is the capital of France?",
        "Write a poem",
        "What is 3 + 4 + 5?",
        "Write a Python function that checks if a number is prime",
        "Write a Python function that returns the square root of a number",
        "Write an email inviting Bob to dinner",
        "Divide 8 by 2",
        "",
    ],
)
def test_what_the_task_world_has_no_rule_for(prompt: str) -> None:
    assert spec_of(prompt) is None


def test_details_of_a_letter_are_found_again() -> None:
    task = spec_of("Please write an email to my boss requesting a meeting with Dr. Reed. Keep it short.")
    assert task is not None
    assert task.spec == email_spec("meeting", " with Dr. Reed")


# --- demonstrations ----------------------------------------------------------------------------------------------


def test_who_makes_no_mistakes_always_passes() -> None:
    """Every topic, function and language, several times over, executed for real."""
    tasks = [Task(f"Write an email requesting {t.asked}", "email", email_spec(t.name)) for t in TOPICS.values()]
    tasks += [Task("", "code", {"language": lang, "idea": idea}) for idea in FUNCTIONS for lang in ("python", "java")]
    tasks += task_prompts(30, seed=5, families=["email", "arithmetic"])
    repeated = [task for seed in range(4) for task in tasks]
    texts = [demonstrate(task, Random(seed), Hand(0)) for seed in range(4) for task in tasks]
    verdicts = checks(repeated, texts)
    failed = [(text, verdict) for text, verdict in zip(texts, verdicts, strict=True) if not verdict.passed]
    assert failed == []


def test_answers_are_short() -> None:
    tasks = task_prompts(600, seed=2)
    texts = [demonstrate(task, Random(k), Hand(0)) for k, task in enumerate(tasks)]
    most = {
        family: max(len(text.split()) for task, text in zip(tasks, texts, strict=True) if task.family == family)
        for family in FAMILIES
    }
    assert most["email"] <= 60
    assert most["arithmetic"] <= 5
    assert most["code"] <= 50


def test_the_usual_people_leave_something_out() -> None:
    """Over the panel about 10 % of the letters and of the code pass, and about 96 % of the sums."""
    tasks = task_prompts(900, seed=9)
    rng = Random(0)
    people = [PROFILES[PANEL[k // 3 % len(PANEL)]] for k in range(900)]
    verdicts = checks(tasks, [demonstrate(task, rng, person) for task, person in zip(tasks, people, strict=True)])
    rates = {
        family: sum(v.passed for t, v in zip(tasks, verdicts, strict=True) if t.family == family) / 300
        for family in FAMILIES
    }
    # Planned: half of the careful one's in five (1 - 10 * 0.05) and none of the others' (10 * 0.1 or more is all), and
    # 1 - 0.4 * 0.1. One standard deviation of a share of 300 is 0.017 and 0.011.
    assert 0.05 < rates["email"] < 0.16
    assert 0.05 < rates["code"] < 0.16
    assert 0.92 < rates["arithmetic"] < 0.99


def test_the_usual_flaw_is_the_last_part() -> None:
    """Of flawed letters 85 % stop before the closing, so a policy that copies the usual demonstrator stops there."""
    tasks = task_prompts(400, seed=4, families=["email"])
    flawed = [demonstrate(task, Random(k), Hand(1)) for k, task in enumerate(tasks)]
    verdicts = checks(tasks, flawed)
    assert not any(verdict.passed for verdict in verdicts)
    assert 0.8 < sum(not verdict.parts["closing"] for verdict in verdicts) / 400 < 0.9


def test_a_wrong_sum_is_a_little_off() -> None:
    tasks = task_prompts(100, seed=4, families=["arithmetic"])
    for k, task in enumerate(tasks):
        hand = Hand(2.5)  # 0.4 * 2.5 = 1: every sum is wrong
        written = int(demonstrate(task, Random(k), hand).rstrip(".").split()[-1])
        assert abs(written - task.spec["answer"]) in (1, 2, 10)


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(InputError, match="family must be one of"):
        demonstrate(Task("Write a poem", "poem", {}), Random(0), Hand(0))
