"""What a reward model holds beside its trunk and its score: thresholds of the answers, further heads, a temperature.

All of it is a few numbers, kept in config.json under keys of our own, so that every other program loads the folder as a
sequence classifier with one label and never meets them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prefloop.functional.feedback import rating_logprobs, yes_logprobs

ANSWERS_KEY = "prefloop_answers"
"""How scores become answers: `{"ties": nu or null, "questions": {name: {"slope", "thresholds"}}}`."""
HEADS_KEY = "prefloop_heads"
"""Further heads: `{name: {"weight": [d or 4 d numbers], "bias": number}}`; 4 d where they read the whole answer (see
`ScoreHead.wide_states`). An ensemble's members are called `member:0`, ...; a criterion has a `temperature`, too."""
TEMPERATURE_KEY = "prefloop_temperature"
"""P(a is preferred to b) = sigmoid((score(a) - score(b)) / T)."""
ADAPTATION_KEY = "prefloop_adaptation"
"""How the head adapts to somebody's comparisons (maml): `{"steps": n, "rates": [d numbers]}`."""
MEMBER = "member:"
RATE = 20.0
"""These few numbers move so many times faster than the weights under one learning rate."""
SPREAD = 1.18
"""A threshold under scores of standard deviation 1 lies so much further out than the logit of its share says."""


class Answers(nn.Module):
    """The thresholds between a score and what is said about it, trained along with the model.

    `questions`: how often each level was said (lowest first), by question: the thresholds start where scores of mean 0
    and standard deviation 1 would give those shares. A question that got one answer only cannot tell its threshold: it
    stays at 0. `ties`: share of the comparisons that were ties, 0 for none.
    """

    def __init__(self, questions: Mapping[str, Sequence[float]], ties: float = 0.0) -> None:
        super().__init__()
        self.names = sorted(questions)
        counts = [torch.tensor(questions[name], dtype=torch.float32) for name in self.names]
        starts = []
        for count in counts:
            below = (count.cumsum(0)[:-1] + 0.5) / (count.sum() + 1)
            alone = int((count > 0).sum()) < 2 and len(count) == 2
            starts.append(torch.zeros(1) if alone else SPREAD * torch.logit(below))
        self.starts = [_apart(start) for start in starts]
        free = [not (int((count > 0).sum()) < 2 and len(count) == 2) for count in counts]
        self.moves = nn.ParameterList(
            nn.Parameter(torch.zeros(len(start)), requires_grad=one)
            for start, one in zip(self.starts, free, strict=True)
        )
        self.slopes = nn.ParameterList(nn.Parameter(torch.zeros(()), requires_grad=one) for one in free)
        self.tie_start = math.log(2.3 * ties / (1 - min(ties, 0.99))) if ties > 0 else None
        self.tie_move = nn.Parameter(torch.zeros(()), requires_grad=self.tie_start is not None)

    @property
    def log_ties(self) -> Float[Tensor, ""] | None:
        """log nu of Davidson's model; None where nobody said tie."""
        return None if self.tie_start is None else self.tie_start + RATE * self.tie_move

    def thresholds(self, name: str) -> Float[Tensor, "k"]:
        """In increasing order."""
        at = self.names.index(name)
        move, start = RATE * self.moves[at], self.starts[at].to(self.moves[at].device)
        steps = start.diff() * move[1:].exp()
        return torch.cat([start[:1] + move[:1], start[:1] + move[:1] + steps.cumsum(0)])

    def slope(self, name: str) -> Float[Tensor, ""]:
        """How much more decided the answers get with the score."""
        steep: Tensor = (RATE * self.slopes[self.names.index(name)]).exp()
        return steep

    def logprobs(self, name: str, score: Float[Tensor, "n"]) -> Float[Tensor, "n levels"]:
        """log P of each level of a question, lowest first; of a yes or no, (no, yes)."""
        thresholds, steep = self.thresholds(name), self.slope(name) * score
        return yes_logprobs(steep - thresholds) if len(thresholds) == 1 else rating_logprobs(steep, thresholds)

    @torch.no_grad()
    def as_config(self) -> dict[str, Any]:
        """For config.json, about the scores as they are now (see `moved`)."""
        questions = {
            name: {"slope": float(self.slope(name)), "thresholds": self.thresholds(name).tolist()}
            for name in self.names
        }
        return {"ties": None if self.log_ties is None else float(self.log_ties.exp()), "questions": questions}


def moved(questions: Mapping[str, Any], scales: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Stored questions where scores became gain * score + bias: (gain, bias) by criterion, the score's own under ""."""
    result = {}
    for name, asked in questions.items():
        gain, bias = scales.get(name.partition(":")[2], scales[""])
        slope = asked["slope"] / gain
        result[name] = {"slope": slope, "thresholds": [t + slope * bias for t in asked["thresholds"]]}
    return result


def _apart(start: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
    """Thresholds at least a little apart: a level that nobody chose keeps a probability."""
    if len(start) == 1:
        return start
    return torch.cat([start[:1], start[:1] + start.diff().clamp_min(0.05).cumsum(0)])


def width_of(config: Any, kept: Mapping[str, Any]) -> int:
    """Numbers that stored heads read; the model's own width where there are none."""
    return next((len(head["weight"]) for head in kept.values()), config.get_text_config().hidden_size)


class Heads(nn.Module):
    """Further scores of the same state: one for each criterion, or for each member of an ensemble."""

    def __init__(self, names: Sequence[str], width: int, seed: int, stored: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.names = list(names)
        weight = torch.empty(len(names), width)
        bias = torch.zeros(len(names))
        for place, name in enumerate(names):
            draw = torch.Generator().manual_seed(seed * 1009 + place + 1)
            weight[place] = torch.randn(width, generator=draw) / (width + 1) ** 0.5
            if stored and name in stored:
                weight[place] = torch.tensor(stored[name]["weight"])
                bias[place] = float(stored[name]["bias"])
        self.weight = nn.Parameter(weight, requires_grad=len(names) > 0)
        self.register_buffer("bias", bias)
        self.bias: Tensor

    @classmethod
    def stored(cls, config: Any) -> Heads:
        """Those that a reward model's config holds; none where it holds none."""
        kept = getattr(config, HEADS_KEY, None) or {}
        return cls(list(kept), width_of(config, kept), 0, kept)

    @property
    def members(self) -> list[int]:
        """Places of an ensemble's members."""
        return [place for place, name in enumerate(self.names) if name.startswith(MEMBER)]

    @property
    def criteria(self) -> list[str]:
        """Names of the criteria."""
        return [name for name in self.names if not name.startswith(MEMBER)]

    @property
    def main(self) -> list[int]:
        """Of (the score itself, then each head's), those that the score itself is learned through: it, or members."""
        return [1 + place for place in self.members] or [0]

    def columns_of(self, criterion: str | None) -> list[int]:
        """Those that an answer about a criterion is about: its head's, once for each of the main ones."""
        if criterion in self.criteria:
            return [1 + self.names.index(str(criterion))] * len(self.main)
        return self.main

    def forward(self, states: Float[Tensor, "n d"]) -> Float[Tensor, "n heads"]:
        """One score for each state and head, in float32."""
        return nn.functional.linear(states.float(), self.weight.float(), self.bias.float())

    @torch.no_grad()
    def scale(self, places: Sequence[int], gain: float, bias: float) -> None:
        """Their scores become gain * score + bias."""
        for place in places:
            self.weight[place] *= gain
            self.bias[place] = gain * self.bias[place] + bias

    @torch.no_grad()
    def as_config(self, temperatures: Mapping[str, float]) -> dict[str, Any]:
        """For config.json."""
        found: dict[str, Any] = {
            name: {"weight": [float(w) for w in self.weight[place]], "bias": float(self.bias[place])}
            for place, name in enumerate(self.names)
        }
        for name, heat in temperatures.items():
            found[name]["temperature"] = heat
        return found
