"""How the next token is chosen from its logits: temperature, then top-k, top-p and min-p, then one uniform number.

The token is the inverse of the cumulative distribution at that number, found block by block: noise for every entry of
the vocabulary would cost more than the whole network of a small model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefloop.errors import InputError
from prefloop.models.device import widest

BLOCK = 64
"""Entries of the vocabulary whose probabilities are first summed, then, in the chosen block, looked at one by one."""

FIRST = 256
"""Tokens of a row among which those of `top_p` are looked for first; eight times as many where they do not reach it."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How completions are drawn; the defaults are the policy itself, unaltered."""

    max_new_tokens: int = 128
    """Completions are cut off after so many tokens."""
    temperature: float = 1.0
    """Logits are divided by it; 0 takes the likeliest token."""
    top_k: int = 0
    """Only so many of the likeliest tokens are drawn, and those that tie with the last of them; 0 draws from all."""
    top_p: float = 1.0
    """Only the likeliest tokens that together hold this probability are drawn; 1 draws from all."""
    min_p: float = 0.0
    """Only tokens at least this many times as likely as the likeliest are drawn; 0 draws from all."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion; its text ends before them."""

    def check(self) -> None:
        """Raises InputError for values that mean nothing."""
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.max_new_tokens < 1:
            raise InputError(
                "sampling needs temperature >= 0, 0 < top_p <= 1 and max_new_tokens >= 1, got "
                f"{self.temperature}, {self.top_p} and {self.max_new_tokens}"
            )
        if self.top_k < 0 or not 0 <= self.min_p <= 1:
            raise InputError(f"sampling needs top_k >= 0 and 0 <= min_p <= 1, got {self.top_k} and {self.min_p}")
        if "" in self.stop:
            raise InputError("a stop string is empty: it would end every completion before it begins")

    @property
    def narrows(self) -> bool:
        """Some tokens are never drawn."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


@dataclass(frozen=True)
class Drawn:
    """One token for each row of logits; log-probability and entropy are those of softmax(logits / temperature), whole
    also where the sampling narrowed what was drawn from."""

    tokens: Int[Tensor, "S"]
    logprobs: Float[Tensor, "S"]
    entropies: Float[Tensor, "S"] | None


def draw(
    logits: Float[Tensor, "S V"],
    uniforms: Float[Tensor, "S"],
    sampling: Sampling,
    *,
    entropy: bool = False,
    only: Bool[Tensor, "S V"] | None = None,
) -> Drawn:
    """Row i's token is decided by `uniforms[i]`, in [0, 1), double precision; it is none for which `only` is False."""
    x = logits.float()
    if sampling.temperature not in (0, 1):
        x = x / sampling.temperature
    top = x.amax(-1, keepdim=True)
    weights = (x - top).exp_()
    total = weights.sum(-1, keepdim=True)
    open_to = x if only is None else x.masked_fill(~only, -torch.inf)
    if sampling.temperature == 0:
        tokens = open_to.argmax(-1)
    else:
        kept = weights if only is None else (open_to - open_to.amax(-1, keepdim=True)).exp_()
        if sampling.narrows:
            kept = kept.where(allowed(kept / kept.sum(-1, keepdim=True), sampling), 0.0)
        tokens = inverse(kept, uniforms)
    logprobs = (x.gather(1, tokens[:, None]) - top - total.log())[:, 0]
    # H = log Z - E[x]; a weight of 0 contributes nothing, also where its logit is -inf.
    entropies = None
    if entropy:
        mean = (weights * (x - top).masked_fill(weights == 0, 0.0)).sum(-1, keepdim=True) / total
        entropies = (total.log() - mean)[:, 0]
    return Drawn(tokens, logprobs, entropies)


def inverse(weights: Float[Tensor, "S V"], uniforms: Float[Tensor, "S"]) -> Int[Tensor, "S"]:
    """The token at which each row's cumulative weight passes `uniforms` times its total; never one of weight 0."""
    if rest := weights.shape[1] % BLOCK:
        weights = torch.nn.functional.pad(weights, (0, BLOCK - rest))
    blocks = weights.unflatten(1, (-1, BLOCK))
    exact = widest(weights.device)
    # The largest share that is less than 1 also after a product is rounded. In float64 no uniform number is above it.
    most = 1 - (1e-12 if exact is torch.float64 else torch.finfo(exact).eps)
    upto = blocks.sum(-1, dtype=exact).cumsum(-1)
    goal = (uniforms.double() if exact is torch.float64 else uniforms.to(exact).clamp_max(most)) * upto[:, -1]
    block = (upto <= goal[:, None]).sum(-1).clamp_max(upto.shape[1] - 1)[:, None]
    end = upto.gather(1, block)[:, 0]
    row = torch.arange(len(weights), device=weights.device)
    inside = blocks[row, block[:, 0]].to(exact).cumsum(-1)
    # Counted from the block's end, whose cumulative weight is known, and as a share of what the block itself sums to.
    share = 1 - (end - goal) / inside[:, -1]
    within = (inside <= (share.clamp(0, most) * inside[:, -1])[:, None]).sum(-1)
    token: Tensor = block[:, 0] * BLOCK + within
    return token


def allowed(p: Float[Tensor, "S V"], sampling: Sampling) -> Bool[Tensor, "S V"]:
    """True for the tokens that may be drawn: top-k, then top-p and min-p of the rest, in transformers' order."""
    kept = torch.ones_like(p, dtype=torch.bool)
    if 0 < sampling.top_k < p.shape[1]:
        kept = p >= p.topk(sampling.top_k, -1).values[:, -1:]
        p = p.where(kept, 0.0)
        p = p / p.sum(-1, keepdim=True)
    if sampling.top_p < 1:
        kept = kept & nucleus(p, sampling.top_p)
    if sampling.min_p > 0:
        kept = kept & (p >= sampling.min_p * p.amax(-1, keepdim=True))
    return kept


def nucleus(p: Float[Tensor, "S V"], top_p: float) -> Bool[Tensor, "S V"]:
    """True for the likeliest tokens of each row that together reach `top_p`; at least one.

    No more are put in order than it takes: all of a vocabulary cost more than a small model's forward pass.
    """
    result = torch.zeros_like(p, dtype=torch.bool)
    rows, looked = torch.arange(len(p), device=p.device), FIRST
    while len(rows):
        looked = min(looked, p.shape[1])
        values, index = p[rows].topk(looked, -1)
        upto = values.cumsum(-1)
        result[rows] = result[rows].scatter(1, index, upto - values < top_p)
        rows = rows[upto[:, -1] < top_p] if looked < p.shape[1] else rows[:0]
        looked *= 8
    return result
