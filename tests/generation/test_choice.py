"""The choice of the next token: frequencies counted exactly, and the library's own processors as the reference."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from prefloop.generation import choice
from prefloop.generation.choice import Sampling, allowed, draw, inverse, nucleus


def evenly(n: int) -> torch.Tensor:
    """n numbers spread evenly over [0, 1)."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def counts(weights: list[float], n: int) -> dict[int, int]:
    return dict(Counter(inverse(torch.tensor([weights]).expand(n, -1), evenly(n)).tolist()))


def test_evenly_spread_numbers_give_each_token_its_share() -> None:
    """1, 2, 0 and 5 of 8, out of 800 numbers: 100, 200, none, 500. The total need not be 1."""
    assert counts([0.125, 0.25, 0.0, 0.625], 800) == {0: 100, 1: 200, 3: 500}
    assert counts([2.0, 4.0, 0.0, 10.0], 800) == {0: 100, 1: 200, 3: 500}


def test_shares_hold_across_blocks() -> None:
    """150 tokens, so three blocks, the last one not full: the weight sits at ends of blocks and in the last token."""
    weights = [0.0] * 150
    for token, weight in ((0, 1.0), (63, 2.0), (64, 3.0), (127, 4.0), (149, 6.0)):
        weights[token] = weight
    assert counts(weights, 1600) == {0: 100, 63: 200, 64: 300, 127: 400, 149: 600}


@pytest.mark.parametrize(("u", "token"), [(0.0, 1), (1 - 2**-53, 129)])
def test_the_ends_of_the_interval_never_choose_a_token_of_weight_0(u: float, token: int) -> None:
    weights = torch.zeros(1, 192)
    weights[0, [1, 70, 129]] = torch.tensor([1.0, 1e-30, 1.0])
    assert inverse(weights, torch.tensor([u], dtype=torch.float64)).tolist() == [token]


def single(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Apple's devices, which have no float64."""
    monkeypatch.setattr(choice, "widest", lambda device: torch.float32)


@pytest.mark.parametrize("total", [1.0, 1.0000001, 1.5, 3.0, 7.9999995])
@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-24, 1 - 2**-53, 1.0])
def test_without_float64_no_token_of_weight_0_is_chosen_either(
    u: float, total: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 - 2**-53 is 1 in float32; half of the weight is on token 1, half on 70, nothing behind it."""
    single(monkeypatch)
    weights = torch.zeros(1, 192)
    weights[0, [1, 70]] = total / 2
    found = inverse(weights, torch.tensor([u], dtype=torch.float64)).item()
    assert found == (1 if u == 0.0 else 70)


def test_without_float64_the_shares_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.rand(1, 1000, generator=torch.Generator().manual_seed(0))
    exact = inverse(weights.expand(5000, -1), evenly(5000))
    single(monkeypatch)
    found = inverse(weights.expand(5000, -1), evenly(5000))
    assert (found != exact).float().mean() < 0.01
    assert (found - exact).abs().max() <= 1


def test_a_rare_token_of_a_large_vocabulary_has_its_chance() -> None:
    """50,000 equal tokens and one a thousandth as likely, the last: it owns the last 1/50,000,001 of the interval."""
    weights = torch.ones(1, 50_001)
    weights[0, -1] = 1e-3
    share = 1e-3 / (50_000 + 1e-3)
    inside, outside = (torch.tensor([1 - f * share], dtype=torch.float64) for f in (0.9, 1.1))
    assert inverse(weights, inside).tolist() == [50_000]
    assert inverse(weights, outside).tolist() == [49_999]


def test_temperature_reshapes_the_odds() -> None:
    """At temperature 1/2 odds of 2 to 1 become 4 to 1."""
    logits = torch.tensor([[math.log(2.0), 0.0]]).expand(1000, 2)
    found = draw(logits, evenly(1000), Sampling(temperature=0.5))
    assert int((found.tokens == 0).sum()) == 800
    assert {round(value, 4) for value in found.logprobs.tolist()} == {-0.2231, -1.6094}


@pytest.mark.parametrize("narrowed", [{}, {"top_k": 1}, {"top_p": 0.1}, {"min_p": 1.0}])
def test_log_probabilities_are_of_the_whole_distribution(narrowed: dict[str, float]) -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
    found = draw(logits, torch.tensor([0.1]), Sampling(**narrowed), entropy=True)
    assert found.tokens.tolist() == [0]
    assert found.logprobs.tolist() == pytest.approx([math.log(0.5)], abs=1e-6)
    assert found.entropies is not None
    assert found.entropies.tolist() == pytest.approx([1.5 * math.log(2)], abs=1e-6)


def test_logits_of_minus_infinity_are_never_drawn_and_do_no_harm() -> None:
    logits = torch.tensor([[-math.inf, 0.0, 0.0, -math.inf]]).expand(100, 4)
    found = draw(logits, evenly(100), Sampling(), entropy=True)
    assert Counter(found.tokens.tolist()) == {1: 50, 2: 50}
    assert found.entropies is not None
    assert found.entropies.tolist() == pytest.approx([math.log(2)] * 100, abs=1e-6)


@pytest.mark.parametrize("top_k", [0, 1, 5, 40, 100])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3])
@pytest.mark.parametrize("min_p", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_same_tokens_are_allowed_as_by_the_librarys_processors(
    top_k: int, top_p: float, min_p: float, temperature: float
) -> None:
    """In the library's order: temperature, top-k, top-p, min-p."""
    logits = torch.randn(64, 40, generator=torch.Generator().manual_seed(5)) * 3
    processors = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        processors.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        processors.append(TopPLogitsWarper(top_p))
    if min_p:
        processors.append(MinPLogitsWarper(min_p))
    expected = processors(torch.zeros(64, 1, dtype=torch.long), logits.clone()) > -math.inf
    sampling = Sampling(top_k=top_k, top_p=top_p, min_p=min_p, temperature=temperature)
    assert torch.equal(allowed((logits / temperature).softmax(-1), sampling), expected)
    tokens = draw(logits, torch.rand(64, generator=torch.Generator().manual_seed(1)), sampling).tokens
    assert expected.gather(1, tokens[:, None]).all()


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.4, [False, True, False, False]),
        (0.5, [False, True, False, False]),
        (0.51, [True, True, False, False]),
        (0.9, [True, True, False, True]),
        (1.0, [True, True, True, True]),
        (1e-9, [False, True, False, False]),
    ],
)
def test_nucleus_is_the_smallest_set_that_reaches_top_p(top_p: float, kept: list[bool]) -> None:
    assert nucleus(torch.tensor([[0.25, 0.5, 0.0625, 0.1875]]), top_p).tolist() == [kept]


def test_a_nucleus_of_a_large_vocabulary_is_that_of_all_tokens_in_order() -> None:
    """Rows from peaked (a few tokens suffice) to flat (thousands are needed), in one batch."""
    sharpness = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.1])[:, None]
    p = (sharpness * torch.randn(5, 5000, generator=torch.Generator().manual_seed(0), dtype=torch.double)).softmax(-1)
    for top_p in (0.3, 0.9, 0.999):
        ordered, index = p.sort(-1, descending=True)
        expected = torch.zeros_like(p, dtype=torch.bool).scatter(1, index, ordered.cumsum(-1) - ordered < top_p)
        assert torch.equal(nucleus(p, top_p), expected)
    assert nucleus(p, 0.9).sum(-1).tolist() == sorted(nucleus(p, 0.9).sum(-1).tolist())
    assert nucleus(p, 0.9)[0].sum() < 256 < 2048 < nucleus(p, 0.9)[4].sum()


def test_what_remains_of_a_nucleus_is_drawn_in_proportion() -> None:
    """Of 1/4, 1/2, 1/16, 3/16 top-p 0.6 leaves two: two thirds to one third."""
    logits = torch.tensor([[0.25, 0.5, 0.0625, 0.1875]]).log().expand(300, 4)
    assert Counter(draw(logits, evenly(300), Sampling(top_p=0.6)).tokens.tolist()) == {0: 100, 1: 200}
