"""Pretraining documents: right, varied, and nothing like a chat."""

from __future__ import annotations

import ast
import re
import time

import pytest

from prefloop.labelers.task_text import task_text
from prefloop.labelers.task_words import TOPICS
from prefloop.labelers.task_world import SHOW_PROMPTS
from prefloop.records import Messages
from prefloop.rewards.checkers import check_many
from prefloop.rewards.sandbox import Snippet, run_python


@pytest.fixture(scope="module")
def conversations() -> list[Messages]:
    return [document for document in task_text(6000, seed=0) if not isinstance(document, str)]


@pytest.fixture(scope="module")
def documents(conversations: list[Messages]) -> list[str]:
    """Every document as text, the turns of a conversation one to a line."""
    written = [document for document in task_text(6000, seed=0) if isinstance(document, str)]
    return written + ["\n".join(turn["content"] for turn in turns) for turns in conversations]


def test_the_seed_decides() -> None:
    assert list(task_text(50, seed=3)) == list(task_text(50, seed=3))
    assert list(task_text(50, seed=3)) != list(task_text(50, seed=4))
    assert list(task_text(80, seed=3))[:50] == list(task_text(50, seed=3))


def test_every_sum_is_right(documents: list[str]) -> None:
    found = re.findall(r"(?<![-\d])(\d+) ([-+x*]) (\d+) (?:=|equals) (-?\d+)", "\n".join(documents))
    sums = {"+": int.__add__, "-": int.__sub__, "x": int.__mul__, "*": int.__mul__}
    assert len(found) > 10_000
    assert [row for row in found if sums[row[1]](int(row[0]), int(row[2])) != int(row[3])] == []


def test_the_python_parses_and_computes(documents: list[str]) -> None:
    blocks = sorted({code for text in documents for code in re.findall(r"```python\n(.*?)\n```", text, re.S)})
    assert len(blocks) > 50
    for code in blocks:
        ast.parse(code)
    adds = [code for code in blocks if re.match(r"def (?:add|sum_two)\w*\(", code)]
    outcomes = run_python([Snippet(code, ((2, 3), (40, 2))) for code in adds])
    assert len(adds) >= 4
    assert {outcome.results for outcome in outcomes} == {(5, 42)}


def test_letters_are_complete(documents: list[str]) -> None:
    alone = [text for text in documents if text.startswith("Subject: ") and "---" not in text]
    assert len(alone) > 200
    verdicts = check_many([("email", "", text, {"words": list(TOPICS)}) for text in alone])
    assert [v.parts for v in verdicts if not (v.parts["subject"] and v.parts["greeting"] and v.parts["closing"])] == []
    # A letter that makes its request twice in the same words, or without a polite word, is rare.
    assert sum(verdict.passed for verdict in verdicts) / len(verdicts) > 0.95


def test_no_prompt_is_asked_and_answered(documents: list[str]) -> None:
    everything = "\n".join(documents)
    for phrase in (*SHOW_PROMPTS, "What is", "Calculate", "Write a", "write a", "Draft", "User:", "Assistant:", "<|"):
        assert phrase not in everything


def test_a_conversation_says_sums_in_turn_and_asks_nothing(conversations: list[Messages]) -> None:
    assert 400 < len(conversations) < 600  # 2 of 11 kinds of sums, which are 45 % of 6,000: 491
    for turns in conversations:
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        assert all(re.fullmatch(r"\d+ [-+x] -?\d+ = -?\d+\.", turn["content"]) for turn in turns[1::2])
        assert not any("?" in turn["content"] for turn in turns)


def test_shares_by_length(documents: list[str]) -> None:
    def family(text: str) -> str:
        return "code" if "return " in text else "letters" if re.search(r"Dear |Memo|Subject:", text) else "sums"

    total = sum(map(len, documents))
    shares = dict.fromkeys(("sums", "letters", "code"), 0.0)
    for text in documents:
        shares[family(text)] += len(text) / total
    assert 0.40 < shares["sums"] < 0.50
    assert 0.27 < shares["letters"] < 0.38
    assert 0.18 < shares["code"] < 0.28


def test_little_is_repeated(documents: list[str]) -> None:
    assert len(set(documents)) > 0.97 * len(documents)


def test_it_is_fast() -> None:
    started = time.process_time()
    assert sum(1 for _ in task_text(5000, seed=1)) == 5000
    assert time.process_time() - started < 1
