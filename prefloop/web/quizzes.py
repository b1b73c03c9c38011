"""A guideline's quiz as text that a lead can type.

Which answer is better when both are true?
- the longer one
+ the one that says what was asked
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefloop.errors import InputError


def parse_quiz(text: str) -> list[dict[str, Any]]:
    """Questions with `-` before a wrong and `+` before the right option. Raises InputError, naming the line."""
    quiz: list[dict[str, Any]] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line:
            continue
        mark, rest = line[0], line[1:].strip()
        if mark not in "-+":
            quiz.append({"question": line, "options": [], "correct": None})
            continue
        if not quiz or not rest:
            raise InputError(f"quiz, line {number}: an option needs a question above it, and words")
        if mark == "+":
            if quiz[-1]["correct"] is not None:
                raise InputError(f"quiz, line {number}: this question has a right option already; only one may have +")
            quiz[-1]["correct"] = len(quiz[-1]["options"])
        quiz[-1]["options"].append(rest)
    for one in quiz:
        if one["correct"] is None or len(one["options"]) < 2:
            raise InputError(f"quiz: {one['question'][:60]!r} needs two options or more, one of them with +")
    return quiz


def quiz_text(quiz: Sequence[Mapping[str, Any]] | None) -> str:
    """What `parse_quiz` reads."""
    parts = []
    for one in quiz or ():
        marks = ["+" if n == one["correct"] else "-" for n in range(len(one["options"]))]
        parts.append("\n".join([one["question"], *(f"{m} {o}" for m, o in zip(marks, one["options"], strict=True))]))
    return "\n\n".join(parts)
