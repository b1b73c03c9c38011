"""Log-probabilities and entropies, against distributions whose numbers are known."""

from __future__ import annotations

import math

import pytest
import torch

from prefloop.functional import logprobs
from prefloop.functional.logprobs import head_logprobs, head_logprobs_and_entropy, token_entropy, token_logprobs

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


@pytest.mark.parametrize("rows", [100, 3, 1])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_head_in_chunks_is_the_head_at_once(
    rows: int, temperature: float, with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven tokens, fifty words: all at once, three at a time, one at a time; values and every gradient."""
    monkeypatch.setattr(logprobs, "_rows", lambda weight: rows)
    draw = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(7, 4, generator=draw), torch.randn(50, 4, generator=draw)
    bias = torch.randn(50, generator=draw) if with_bias else None
    tokens, slopes = torch.randint(50, (7,), generator=draw), torch.randn(7, generator=draw)
    inputs = [t.requires_grad_() for t in (hidden, weight, bias) if t is not None]
    logits = torch.nn.functional.linear(hidden, weight, bias) / temperature
    expected = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    found = head_logprobs(hidden, weight, bias, tokens, temperature)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    before = torch.autograd.grad((expected * slopes).sum(), inputs)
    after = torch.autograd.grad((found * slopes).sum(), inputs)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
    both = head_logprobs_and_entropy(hidden, weight, bias, tokens, temperature)
    torch.testing.assert_close(both, (expected, token_entropy(logits)), atol=1e-5, rtol=0)
    assert not both[0].requires_grad


def test_only_what_is_trained_gets_a_gradient() -> None:
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(9, 4)
    head_logprobs(hidden, weight, None, torch.tensor([1, 2, 3])).sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_the_logits_of_a_large_vocabulary_are_never_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward, no more than a chunk of rows goes through the head at a time."""
    monkeypatch.setattr(logprobs, "CACHED", 4 * 1000)
    monkeypatch.setattr(logprobs, "LEAST", 1)
    rows: list[int] = []
    honest = logprobs._scaled_logits
    monkeypatch.setattr(logprobs, "_scaled_logits", lambda h, *rest: (rows.append(len(h)), honest(h, *rest))[1])
    hidden, weight = torch.randn(10, 4, requires_grad=True), torch.randn(1000, 4)
    head_logprobs(hidden, weight, None, torch.arange(10)).sum().backward()
    assert rows == [4, 4, 2, 4, 4, 2]
    monkeypatch.setattr(logprobs, "LEAST", 6)
    rows.clear()
    head_logprobs_and_entropy(hidden, weight, None, torch.arange(10))
    assert rows == [6, 4]


def test_an_accelerator_makes_more_logits_at_once() -> None:
    assert logprobs._rows(torch.empty(1 << 14, 1)) == 128
    assert logprobs._rows(torch.empty(1 << 20, 1)) == 128
    assert logprobs._rows(torch.empty(1 << 14, 1, device="meta")) == 1024
    assert logprobs._rows(torch.empty(1 << 25, 1, device="meta")) == 1
