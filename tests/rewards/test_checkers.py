"""The ground truth of the task world, on answers written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from prefloop.errors import InputError
from prefloop.rewards import checkers
from prefloop.rewards.checkers import check, check_many
from prefloop.rewards.sandbox import java_harness

INTERVIEW = {"topic": "interview", "words": ["interview"], "detail": ""}
EMAIL = """Subject: Request for an interview

Dear Ms. Carter,

I am writing to request an interview for the position of clerk. I am free on Monday and Thursday. Please let me know \
when it suits you.

Best regards,
Anna Miller"""


def email(text: str) -> checkers.Check:
    return check("email", "Write an email requesting an interview", text, INTERVIEW)


def test_a_good_email_passes() -> None:
    verdict = email(EMAIL)
    assert (verdict.passed, verdict.score, verdict.how) == (True, 1.0, "rubric")


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("Subject: Request for an interview\n\n", "", "subject"),
        ("Subject: Request for an interview", "Subject:", "subject"),
        ("Dear Ms. Carter,\n\n", "", "greeting"),
        ("request an interview for", "request", "request"),
        ("Please let", "Let", "polite"),
        ("Best regards,\nAnna Miller", "", "closing"),
        ("\nAnna Miller", "", "closing"),
        ("Best regards,\n", "", "closing"),
        ("Anna Miller", "and then I will come to you", "closing"),
        ("I am free on Monday and Thursday. ", "I am free. I am free. ", "form"),
        ("I am free on Monday and Thursday. ", "very " * 120, "form"),
        ("Anna Miller", "Anna Miller\n" + "And another line.\n" * 3, "form"),
    ],
)
def test_each_part_of_an_email_counts(old: str, new: str, part: str) -> None:
    assert old in EMAIL
    verdict = email(EMAIL.replace(old, new))
    assert [name for name, held in verdict.parts.items() if not held] == [part]
    assert not verdict.passed
    assert verdict.score == pytest.approx(5 / 6)


def test_other_ways_to_write_a_good_email() -> None:
    other = (
        "Subject: Interview request\nHello,\nCould we find a time for an interview next week? I have read about the "
        "job with great interest.\nThank you,\n[Your Name]"
    )
    assert email(other).passed
    assert email(EMAIL + "\nClerk\n555 0100").passed


def test_a_list_of_the_right_words_is_no_email() -> None:
    verdict = email("Subject: interview\nDear Sir,\ninterview please\nBest regards,\nAnna Miller")
    assert verdict.parts == {
        "subject": True, "greeting": True, "request": False, "polite": True, "closing": True, "form": False,
    }  # fmt: skip


def test_an_empty_completion_has_nothing() -> None:
    assert email("").score == 0
    assert check("arithmetic", "", "", SUM).score == 0
    assert check("code", "", "", PYTHON_ADD).score == 0


# --- arithmetic --------------------------------------------------------------------------------------------------

SUM = {"a": 5, "op": "+", "b": 5, "answer": 10}


def arithmetic(text: str, spec: dict[str, Any] = SUM) -> checkers.Check:
    return check("arithmetic", "What is 5 + 5?", text, spec)


@pytest.mark.parametrize(
    "text",
    ["10", "5 + 5 = 10.", "The answer is 10.", "The sum of 5 and 5 is 10", "ten", "5 plus 5 is 10.", "It is **10**."],
)
def test_the_right_number_passes(text: str) -> None:
    assert arithmetic(text).passed


@pytest.mark.parametrize(
    ("text", "score", "wrong"),
    [
        ("5 + 5 = 11.", 0.1, "right"),
        ("I do not know.", 0.0, "right"),
        ("10 or 11", 0.1, "right"),
        ("5 + 5 = 11. The answer is 10.", 0.9, "consistent"),
        ("11. No, 10.", 0.9, "consistent"),
        ("5 + 6 = 12, so 5 + 5 = 10.", 0.9, "consistent"),
        ("5 + 5 = 10. " + "I am sure of it. " * 10, 0.9, "short"),
        ("100", 0.1, "right"),
        ("-10", 0.1, "right"),
        ("5 + 5 = 10.5", 0.1, "right"),
    ],
)
def test_wrong_contradicted_or_long_fails(text: str, score: float, wrong: str) -> None:
    verdict = arithmetic(text)
    assert not verdict.passed
    assert verdict.parts[wrong] is False
    assert verdict.score == pytest.approx(score)


def test_negative_answers_and_steps() -> None:
    spec = {"a": 3, "op": "-", "b": 8, "answer": -5}
    assert arithmetic("3 - 8 = -5.", spec).passed
    assert arithmetic("The answer is −5.", spec).passed
    assert not arithmetic("3 - 8 = 5.", spec).passed
    steps = {"a": 47, "op": "+", "b": 38, "answer": 85}
    assert arithmetic("40 + 30 = 70 and 7 + 8 = 15, so 47 + 38 = 85.", steps).passed
    assert not arithmetic("40 + 30 = 70 and 7 + 8 = 16, so 47 + 38 = 85.", steps).passed


# --- code --------------------------------------------------------------------------------------------------------

PYTHON_ADD = {"language": "python", "idea": "add"}
JAVA_ADD = {"language": "java", "idea": "add"}
PYTHON = "```python\ndef add(a, b):\n    return a + b\n```\n\nThis function returns the sum of two integers."
JAVA = (
    "```java\nclass Add {\n    static int add(int a, int b) {\n        return a + b;\n    }\n}\n```\n\n"
    "It adds two integers."
)
# Each is 1 minus the weight of what is missing: correct 0.5, block 0.15, language 0.1, explanation 0.25.
PYTHON_CASES = {
    "good": (PYTHON, 1.0),
    "explained before": (
        "Here is a function for the sum:\n\n```\ndef f(x, y):\n    s = x + y\n    return s\n```",
        1.0,
    ),
    "no explanation": (PYTHON.split("\n\n")[0], 0.75),
    "no fence": (PYTHON.replace("```python\n", "").replace("\n```", ""), 0.85),
    "fence not closed": (PYTHON.split("\n```\n")[0], 0.6),
    "wrong operator": (PYTHON.replace("a + b", "a - b"), 0.5),
    "wrong tag": (PYTHON.replace("```python", "```java"), 0.9),
    "other language": (JAVA, 0.4),
    "prints, does not return": (PYTHON.replace("return a", "print(a").replace("+ b\n", "+ b)\n"), 0.5),
    "program that prints": (
        "```python\na = 3\nb = 4\nprint(a + b)\n```\nThis code prints the sum of two numbers.",
        1.0,
    ),
    "program with another sign": (
        "```python\na = 3\nb = 4\nprint(a * b)\n```\nThis code prints the sum of two numbers.",
        0.5,
    ),
    "words without sense": (PYTHON.split("\n\n")[0] + "\n\nYes.", 0.75),
    "goes round": (PYTHON.split("\n\n")[0] + "\n\nIt returns the sum. It returns the sum.", 0.75),
    "truth value for a number": (PYTHON.replace("a + b", "True"), 0.5),
}


def test_python_is_executed() -> None:
    verdicts = check_many([("code", "", text, PYTHON_ADD) for text, _ in PYTHON_CASES.values()])
    assert {name: verdict.score for name, verdict in zip(PYTHON_CASES, verdicts, strict=True)} == {
        name: pytest.approx(score) for name, (_, score) in PYTHON_CASES.items()
    }
    assert {verdict.how for verdict in verdicts} == {"executed"}


JAVA_CASES = {
    "good": (JAVA, 1.0),
    "bare method": ("```java\nint add(int x, int y) {\n    return x + y;\n}\n```\nThis method returns the sum.", 1.0),
    "program that prints": (
        (
            "```java\npublic class Main {\n    public static void main(String[] args) {\n        int a = 5, b = 7;\n"
            '        System.out.println("Sum: " + (a + b));\n    }\n}\n```\nThe program adds two integers.'
        ),
        1.0,
    ),
    "wrong operator": (JAVA.replace("a + b", "a - b"), 0.5),
    "no explanation": (JAVA.split("\n\n")[0], 0.75),
    "no semicolon": (JAVA.replace("a + b;", "a + b"), 0.5),
    "other language": (PYTHON, 0.4),
}


@pytest.mark.parametrize("jdk", [True, False])
def test_java_is_run_or_checked_by_structure(jdk: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if jdk and java_harness() is None:
        pytest.skip("no JDK (java and javac, 11 or newer) on the PATH or in JAVA_HOME")
    monkeypatch.setattr(checkers, "_CACHE", type(checkers._CACHE)())
    if not jdk:
        monkeypatch.setattr(checkers, "run_java", lambda snippets: None)
    verdicts = check_many([("code", "", text, JAVA_ADD) for text, _ in JAVA_CASES.values()])
    assert {name: verdict.score for name, verdict in zip(JAVA_CASES, verdicts, strict=True)} == {
        name: pytest.approx(score) for name, (_, score) in JAVA_CASES.items()
    }
    assert {verdict.how for verdict in verdicts} == {"compiled and run" if jdk else "structure"}


def test_verdicts_are_remembered_by_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkers, "_CACHE", type(checkers._CACHE)())
    first = check("code", "", PYTHON, PYTHON_ADD)
    monkeypatch.setattr(checkers, "run_python", lambda snippets: [] if not snippets else pytest.fail("ran again"))
    assert check("code", "worded otherwise", PYTHON, PYTHON_ADD) == first
    with pytest.raises(pytest.fail.Exception, match="ran again"):
        check("code", "", PYTHON, {"language": "python", "idea": "subtract"})


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkers, "_CACHE", type(checkers._CACHE)())
    monkeypatch.setattr(checkers, "_CACHE_SIZE", 3)
    verdicts = check_many([("arithmetic", "", f"The answer is {n}.", SUM) for n in (10, 1, 2, 3, 10, 4)])
    assert [verdict.passed for verdict in verdicts] == [True, False, False, False, True, False]
    assert len(checkers._CACHE) == 3


def test_text_that_no_file_can_hold_is_checked_all_the_same() -> None:
    odd = "\ud800 \x00 "
    verdicts = check_many([("code", "", odd, PYTHON_ADD), ("email", "", odd, INTERVIEW), ("arithmetic", "", odd, SUM)])
    assert [verdict.passed for verdict in verdicts] == [False, False, False]


@pytest.mark.parametrize(
    ("family", "spec"),
    [("poem", {}), ("code", {"language": "cobol", "idea": "add"}), ("code", {"language": "python", "idea": "sort"})],
)
def test_what_no_rule_covers_is_an_error(family: str, spec: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"family must be one of email|code is checked in python and java for add"):
        check(family, "", "text", spec)
