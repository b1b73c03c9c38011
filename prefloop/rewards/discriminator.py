"""A discriminator as a reward: who wrote this completion, a person or the policy? One value per completion.

Generative adversarial imitation (GAIL, Ho, Ermon 2016, https://arxiv.org/abs/1606.03476), adversarial inverse
reinforcement learning (AIRL, Fu et al. 2018, https://arxiv.org/abs/1710.11248), and RLGAF in our own formulation
(Yu et al. 2023, https://arxiv.org/abs/2305.06176, of which only the abstract and the opening could be read).
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

Kind = Literal["gail", "airl", "logit", "probability"]
"""gail: -log(1 - D); airl: log D - log(1 - D) where D knows log pi; logit and probability: RLGAF, ours."""


def discriminator_logits(scores: Float[Tensor, "n"], logprobs: Float[Tensor, "n"], kind: Kind) -> Float[Tensor, "n"]:
    """logit D, the log-odds of a person's hand. AIRL's is f - log pi, so that f alone is what does not depend on pi."""
    return scores - logprobs if kind == "airl" else scores


def discriminator_loss(logits: Float[Tensor, "n"], human: Bool[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Cross-entropy of D, in nats; log 2 where it cannot tell."""
    return binary_cross_entropy_with_logits(logits, human.to(logits.dtype), reduction="none")


def discriminator_reward(logits: Float[Tensor, "n"], kind: Kind) -> Float[Tensor, "n"]:
    """What a completion earns by passing for a person's: softplus(logit) for GAIL, at least 0; the logit; or D."""
    if kind == "gail":
        return softplus(logits)
    return torch.sigmoid(logits) if kind == "probability" else logits
