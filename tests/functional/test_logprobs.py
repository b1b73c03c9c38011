"""Log-probabilities and entropies, against distributions whose numbers are known."""

from __future__ import annotations

import math

import pytest
import torch

from prefloop.functional.logprobs import token_entropy, token_logprobs

QUARTERS = torch.tensor([[[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]]]).log() + 7.0
"""Logits are free up to a constant."""


def test_token_logprobs() -> None:
    found = token_logprobs(QUARTERS, torch.tensor([[1, 2]]))
    assert found.shape == (1, 2)
    assert found.flatten().tolist() == pytest.approx([math.log(0.25), math.log(0.75)], abs=1e-6)


def test_token_entropy() -> None:
    """1/2, 1/4, 1/4 has 1.5 bits; 1/8, 1/8, 3/4 has 3/4 - 3/4 log2(3/4) bits."""
    bits = [1.5, 0.75 - 0.75 * math.log2(0.75)]
    assert token_entropy(QUARTERS).flatten().tolist() == pytest.approx([b * math.log(2) for b in bits], abs=1e-6)


def test_against_the_whole_log_softmax_with_its_gradient() -> None:
    logits = torch.randn(5, 3, 11, generator=torch.Generator().manual_seed(0), requires_grad=True)
    tokens = torch.arange(15).view(5, 3) % 11
    found = token_logprobs(logits, tokens)
    expected = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), logits)[0])


def test_bfloat16_logits_are_summed_in_float32() -> None:
    """Over 4,096 equal logits the answer is -log 4096 = -8.3178; a sum in bfloat16 would stop near 256 terms."""
    logits = torch.zeros(1, 4096, dtype=torch.bfloat16)
    found = token_logprobs(logits, torch.tensor([7]))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(-8.317766, abs=1e-5)
    assert token_entropy(logits).item() == pytest.approx(8.317766, abs=1e-4)
