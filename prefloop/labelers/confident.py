"""A reward model as a labeler of what it is sure of (semi-supervised reward modelling).

Confidence-filtered pseudo-labels: SURF (Park et al. 2022, https://arxiv.org/abs/2203.10050) and SSRM (He et al. 2024,
https://arxiv.org/abs/2409.06903). A score does not depend on a pair's order, so there are no two orders to average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

from prefloop.records import Messages


class Scores(Protocol):
    """A reward model with its temperature."""

    @property
    def temperature(self) -> float: ...

    def __call__(self, prompts: Sequence[Messages], completions: Sequence[str]) -> list[float]: ...


def confident_pairs(
    reward: Scores, groups: Sequence[tuple[Messages, Sequence[str]]], confidence: float, by: str
) -> tuple[list[dict[str, Any]], int]:
    """(comparisons that `reward` is at least so sure of, all pairs looked at).

    `groups`: prompts with their completions, of which every two neighbours are a pair. Labels are hard, as in both
    papers. `by` names the labeler, `ai:...`.
    """
    texts = [(prompt, text) for prompt, completions in groups for text in completions]
    scores = reward([prompt for prompt, _ in texts], [text for _, text in texts])
    found, at, pairs = [], 0, 0
    for prompt, completions in groups:
        for one, other in pairwise(range(at, at + len(completions))):
            pairs += 1
            difference = (scores[one] - scores[other]) / reward.temperature
            sure = 0.5 * (1 + math.tanh(abs(difference) / 2))
            if confidence < 1 and sure >= confidence:
                found.append(_row(prompt, texts, (one, other) if difference > 0 else (other, one), sure, by))
        at += len(completions)
    return found, pairs


def _row(
    prompt: Messages, texts: Sequence[tuple[Messages, str]], order: tuple[int, int], sure: float, by: str
) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "chosen": texts[order[0]][1],
        "rejected": texts[order[1]][1],
        "label": 1.0,
        "confidence": round(sure, 4),
        "annotators": [by],
    }
