"""Which answers would teach a reward model most: the pairs that its members disagree about.

An ensemble's disagreement is what it would learn from the answer: BALD (Houlsby et al. 2011, arXiv 1112.5745),
H(mean of P) - mean of H(P), in nats, 0 where all members say the same. One model alone cannot tell what it does not
know from what nobody can know; its pairs are ordered by the entropy of P.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from prefloop.records import Messages

Floats = npt.NDArray[np.float64]


class Members(Protocol):
    """A reward model of one member or several, with its temperature."""

    @property
    def temperature(self) -> float: ...

    def members(self, prompts: Sequence[Messages], completions: Sequence[str]) -> Tensor: ...


def information(p: Floats) -> Floats:
    """What an answer would tell, in nats, from members' probabilities (n, members); with one member its entropy."""
    whole = entropy(p.mean(axis=1))
    return whole if p.shape[1] == 1 else np.maximum(0.0, whole - entropy(p).mean(axis=1))


def entropy(p: Floats) -> Floats:
    """Of a yes or no, in nats."""
    inside = np.clip(p, 1e-12, 1 - 1e-12)
    return np.asarray(-inside * np.log(inside) - (1 - inside) * np.log1p(-inside), dtype=np.float64)


def worth_asking(reward: Members, groups: Sequence[tuple[Messages, Sequence[str]]], most: int) -> list[dict[str, Any]]:
    """The `most` pairs of completions of one prompt whose comparison would teach most, the best first.

    Each: {"prompt" (messages), "a", "b", "probability" (that a is preferred), "information" (nats), "members"}.
    """
    texts = [(prompt, text) for prompt, completions in groups for text in completions]
    scores = reward.members([prompt for prompt, _ in texts], [text for _, text in texts]).double().numpy()
    pairs, at = [], 0
    for _, completions in groups:
        pairs += list(combinations(range(at, at + len(completions)), 2))
        at += len(completions)
    first, second = np.array(pairs).reshape(-1, 2).T
    p = 0.5 * (1 + np.tanh((scores[first] - scores[second]) / reward.temperature / 2))
    gain = information(p)
    return [
        {
            "prompt": texts[first[i]][0],
            "a": texts[first[i]][1],
            "b": texts[second[i]][1],
            "probability": float(p[i].mean()),
            "information": float(gain[i]),
            "members": p.shape[1],
        }
        for i in np.argsort(-gain, kind="stable")[:most]
    ]
