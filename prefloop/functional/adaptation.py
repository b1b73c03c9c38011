"""A few gradient steps of a linear head on a few comparisons, which can be differentiated through."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def adapted_head(
    head: Float[Tensor, "d"],
    differences: Float[Tensor, "n d"],
    label: Float[Tensor, "n"],
    weight: Float[Tensor, "n"],
    rates: Float[Tensor, "d"],
    steps: int,
) -> Float[Tensor, "d"]:
    """w <- w - rates * grad, `steps` times, of the weighted mean of Bradley-Terry's loss of logits `differences @ w`.

    `differences` are the state of the chosen side less that of the rejected one, `label` the probability that the
    chosen one is better. The gradient, sum_i (sigmoid(w . d_i) - p_i) d_i, is written out, so autograd goes through the
    steps as through any other expression: what comes out has its exact second-order derivatives (MAML: Finn et al.
    2017, https://arxiv.org/abs/1703.03400, eq. 1; with a rate for each parameter Meta-SGD, Li et al. 2017,
    https://arxiv.org/abs/1707.09835; the head alone ANIL, Raghu et al. 2020, https://arxiv.org/abs/1909.09157).
    """
    for _ in range(steps):
        error = weight * ((differences @ head).sigmoid() - label)
        head = head - rates * (error @ differences) / weight.sum()
    return head
