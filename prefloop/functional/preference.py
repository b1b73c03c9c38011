"""Losses on scores, rewards and log-ratios of completions that people compared or judged; one value per pair or row.

A reward here is beta * h, with h = log pi(y|x) - log ref(y|x) summed over the completion's tokens, unless a method
scores completions otherwise. Direct methods differ in two lines: what a completion's reward is, and what a pair of
rewards costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

Floats = Float[Tensor, "n"]
PairLoss = Callable[[Tensor, Tensor], Tensor]
"""(reward of the chosen, reward of the rejected) -> loss, when the chosen one is the better."""


def bradley_terry(difference: Floats, label: Floats, margin: Floats | float = 0.0) -> Floats:
    """-p log sigmoid(d - m) - (1 - p) log sigmoid(m - d): Bradley-Terry with a soft label p and a margin m.

    `difference` is score(chosen) - score(rejected); p = 1 is the hard label. With the difference beta * z, where z is
    the difference of two policy/reference log-ratios, this is DPO (Rafailov et al. 2023, eq. 7), and cDPO when p < 1.
    The margin is Llama 2's (Touvron et al. 2023, eq. 2).
    """
    d = difference - margin
    return -label * logsigmoid(d) - (1 - label) * logsigmoid(-d)


# What is known of the label


def expected(loss: PairLoss, chosen: Floats, rejected: Floats, label: Floats) -> Floats:
    """p L(chosen, rejected) + (1 - p) L(rejected, chosen): any pair loss when the label is a probability p."""
    return label * loss(chosen, rejected) + (1 - label) * loss(rejected, chosen)


def smoothed(label: Floats, share: float) -> Floats:
    """The label when a share e of the answers is wrong: (1 - e) p + e (1 - p). With it DPO is conservative DPO."""
    return (1 - 2 * share) * label + share


def unsmoothed(label: Floats, share: float) -> Floats:
    """(p - e) / (1 - 2 e), which undoes `smoothed`: a loss that is linear in the label becomes unbiased.

    With it DPO is robust DPO (Chowdhury et al. 2024, https://arxiv.org/abs/2403.00409, eq. 12). It may lie outside
    0..1; then the loss has no lower bound.
    """
    return (label - share) / (1 - 2 * share)


# What leaving the reference costs: f'(pi / ref) of the divergence, and so the reward up to beta


def alpha_score(ratio: Floats, alpha: float) -> Floats:
    """(1 - u^-alpha) / alpha of u = exp(ratio): f' of the alpha-divergence (Wang et al. 2023, 2309.16240, table 1).

    alpha = 0 is the reverse KL (the ratio itself: DPO), alpha = 1 the forward KL (1 - 1/u).
    """
    if alpha == 0:
        return ratio
    return (1 - (-alpha * ratio).clamp(max=80.0).exp()) / alpha  # float32 ends at e^88


def js_score(ratio: Floats) -> Floats:
    """log(2 u / (1 + u)) of u = exp(ratio): f' of the Jensen-Shannon divergence."""
    return math.log(2) + logsigmoid(ratio)


# Losses of the difference of two rewards


def logistic(chosen: Floats, rejected: Floats) -> Floats:
    """-log sigmoid(c - r): DPO (Rafailov et al. 2023, eq. 7)."""
    return -logsigmoid(chosen - rejected)


def hinge(chosen: Floats, rejected: Floats) -> Floats:
    """max(0, 1 - (c - r)): SLiC-HF's loss on DPO's rewards (Liu et al. 2023, https://arxiv.org/abs/2309.06657)."""
    return relu(1 - (chosen - rejected))


def ipo(chosen: Floats, rejected: Floats, tau: float) -> Floats:
    """(z - 1 / (2 tau))^2 of rewards tau h, z = h_c - h_r (Azar et al. 2023, arXiv 2310.12036, eq. 17)."""
    return ((chosen - rejected - 0.5) / tau).square()


def discopop(chosen: Floats, rejected: Floats, temperature: float = 0.05) -> Floats:
    """Logistic where c < r, exponential where c > r (Lu et al. 2024, https://arxiv.org/abs/2406.08414, eq. 5)."""
    d = chosen - rejected
    far = torch.sigmoid(d / temperature)
    return (1 - far) * -logsigmoid(d) + far * torch.exp(-d)


def exo(chosen: Floats, rejected: Floats, label: Floats) -> Floats:
    """KL(sigmoid(c - r) || p), DPO's divergence the other way round (Ji et al. 2024, 2402.00856, eq. 16); 0 < p < 1."""
    q, d = torch.sigmoid(chosen - rejected), chosen - rejected
    return q * (logsigmoid(d) - label.log()) + (1 - q) * (logsigmoid(-d) - (1 - label).log())


# Losses that judge each completion against the reference on its own


def apo_zero(chosen: Floats, rejected: Floats) -> Floats:
    """Chosen up, rejected down (D'Oosterlinck et al. 2024, https://arxiv.org/abs/2408.06266, eq. 7)."""
    return 1 - torch.sigmoid(chosen) + torch.sigmoid(rejected)


def apo_down(chosen: Floats, rejected: Floats) -> Floats:
    """Both down, rejected further (the same, eq. 8)."""
    return torch.sigmoid(chosen) + 1 - torch.sigmoid(chosen - rejected)


def nca(chosen: Floats, rejected: Floats) -> Floats:
    """Chosen up, each a little down (Chen et al. 2024, https://arxiv.org/abs/2402.05369, with two completions)."""
    return -logsigmoid(chosen) - 0.5 * (logsigmoid(-chosen) + logsigmoid(-rejected))


def bco(chosen: Floats, rejected: Floats) -> Floats:
    """A classifier of chosen and rejected (Jung et al. 2024, https://arxiv.org/abs/2404.04656, without its shift)."""
    return -logsigmoid(chosen) - logsigmoid(-rejected)


def sppo(chosen: Floats, rejected: Floats, beta: float) -> Floats:
    """(h_c - 1 / (2 beta))^2 + (h_r + 1 / (2 beta))^2 (Wu et al. 2024, arXiv 2405.00675, hard labels)."""
    return ((chosen - 0.5) / beta).square() + ((rejected + 0.5) / beta).square()


def kto(reward: Floats, zero: Float[Tensor, ""], label: Floats, desirable: float, undesirable: float) -> Floats:
    """Prospect theory on single completions (Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306, eq. 8).

    `zero` is beta times the KL estimate z0, from which gains and losses are counted; `label` the probability that the
    completion is approved. A gain costs desirable (1 - sigmoid(r - z)), a loss undesirable (1 - sigmoid(z - r)).
    """
    gain, loss = torch.sigmoid(zero - reward), torch.sigmoid(reward - zero)
    return label * desirable * gain + (1 - label) * undesirable * loss


def log_odds(mean_logprob: Floats) -> Floats:
    """log(P / (1 - P)) of P = exp(mean log-probability per token) (ORPO: Hong et al. 2024, 2403.07691, eq. 4).

    Above 1 - 1e-6 the odds are held: float32 has no more digits there.
    """
    m = mean_logprob.clamp(max=-1e-6)
    near = m > -math.log(2)  # log(1 - e^m): each form where it keeps its digits (Maechler 2012)
    left = torch.log(-torch.expm1(m.where(near, -torch.ones_like(m))))
    right = torch.log1p(-torch.exp(m.where(~near, -torch.ones_like(m))))
    return m - left.where(near, right)
