"""Likeness to a reference, against numbers that can be counted."""

from __future__ import annotations

import math

import pytest

from prefloop.errors import InputError
from prefloop.rewards.overlap import meteor, rouge, sacrebleu

pytest.importorskip("rouge_score", reason="the extra `overlap` is not installed")


def test_rouge_by_hand() -> None:
    """`the cat sat` against `the cat sat down`: 3 of 3 and 3 of 4 words, F1 = 6/7; pairs 2 of 2 and 2 of 3: 4/5."""
    said, wanted = ["the cat sat", "x", "y"], ["the cat sat down", "z", None]
    assert rouge("rouge1")(said, reference=wanted) == [pytest.approx(6 / 7), 0.0, None]
    assert rouge("rouge2")(said[:1], reference=wanted[:1]) == [pytest.approx(4 / 5)]
    assert rouge("rougeL")(["down sat cat"], reference=["cat sat down"]) == [pytest.approx(1 / 3)]
    with pytest.raises(InputError, match="use rouge1, rouge2 or rougeL"):
        rouge("rougeX")


def test_meteor_by_hand() -> None:
    """`the cats sat` against `the cat sat down`: three matches (one by its stem) in one piece. P = 1, R = 3/4, so
    F = P R / (0.9 P + 0.1 R) = 0.75 / 0.975, and the penalty 0.5 (1/3)^3; in reverse order three pieces: 0.5."""
    found = meteor()(["the cats sat", "sat cats the", "dog", "", "x"], reference=["the cat sat down"] * 4 + [None])
    mean = 0.75 / 0.975
    assert found == [pytest.approx(mean * (1 - 0.5 / 27)), pytest.approx(mean * 0.5), 0.0, 0.0, None]


def test_meteor_says_when_wordnet_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nltk.data.path", [])
    with pytest.raises(InputError, match="python -m nltk.downloader wordnet"):
        meteor(synonyms=True)


def test_bleu_and_chrf_by_hand() -> None:
    """Three words of four, every n-gram right: BLEU is the brevity penalty exp(1 - 4/3) alone, with effective order."""
    bleu = sacrebleu("bleu")(["the cat sat", "the cat sat down"], reference=["the cat sat down"] * 2)
    assert bleu == [pytest.approx(math.exp(-1 / 3)), pytest.approx(1.0)]
    assert sacrebleu("chrf")(["abc", "xyz"], reference=["abc", "abc"]) == [pytest.approx(1.0), 0.0]
    with pytest.raises(InputError, match="metric must be bleu or chrf, got 'ter'"):
        sacrebleu("ter")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no column 'reference'"):
        sacrebleu()(["a"])
