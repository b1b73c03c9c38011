"""Likeness to a reference answer: ROUGE, BLEU, chrF and METEOR, by well-kept libraries (extra `overlap`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

from prefloop.errors import InputError

OverlapReward = Callable[..., list[float | None]]
INSTALL = "pip install 'prefloop[overlap]'"


def rouge(kind: str = "rougeL", column: str = "reference") -> OverlapReward:
    """ROUGE F1 (Lin 2004) against the text in `column`, 0..1: rouge1, rouge2, ... or rougeL; stems, as is usual."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise InputError(f"rouge needs a library: {INSTALL}") from None
    try:
        scorer = RougeScorer([kind], use_stemmer=True)
        scorer.score("a", "a")
    except ValueError as error:
        raise InputError(f"rouge: {error}; use rouge1, rouge2 or rougeL") from None
    return _against(column, lambda text, reference: float(scorer.score(reference, text)[kind].fmeasure))


def sacrebleu(metric: Literal["bleu", "chrf"] = "chrf", column: str = "reference") -> OverlapReward:
    """Sentence BLEU (Post 2018; with effective order, exponential smoothing) or chrF (Popovic 2015), 0..1."""
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        raise InputError(f"sacrebleu needs a library: {INSTALL}") from None
    if metric not in ("bleu", "chrf"):
        raise InputError(f"metric must be bleu or chrf, got {metric!r}")
    scorer = BLEU(effective_order=True) if metric == "bleu" else CHRF()
    return _against(column, lambda text, reference: float(scorer.sentence_score(text, [reference]).score) / 100)


def meteor(column: str = "reference", *, synonyms: bool = False) -> OverlapReward:
    """METEOR (Banerjee and Lavie 2005) by NLTK, 0..1, with its defaults: alpha 0.9, beta 3, gamma 0.5.

    Words match when they are equal, upper or lower case alike, or have the same stem; with `synonyms` also by WordNet,
    which has to be there (`python -m nltk.downloader wordnet`) and which the papers' figures were made with.
    """
    try:
        from nltk.corpus import wordnet
        from nltk.translate.meteor_score import single_meteor_score
    except ImportError:
        raise InputError(f"meteor needs a library: {INSTALL}") from None
    if synonyms:
        try:
            wordnet.ensure_loaded()
        except LookupError:
            raise InputError(
                "synonyms need WordNet: python -m nltk.downloader wordnet; or leave synonyms out"
            ) from None
    known = wordnet if synonyms else _NoSynonyms()

    def likeness(text: str, reference: str) -> float:
        said, wanted = re.findall(r"\w+", text), re.findall(r"\w+", reference)
        return float(single_meteor_score(wanted, said, wordnet=known)) if said and wanted else 0.0

    return _against(column, likeness)


class _NoSynonyms:
    """What METEOR asks WordNet, without WordNet."""

    def synsets(self, word: str) -> list[Any]:
        return []


def _against(column: str, likeness: Callable[[str, str], float]) -> OverlapReward:
    def score(completions: Sequence[str], **columns: Sequence[Any]) -> list[float | None]:
        if column not in columns:
            raise InputError(f"the data have no column {column!r} with the reference answer")
        pairs = zip(completions, columns[column], strict=True)
        return [None if reference is None else likeness(text, str(reference)) for text, reference in pairs]

    return score
