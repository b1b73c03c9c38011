"""Likelihoods by hand: equal scores, two outcomes, noise, margins; gradients against finite differences; recovery."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from prefloop.functional.feedback import (
    MARGINS,
    all_pairs,
    comparison_logprobs,
    cross_entropy,
    difference_spread,
    plackett_luce,
    rating_logprobs,
    with_noise,
    yes_logprobs,
)
from prefloop.functional.preference import bradley_terry

LOG3 = math.log(3)
RANKS = torch.tensor([[1.0, 2, 3, 4]])
ALL = torch.ones(1, 4, dtype=torch.bool)


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.double)


def test_equal_scores_cost_log_2_for_pairs_and_log_k_factorial_for_a_ranking() -> None:
    scores = torch.full((1, 4), 0.7)
    assert all_pairs(scores, RANKS, ALL).item() == pytest.approx(math.log(2))
    assert plackett_luce(scores, RANKS, ALL).item() == pytest.approx(3.178, abs=5e-4)


def test_two_completions_are_bradley_terry_in_every_form() -> None:
    difference, one = t(LOG3, -0.4), torch.ones(2, dtype=torch.double)
    expected = bradley_terry(difference, one)
    scores, both = torch.stack([difference, torch.zeros(2, dtype=torch.double)], 1), torch.ones(2, 2, dtype=torch.bool)
    ranks = torch.tensor([[1.0, 2], [1, 2]])
    assert expected[0].item() == pytest.approx(-math.log(0.75))
    for found in (
        plackett_luce(scores, ranks, both),
        all_pairs(scores, ranks, both),
        cross_entropy(comparison_logprobs(difference, None), torch.tensor([[1.0, 0], [1, 0]], dtype=torch.double)),
    ):
        torch.testing.assert_close(found, expected)


def test_a_ranking_by_hand_and_it_is_not_the_mean_of_its_pairs() -> None:
    """Odds 4 : 2 : 1. P = 4/7 * 2/3; the pairs are won with 2/3, 4/5 and 2/3."""
    scores, ranks, valid = t(math.log(4), math.log(2), 0.0)[None], t(1, 2, 3)[None], torch.ones(1, 3, dtype=torch.bool)
    assert plackett_luce(scores, ranks, valid).item() == pytest.approx(-math.log(4 / 7 * 2 / 3))
    mean = -(2 * math.log(2 / 3) + math.log(4 / 5)) / 3
    assert all_pairs(scores, ranks, valid).item() == pytest.approx(mean)
    # listed in another order, and with a place that is not filled, it is the same ranking
    mixed, place = t(9.0, 0.0, math.log(4), math.log(2))[None], t(1, 3, 1, 2)[None]
    filled = torch.tensor([[False, True, True, True]])
    assert plackett_luce(mixed, place, filled).item() == pytest.approx(-math.log(4 / 7 * 2 / 3))
    assert all_pairs(mixed, place, filled).item() == pytest.approx(mean)


def test_the_rankings_of_three_have_probabilities_that_sum_to_one() -> None:
    scores, valid = t(0.3, -1.2, 2.0)[None], torch.ones(1, 3, dtype=torch.bool)
    orders = [torch.tensor([order], dtype=torch.double) for order in itertools.permutations((1, 2, 3))]
    for noise in (0.0, 0.2):
        total = sum(math.exp(-plackett_luce(scores, ranks, valid, noise).item()) for ranks in orders)
        assert total == pytest.approx(1.0)


def test_the_best_of_k_is_a_softmax_over_k() -> None:
    scores, valid = t(1.0, 2.0, 0.5, -1.0)[None], torch.ones(1, 4, dtype=torch.bool)
    found = plackett_luce(scores, t(2, 1, 2, 2)[None], valid)
    assert found.item() == pytest.approx(torch.nn.functional.cross_entropy(scores, torch.tensor([1])).item())


def test_tied_places_are_chosen_from_the_same_rest() -> None:
    """Odds 2 : 1 : 1, the first two tied, then the third: 2/4 * 1/4 (Breslow); all tied says nothing."""
    scores, valid = t(math.log(2), 0.0, 0.0)[None], torch.ones(1, 3, dtype=torch.bool)
    assert plackett_luce(scores, t(1, 1, 2)[None], valid).item() == pytest.approx(-math.log(2 / 4 * 1 / 4))
    assert plackett_luce(scores, t(1, 1, 1)[None], valid).item() == 0.0
    # as pairs a tie is half of each: -(log 2/3 + log 1/3) / 2 for the first two
    pairs = -((math.log(2 / 3) + math.log(1 / 3)) / 2 + math.log(2 / 3) + math.log(1 / 2)) / 3
    assert all_pairs(scores, t(1, 1, 2)[None], valid).item() == pytest.approx(pairs)


def test_davidson_by_hand() -> None:
    """d = log 4, nu = 1: 2 : 1 : 1/2, so 4/7, 1/7 and 2/7; leaving the ties out gives Bradley-Terry's 4/5."""
    found = comparison_logprobs(t(math.log(4)), torch.tensor(0.0, dtype=torch.double)).exp()[0]
    torch.testing.assert_close(found, t(4 / 7, 1 / 7, 2 / 7))
    assert (found[0] / (found[0] + found[1])).item() == pytest.approx(4 / 5)


def test_ratings_by_hand() -> None:
    """r = 0, thresholds -log 3, 0, log 3, log 9: at most 1/4, 1/2, 3/4, 9/10, 1."""
    found = rating_logprobs(t(0.0), t(-LOG3, 0.0, LOG3, 2 * LOG3)).exp()[0]
    torch.testing.assert_close(found, t(0.25, 0.25, 0.25, 0.15, 0.1))


def test_ratings_far_out_keep_a_probability_and_a_gradient() -> None:
    score = t(-80.0, 80.0).requires_grad_()
    logprobs = rating_logprobs(score, t(-2.0, -1.0, 1.0, 2.0))
    assert torch.isfinite(logprobs).all()
    assert logprobs.exp().sum(1).tolist() == pytest.approx([1.0, 1.0])
    (slope,) = torch.autograd.grad(logprobs[0, 4] + logprobs[1, 0], score)
    assert slope.tolist() == pytest.approx([1.0, -1.0])


def test_yes_and_no() -> None:
    torch.testing.assert_close(yes_logprobs(t(LOG3)).exp(), t(0.25, 0.75)[None])


def test_noise_bounds_the_loss() -> None:
    """0.9 P + 0.05 (Christiano et al.): never more than -log 0.05 = 2.996, and 0.905 for P = 0.95."""
    surely_wrong = cross_entropy(comparison_logprobs(t(-200.0), None), t(1, 0)[None], noise=0.1)
    assert surely_wrong.item() == pytest.approx(2.996, abs=5e-4)
    assert with_noise(t(math.log(0.95)), 2, 0.1).exp().item() == pytest.approx(0.905)
    four = plackett_luce(t(-200.0, 0, 0, 0)[None], t(1, 2, 2, 2)[None], ALL, noise=0.1)
    assert four.item() == pytest.approx(-math.log(0.1 / 4))


def test_soft_labels_are_shares_of_answers() -> None:
    logprobs = rating_logprobs(t(0.3), t(-1.0, 0.0, 1.0, 2.0))
    each = [cross_entropy(logprobs, torch.eye(5, dtype=torch.double)[k][None]).item() for k in (1, 3, 3)]
    shares = t(0, 1 / 3, 0, 2 / 3, 0)[None]
    assert cross_entropy(logprobs, shares).item() == pytest.approx(sum(each) / 3)


def test_margins_are_llama_2s() -> None:
    assert [MARGINS["small"] * s for s in (3, 2, 1, 0)] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert [MARGINS["large"] * s for s in (3, 2, 1, 0)] == [3, 2, 1, 0]


def test_a_constant_changes_no_comparison_and_no_ranking() -> None:
    scores = t(0.2, 1.0, -0.3)[None]
    ranks, valid = t(2, 1, 3)[None], torch.ones(1, 3, dtype=torch.bool)
    for loss in (plackett_luce, all_pairs):
        torch.testing.assert_close(loss(scores + 5.0, ranks, valid), loss(scores, ranks, valid))


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_gradients_are_the_finite_differences(noise: float) -> None:
    torch.manual_seed(0)
    scores = torch.randn(3, 4, dtype=torch.double, requires_grad=True)
    ranks = t(1, 2, 3, 4).expand(3, 4).clone()
    ranks[1] = t(1, 1, 2, 2)
    valid = torch.ones(3, 4, dtype=torch.bool)
    valid[2, 3] = False
    thresholds = t(-1.0, 0.0, 0.5, 2.0).requires_grad_()
    nu = torch.tensor(-0.5, dtype=torch.double, requires_grad=True)
    said = torch.full((3, 5), 0.2, dtype=torch.double)
    assert torch.autograd.gradcheck(lambda s: plackett_luce(s, ranks, valid, noise), scores)
    assert torch.autograd.gradcheck(lambda s: all_pairs(s, ranks, valid, noise), scores)
    assert torch.autograd.gradcheck(
        lambda s, b: cross_entropy(rating_logprobs(s[:, 0], b), said, noise), (scores, thresholds)
    )
    assert torch.autograd.gradcheck(
        lambda s, v: cross_entropy(comparison_logprobs(s[:, 0], v), said[:, :3], noise), (scores, nu)
    )
    assert torch.autograd.gradcheck(lambda s: yes_logprobs(s[:, 0]), scores)


def test_metarms_spread() -> None:
    """Equal scores: (k - 1) / (2 k), 0.375 at k = 4; at most (k - 1) / k; two log 3 apart: 2 / 4 * 3 / 4."""
    assert difference_spread(torch.zeros(1, 4)).item() == pytest.approx(0.375)
    far = difference_spread(torch.tensor([[0.0, 1e3, 2e3, 3e3]]))
    assert far.item() == pytest.approx(0.75)
    assert difference_spread(t(0.0, LOG3)[None]).item() == pytest.approx(0.375)
    tied = torch.zeros(1, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(difference_spread(tied).sum(), tied)
    assert slope.tolist() == [[0.0, 0.0, 0.0, 0.0]]


def test_the_gradient_one_step_off_descends_loss_and_alignment() -> None:
    """g(theta') = grad[L + eta <grad L, grad J>] + O(eta^2), grad J held fixed: eta / 10, a hundredth of the error."""
    torch.manual_seed(0)
    features, pairs = torch.randn(6, 4, 5, dtype=torch.double), torch.randn(20, 5, dtype=torch.double)
    theta = torch.randn(5, dtype=torch.double, requires_grad=True)

    def bt(w: Tensor) -> Tensor:
        return bradley_terry(pairs @ w, torch.ones(20, dtype=torch.double)).mean()

    (towards,) = torch.autograd.grad(difference_spread(features @ theta).mean(), theta)
    (slope,) = torch.autograd.grad(bt(theta), theta, create_graph=True)
    errors = []
    for eta in (0.1, 0.01):
        shifted = (theta + eta * towards).detach().requires_grad_()
        (there,) = torch.autograd.grad(bt(shifted), shifted)
        (bend,) = torch.autograd.grad((slope * towards).sum(), theta, retain_graph=True)
        errors.append((there - (slope + eta * bend)).norm().item())
    assert errors[0] < 1e-3
    # honest: the third-order term is a tenth as large as the second-order one at eta = 0.1
    assert errors[1] == pytest.approx(errors[0] / 100, rel=0.1)


def test_where_the_loss_is_convex_a_meta_step_leaves_less_spread_than_an_ordinary_one() -> None:
    """J changes by grad J . (-a) (grad L + eta H grad J): less than without it by a eta grad J' H grad J, H >= 0.

    The paper says that spread rises. At theta + eta grad J it does; the weights that are kept are theta.
    """
    torch.manual_seed(1)
    features, pairs = torch.randn(6, 4, 5, dtype=torch.double), torch.randn(20, 5, dtype=torch.double)
    theta, ones = torch.randn(5, dtype=torch.double), torch.ones(20, dtype=torch.double)
    rate, eta = 1e-4, 0.1

    def spread(w: Tensor) -> Tensor:
        return difference_spread(features @ w).mean()

    def slope(w: Tensor) -> Tensor:
        return torch.func.grad(lambda v: bradley_terry(pairs @ v, ones).mean())(w)

    towards = torch.func.grad(spread)(theta)
    ordinary, meta = theta - rate * slope(theta), theta - rate * slope(theta + eta * towards)
    p = (pairs @ theta).sigmoid()
    hessian = (pairs * (p * (1 - p))[:, None]).T @ pairs / 20  # of the mean of -log sigmoid, by hand
    expected_change = -rate * eta * (towards @ hessian @ towards)
    # honest: terms in eta^2 and rate^2 are left out
    assert (spread(meta) - spread(ordinary)).item() == pytest.approx(expected_change.item(), rel=0.1)
    assert expected_change < 0
    assert spread(meta + eta * towards) > spread(ordinary)


def fitted(loss: object, size: int, extra: int = 0) -> tuple[Tensor, Tensor]:
    """The scores (and further numbers) at which a loss is least: LBFGS on a table, no model in between."""
    scores = torch.zeros(size, dtype=torch.double, requires_grad=True)
    more = torch.zeros(extra, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([scores, more], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value: Tensor = loss(scores, more)  # type: ignore[operator]
        value.backward()
        return value

    optimizer.step(closure)
    return scores.detach(), more.detach()


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def test_bradley_terry_finds_the_scores_behind_simulated_comparisons() -> None:
    """60 completions, 20,000 comparisons: correlation above 0.99, and accuracy tends to E[max(p, 1 - p)]."""
    draw = torch.Generator().manual_seed(0)
    truth = torch.randn(60, generator=draw, dtype=torch.double) * 1.5
    a, b = torch.randint(60, (2, 20_000), generator=draw)
    a, b = a[a != b], b[a != b]
    p = (truth[a] - truth[b]).sigmoid()
    won = (torch.rand(len(a), generator=draw, dtype=torch.double) < p).double()
    said = torch.stack([won, 1 - won], 1)
    found, _ = fitted(
        lambda s, _: cross_entropy(comparison_logprobs(s[a] - s[b], None), said).mean() + 1e-4 * s.mean() ** 2, 60
    )
    assert correlation(found, truth) > 0.99
    assert found.mean().item() == pytest.approx(0.0, abs=1e-3)  # nothing but centring decides the mean
    right = torch.where(found[a] > found[b], p, 1 - p).mean()
    assert right.item() == pytest.approx(torch.maximum(p, 1 - p).mean().item(), abs=0.005)


def test_rankings_ratings_and_approvals_find_the_same_scores() -> None:
    draw = torch.Generator().manual_seed(1)
    truth = torch.randn(40, generator=draw, dtype=torch.double)
    gumbel = -torch.log(-torch.log(torch.rand(4000, 4, generator=draw, dtype=torch.double)))
    four = torch.stack([torch.randperm(40, generator=draw)[:4] for _ in range(4000)])
    ranks = (-(truth[four] + gumbel)).argsort(1).argsort(1) + 1.0
    valid = torch.ones(4000, 4, dtype=torch.bool)
    ranked, _ = fitted(lambda s, _: plackett_luce(s[four], ranks, valid).mean() + 1e-4 * s.mean() ** 2, 40)
    assert correlation(ranked, truth) > 0.99

    one = torch.randint(40, (12_000,), generator=draw)
    bounds = t(-1.5, -0.5, 0.5, 1.5)
    level = torch.distributions.Categorical(logits=rating_logprobs(truth[one], bounds))
    torch.manual_seed(2)
    said = torch.nn.functional.one_hot(level.sample(), 5).double()

    def rated(s: Tensor, more: Tensor) -> Tensor:
        edges = torch.cat([more[:1] - 1.0, more[:1] - 1.0 + more[1:].exp().cumsum(0)])
        return cross_entropy(rating_logprobs(s[one], edges), said).mean() + 1e-4 * s.mean() ** 2

    by_rating, edges = fitted(rated, 40, 4)
    assert correlation(by_rating, truth) > 0.99
    shift = float(truth.mean())  # scores are centred, so the thresholds move with them
    found = torch.cat([edges[:1] - 1.0, edges[:1] - 1.0 + edges[1:].exp().cumsum(0)])
    # honest: 12,000 ratings leave a threshold a standard error of about 0.03, and the scores' own errors come on top
    assert found.tolist() == pytest.approx((bounds - shift).tolist(), abs=0.15)

    yes = (torch.rand(12_000, generator=draw, dtype=torch.double) < (truth[one] - 0.5).sigmoid()).double()
    approved, _ = fitted(
        lambda s, m: (
            cross_entropy(yes_logprobs(s[one] - m[0]), torch.stack([1 - yes, yes], 1)).mean() + 1e-4 * s.mean() ** 2
        ),
        40,
        1,
    )
    assert correlation(approved, truth) > 0.97


def test_centring_brings_the_mean_to_0_and_leaves_the_order() -> None:
    """Differences alone keep the mean that the scores began with, 5; with 0.01 (r_w + r_l)^2 it goes to 0."""
    draw = torch.Generator().manual_seed(3)
    truth = torch.randn(30, generator=draw, dtype=torch.double)
    a, b = torch.combinations(torch.arange(30)).T
    p = (truth[a] - truth[b]).sigmoid()
    said = torch.stack([p, 1 - p], 1)

    def loss(s: Tensor, center: float) -> Tensor:
        logprobs = comparison_logprobs(s[a] - s[b], None)
        return (cross_entropy(logprobs, said) + center * (s[a] + s[b]).square()).mean()

    plain, _ = fitted(lambda s, _: loss(s + 5, 0.0), 30)
    centred, _ = fitted(lambda s, _: loss(s + 5, 0.01), 30)
    assert (plain + 5).mean().item() == pytest.approx(5.0, abs=1e-6)
    assert (centred + 5).mean().item() == pytest.approx(0.0, abs=1e-4)
    assert torch.equal(centred.argsort(), truth.argsort())
