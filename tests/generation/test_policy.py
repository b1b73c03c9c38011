"""A policy's answers as text: where a stop string cuts them, and how they come piece by piece."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefloop.generation.policy import Policy, unsure
from prefloop.generation.sampler import Sampling
from prefloop.records import Message

PROMPT: list[Message] = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module")
def policy(tiny_model: Path) -> Policy:
    return Policy(tiny_model, device="cpu", dtype="float32")


def test_the_pieces_are_the_text(policy: Policy) -> None:
    """Random bytes: most pieces are halves of characters that must not be shown before they are whole or given up."""
    for seed in range(4):
        pieces: list[str] = []
        ((answer,),) = policy.answer([PROMPT], 1, Sampling(max_new_tokens=30), seed=seed, said=pieces.append)
        assert "".join(pieces) == answer.text
        assert len(pieces) > 3


def test_text_ends_before_the_stop_string(policy: Policy) -> None:
    ((free,),) = policy.answer([PROMPT], 1, Sampling(max_new_tokens=40), seed=1)
    stop = free.text[6:8]
    pieces: list[str] = []
    sampling = Sampling(max_new_tokens=40, stop=("never said", stop))
    ((answer,),) = policy.answer([PROMPT], 1, sampling, seed=1, said=pieces.append)
    assert answer.text == free.text[: free.text.index(stop)]
    assert answer.terminated
    assert "".join(pieces) == answer.text
    assert answer.sample.ids == free.sample.ids[: len(answer.sample.ids)]


@pytest.mark.parametrize(
    ("text", "stop", "held"),
    [
        ("plain", (), 0),
        ("caf\ufffd", (), 1),
        ("one\nUs", ("\nUser:",), 3),
        ("one\nUser", ("\nUser:", "r!"), 5),
        ("one", ("two",), 0),
    ],
)
def test_what_may_still_change_is_held_back(text: str, stop: tuple[str, ...], held: int) -> None:
    assert unsure(text, stop) == held
