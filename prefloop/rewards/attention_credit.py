"""Which tokens earned the score: by the reward model's attention, evenly, or by what people marked.

Chan et al. 2024, Dense Reward for Free in RLHF (ABC, arXiv 2402.00782): the attention that the reward model's last
layer pays to each token of the completion, from the token where the score is read, says how much of the score it gets.
The shares of a completion sum to 1, so its return without discount, and with it the best policy, is what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from prefloop.datasets.collate import completion_mask, pad
from prefloop.errors import InputError
from prefloop.functional.credit import at_the_end, blended, evenly, in_proportion
from prefloop.models.heads import ScoreHead
from prefloop.models.template import Encoded

Credit = Callable[
    [Int[Tensor, "B L"], Int[Tensor, "B"], Bool[Tensor, "B T"], Float[Tensor, "B"], Sequence[Sequence[str]]],
    Float[Tensor, "B T"],
]
"""(ids, starts, valid, scores, the text of each token of each completion) -> shares that sum to 1 in every row."""


ROWS_AT_ONCE = 16
"""The weights of all layers are held at once: rows x layers x heads x tokens x tokens."""


@dataclass(frozen=True, kw_only=True)
class CreditSettings:
    """How a completion's score is spread over its tokens."""

    by: Literal["end", "evenly", "attention", "marks"] = "attention"
    """The last token; all alike; the reward model's attention (ABC); phrases that people marked."""
    beta: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Share of the score that is spread; the rest stays on the last token. 0 is the sparse reward."""
    good: list[str] = field(default_factory=list)
    """Phrases that people marked as good: they earn a score above 0; used with marks."""
    bad: list[str] = field(default_factory=list)
    """Phrases that people marked as bad: they bear a score below 0; used with marks."""
    spans: str | None = None
    """A snapshot or file of edits, whose marked passages are such phrases: good with `good: true`, else bad; used with
    marks."""


def attention(head: ScoreHead) -> Credit:
    """Credit by the last layer's attention, mean over its heads, from the completion's last token.

    The reward model has to have the policy's tokenizer: its attention is to the very tokens that were sampled.
    Raises InputError for a model that cannot tell its attention.
    """
    config = head.model.config
    if getattr(config, "_attn_implementation", "eager") != "eager":
        head.model.set_attn_implementation("eager")  # the fused kernels never form the weights

    @torch.no_grad()
    def some(ids: Tensor, starts: Tensor, valid: Tensor) -> Tensor:
        found = head.trunk.body(input_ids=ids, use_cache=False, output_attentions=True).attentions
        if not found or found[-1] is None:
            raise InputError(f"{type(head.model).__name__} does not tell its attention; use another rule of credit")
        row = torch.arange(len(ids), device=ids.device)
        last = starts + valid.sum(1) - 1
        paid = found[-1].float().mean(1)[row, last]
        columns = (starts[:, None] + torch.arange(valid.shape[1], device=ids.device)).clamp_max(ids.shape[1] - 1)
        return in_proportion(paid.gather(1, columns), valid)

    def shares(ids: Tensor, starts: Tensor, valid: Tensor, scores: Tensor, tokens: Sequence[Sequence[str]]) -> Tensor:
        chunks = zip(ids.split(ROWS_AT_ONCE), starts.split(ROWS_AT_ONCE), valid.split(ROWS_AT_ONCE), strict=True)
        return torch.cat([some(*chunk) for chunk in chunks])

    return shares


def marks(good: Sequence[str], bad: Sequence[str]) -> Credit:
    """Credit by phrases that people marked: good ones earn scores above 0, bad ones bear those below 0.

    Every token that a phrase touches counts alike, upper or lower case; where no phrase of the score's sign occurs the
    score is spread evenly.
    """
    if not [*good, *bad]:
        raise InputError("credit by marks needs phrases: good, bad, or both")

    def shares(ids: Tensor, starts: Tensor, valid: Tensor, scores: Tensor, tokens: Sequence[Sequence[str]]) -> Tensor:
        marked = torch.zeros(valid.shape)
        for row, (pieces, score) in enumerate(zip(tokens, scores.tolist(), strict=True)):
            marked[row, : len(pieces)] = torch.tensor(touched(pieces, good if score > 0 else bad))
        return in_proportion(marked.to(valid.device), valid)

    return shares


def touched(pieces: Sequence[str], phrases: Sequence[str]) -> list[float]:
    """1 for each piece of a text that one of the phrases overlaps, else 0."""
    text = "".join(pieces).lower()
    inside = [False] * len(text)
    for phrase in phrases:
        at = text.find(phrase.lower()) if phrase else -1
        while at >= 0:
            inside[at : at + len(phrase)] = [True] * len(phrase)
            at = text.find(phrase.lower(), at + 1)
    result, first = [], 0
    for piece in pieces:
        result.append(float(any(inside[first : first + len(piece)])))
        first += len(piece)
    return result


def credit_of(settings: CreditSettings, head: ScoreHead | None) -> Credit:
    """The rule of credit that the settings name. Raises InputError for attention without a reward model."""
    if settings.by == "attention":
        if head is None:
            raise InputError("credit by attention needs a reward model whose attention it can read; use by: evenly")
        rule = attention(head)
    elif settings.by == "marks":
        rule = marks(settings.good, settings.bad)
    else:
        share = at_the_end if settings.by == "end" else evenly

        def rule(ids: Tensor, starts: Tensor, valid: Tensor, scores: Tensor, tokens: Sequence[Sequence[str]]) -> Tensor:
            return share(valid)

    return lambda ids, starts, valid, scores, tokens: blended(
        rule(ids, starts, valid, scores, tokens), valid, settings.beta
    )


def earned(head: ScoreHead, texts: Sequence[Encoded], scores: Sequence[float]) -> list[list[float]]:
    """What each token of each completion earned of its text's score, by attention; a text's add up to its score.

    Raises InputError for a model that cannot tell its attention, or has none for each token (an encoder).
    """
    device = head.trunk.full.device
    counts = [text.completion_length for text in texts]
    valid = completion_mask([0] * len(texts), counts, max(counts)).to(device)
    starts = torch.tensor([text.prompt_length for text in texts], device=device)
    value = torch.tensor(list(scores), device=device)
    shares = attention(head)(pad([text.ids for text in texts], 0).to(device), starts, valid, value, [])
    return [row[:n] for row, n in zip((shares * value[:, None]).tolist(), counts, strict=True)]
