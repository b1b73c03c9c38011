"""Log-probabilities and entropies of chosen tokens, in float32 whatever the logits are in."""

from __future__ import annotations

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
