"""One latent score, many ways to say what one thinks of it: the likelihood of each kind of answer given the scores.

A completion has a score r. A comparison depends on the difference of two scores (Bradley and Terry 1952; with ties
Davidson 1970), a ranking on all of a prompt's (Plackett 1975, Luce 1959), a rating on r and four thresholds (ordinal
logit, McCullagh 1980), an approval or a flag on r and one threshold (logistic). Each function gives log-probabilities
of everything that could have been said, so that weights, soft labels and label noise are the same for every kind.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

MARGINS = {"small": 1 / 3, "large": 1.0}
"""Margin for each step of strength, 0 (no difference) to 3 (much better): Touvron et al. 2023, table 27."""


def comparison_logprobs(difference: Float[Tensor, "n"], log_ties: Float[Tensor, ""] | None) -> Float[Tensor, "n c"]:
    """log P of (first, second) is better; with `log_ties` = log nu of (first, second, neither): Davidson 1970, eq. 2.4.

    P(first) : P(tie) : P(second) = exp(d / 2) : nu : exp(-d / 2). Without ties that is Bradley-Terry, sigmoid(d); with
    them sigmoid(d) is the probability of the first among those who see a difference.
    """
    sides = [difference / 2, -difference / 2]
    if log_ties is not None:
        sides.append(log_ties.expand_as(difference))
    return torch.stack(sides, dim=1).log_softmax(dim=1)


def rating_logprobs(
    score: Float[Tensor, "n"], thresholds: Float[Tensor, "levels_less_one"]
) -> Float[Tensor, "n levels"]:
    """log P of each level, lowest first, where P(at most level k) = sigmoid(threshold_k - score). Ordinal logit.

    `thresholds` increase. The difference of two sigmoids is taken in logarithms, so that no level's vanishes.
    """
    infinity = thresholds.new_full((1,), math.inf)
    edges = torch.cat([-infinity, thresholds, infinity])
    low, high = edges[:-1] - score[:, None], edges[1:] - score[:, None]
    # sigmoid(high) - sigmoid(low) = sigmoid(high) sigmoid(-low) (1 - exp(low - high))
    return logsigmoid(high) + logsigmoid(-low) + torch.log1p(-(edges[:-1] - edges[1:]).exp())


def yes_logprobs(logit: Float[Tensor, "n"]) -> Float[Tensor, "n 2"]:
    """log P of (no, yes): an approval, or nothing to flag."""
    return torch.stack([logsigmoid(-logit), logsigmoid(logit)], dim=1)


def plackett_luce(
    scores: Float[Tensor, "n K"], ranks: Float[Tensor, "n K"], valid: Bool[Tensor, "n K"], noise: float = 0.0
) -> Float[Tensor, "n"]:
    """-log P of each ranking: the best is chosen of all with odds exp(r), then the next best of those that are left.

    `ranks`: 1 is best, equal is a tie. Tied ones are each chosen from the same rest (Breslow 1974), and the order
    among the last says nothing: one best and the others equal is the choice of one of K (Ziegler et al. 2019, eq. 1).
    `noise` is mixed into every choice.
    """
    rest = (ranks[:, None, :] >= ranks[:, :, None]) & valid[:, None, :]
    last = ranks.masked_fill(~valid, -math.inf).amax(dim=1, keepdim=True)
    chosen = valid & (ranks < last)
    spread = torch.where(rest, scores[:, None, :], scores.new_tensor(-math.inf)).masked_fill(~valid[:, :, None], 0.0)
    logprobs = with_noise(scores - spread.logsumexp(dim=2), rest.sum(dim=2).clamp_min(1), noise)
    return -torch.where(chosen, logprobs, 0.0).sum(dim=1)


def all_pairs(
    scores: Float[Tensor, "n K"], ranks: Float[Tensor, "n K"], valid: Bool[Tensor, "n K"], noise: float = 0.0
) -> Float[Tensor, "n"]:
    """Mean over a prompt's pairs of -log sigmoid(r_better - r_worse): InstructGPT (Ouyang et al. 2022), eq. 1.

    A tied pair is half of each. One value for a prompt: its pairs are one element of a batch, however many they are.
    """
    upper = torch.ones(scores.shape[1], scores.shape[1], dtype=torch.bool, device=scores.device).triu(1)
    pair = upper & valid[:, None, :] & valid[:, :, None]
    difference = scores[:, :, None] - scores[:, None, :]
    first = torch.sign(ranks[:, None, :] - ranks[:, :, None]) / 2 + 0.5
    loss = -first * with_noise(logsigmoid(difference), 2, noise)
    loss = loss - (1 - first) * with_noise(logsigmoid(-difference), 2, noise)
    return torch.where(pair, loss, 0.0).sum(dim=(1, 2)) / pair.sum(dim=(1, 2)).clamp_min(1)


def cross_entropy(logprobs: Float[Tensor, "n c"], said: Float[Tensor, "n c"], noise: float = 0.0) -> Float[Tensor, "n"]:
    """-sum of said * log P, in nats: `said` (rows sum to 1) are the shares of the answers, or one of them."""
    return -(said * with_noise(logprobs, logprobs.shape[1], noise)).sum(dim=1)


def with_noise(logprobs: Tensor, outcomes: Tensor | int, noise: float) -> Tensor:
    """log((1 - noise) P + noise / outcomes): a share `noise` of the answers is drawn blindly.

    Christiano et al. 2017, section 2.2.3, with noise 0.1 and two outcomes: no answer costs more than -log 0.05.
    """
    if noise == 0.0:
        return logprobs
    blind = math.log(noise) - torch.as_tensor(outcomes, dtype=logprobs.dtype, device=logprobs.device).log()
    return torch.logaddexp(logprobs + math.log1p(-noise), blind)


def difference_spread(scores: Float[Tensor, "m k"]) -> Float[Tensor, "m"]:
    """J: how far a reward model tells the k completions of a prompt apart. MetaRM (Dou et al. 2024).

    (2 / k^2) * sum over pairs of sigmoid(|r_i - r_j|): (k - 1) / (2 k) for equal scores, below (k - 1) / k always.
    Exact ties have no gradient.
    """
    k = scores.shape[1]
    upper = torch.ones(k, k, dtype=torch.bool, device=scores.device).triu(1)
    apart = (scores[:, :, None] - scores[:, None, :])[:, upper].abs()
    return 2 / k**2 * apart.sigmoid().sum(dim=1)
