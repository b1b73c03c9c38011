"""Losses on the difference of two scores or log-ratios; one value per pair."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry(
    difference: Float[Tensor, "n"], label: Float[Tensor, "n"], margin: Float[Tensor, "n"] | float = 0.0
) -> Float[Tensor, "n"]:
    """-p log sigmoid(d - m) - (1 - p) log sigmoid(m - d): Bradley-Terry with a soft label p and a margin m.

    `difference` is score(chosen) - score(rejected); p = 1 is the hard label. With the difference beta * z, where z is
    the difference of two policy/reference log-ratios, this is DPO (Rafailov et al. 2023, eq. 7), and cDPO when p < 1.
    The margin is Llama 2's (Touvron et al. 2023, eq. 2).
    """
    d = difference - margin
    return -label * logsigmoid(d) - (1 - label) * logsigmoid(-d)
