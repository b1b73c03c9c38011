"""Log-probabilities and entropies of chosen tokens, in float32 whatever the logits are in."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


def token_logprobs(logits: Float[Tensor, "*n V"], tokens: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """log softmax(logits)[token], in nats, without keeping the whole log-softmax for the backward pass."""
    flat = torch.nn.functional.cross_entropy(logits.float().flatten(0, -2), tokens.flatten(), reduction="none")
    return -flat.view(tokens.shape)


def token_entropy(logits: Float[Tensor, "*n V"]) -> Float[Tensor, "*n"]:
    """Entropy of softmax(logits), in nats."""
    logp = logits.float().log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)


def token_collision(logits: Float[Tensor, "*n V"]) -> Float[Tensor, "*n"]:
    """log sum_v softmax(logits)_v^2, in nats: how likely two draws agree (the norm of WPO's weights)."""
    return (2 * logits.float().log_softmax(-1)).logsumexp(-1)


CHUNK = 1 << 24
"""Logits that are held at once, in numbers (64 MiB of float32)."""
CACHED = 1 << 21
"""As many on a processor: what does not stay in its cache is read from memory again by every step of a softmax."""
LEAST = 128
"""But those of so many tokens at least: a product of fewer rows reads the whole head for little."""


def head_logprobs(
    hidden: Float[Tensor, "n d"],
    weight: Float[Tensor, "V d"],
    bias: Float[Tensor, "V"] | None,
    tokens: Int[Tensor, "n"],
    temperature: float = 1.0,
) -> Float[Tensor, "n"]:
    """log softmax((W h + b) / temperature)[token] in nats, float32, without the n x V logits in memory.

    Logits are made for some tokens at a time (`CHUNK`, `CACHED`), and again for the gradient, unless those are all of
    them: then they are kept.
    """
    result: Tensor = _HeadLogprobs.apply(hidden, weight, bias, tokens, temperature)  # type: ignore[no-untyped-call]
    return result


@torch.no_grad()
def head_logprobs_and_entropy(
    hidden: Float[Tensor, "n d"],
    weight: Float[Tensor, "V d"],
    bias: Float[Tensor, "V"] | None,
    tokens: Int[Tensor, "n"],
    temperature: float = 1.0,
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """What `head_logprobs` says, without a gradient, and the entropy of each softmax, in nats."""
    logprobs = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    entropy = torch.empty_like(logprobs)
    for part in _parts(len(hidden), _rows(weight)):
        logits = _scaled_logits(hidden[part], weight, bias, temperature)
        logits -= logits.logsumexp(-1, keepdim=True)
        logprobs[part] = logits.gather(-1, tokens[part, None])[:, 0]
        entropy[part] = -(logits.exp() * logits).sum(-1)
    return logprobs, entropy


class _HeadLogprobs(torch.autograd.Function):
    """With p the softmax and y the token: d log p_y / d logits = (onehot(y) - p) / temperature."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor, temperature: float
    ) -> Tensor:
        rows = _rows(weight)
        logprobs = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        normaliser = torch.empty_like(logprobs)
        keep = len(hidden) <= rows and any(ctx.needs_input_grad)
        kept = None
        for part in _parts(len(hidden), rows):
            logits = _scaled_logits(hidden[part], weight, bias, temperature)
            normaliser[part] = logits.logsumexp(-1)
            logprobs[part] = logits.gather(-1, tokens[part, None])[:, 0] - normaliser[part]
            kept = logits if keep else None
        ctx.save_for_backward(hidden, weight, bias, tokens, normaliser, kept)
        ctx.rows, ctx.temperature = rows, temperature
        return logprobs

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, tokens, normaliser, kept = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        d_hidden = torch.empty_like(hidden) if wanted[0] else None
        d_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if wanted[1] else None
        d_bias = torch.zeros(len(weight), dtype=torch.float32, device=weight.device) if wanted[2] else None
        for part in _parts(len(hidden), ctx.rows):
            logits = _scaled_logits(hidden[part], weight, bias, ctx.temperature) if kept is None else kept.clone()
            steps = slope[part, None] / ctx.temperature
            d_logits = logits.sub_(normaliser[part, None]).exp_().mul_(-steps)
            d_logits.scatter_add_(1, tokens[part, None], steps)
            if d_bias is not None:
                d_bias += d_logits.sum(0)
            d_logits = d_logits.to(weight.dtype)
            if d_hidden is not None:
                d_hidden[part] = d_logits @ weight
            if d_weight is not None:
                d_weight += d_logits.T @ hidden[part]
        return (
            d_hidden,
            None if d_weight is None else d_weight.to(weight.dtype),
            None if bias is None or d_bias is None else d_bias.to(bias.dtype),
            None,
            None,
        )


def _scaled_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    # In float32 before the division, as the sampler does: otherwise the two round differently.
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    return logits if temperature == 1.0 else logits.div_(temperature)


def _rows(weight: Float[Tensor, "V d"]) -> int:
    """Tokens whose logits are made at once."""
    if weight.device.type == "cpu":
        return max(LEAST, CACHED // len(weight))
    return max(1, CHUNK // len(weight))


def _parts(n: int, rows: int) -> list[slice]:
    return [slice(start, start + rows) for start in range(0, n, rows)]
