"""Calibration: the checks of the method's page, and bins filled by hand."""

import numpy as np
import pytest

from prefloop.errors import InputError
from prefloop.evaluation.calibration import (
    confidence,
    ece_of_a_calibrated_model,
    expected_calibration_error,
    fit_temperature,
    reliability,
)


def pairs(n=40_000, seed=0):
    """True differences d and whether the first of the pair was preferred, with chance sigma(d)."""
    rng = np.random.default_rng(seed)
    d = rng.normal(scale=1.5, size=n)
    return d, (rng.random(n) < 1 / (1 + np.exp(-d))).astype(float)


def test_confidence_by_hand():
    # sigma(ln 3) = 3/4; at T = 2 a difference of 2 ln 3 says the same; the sign does not matter
    assert confidence([np.log(3), -np.log(3), 0.0]) == pytest.approx([0.75, 0.75, 0.5])
    assert confidence([2 * np.log(3)], temperature=2.0) == pytest.approx([0.75])
    assert confidence([1e6]) == pytest.approx([1.0])
    with pytest.raises(InputError, match="above 0"):
        confidence([1.0], temperature=0.0)


def test_ece_by_hand():
    # bin [0.60, 0.65): 0.61, 0.63 with one right of two -> |0.5 - 0.62|; bin [0.90, 0.95): 0.92, both right -> 0.08
    sure = np.array([0.61, 0.63, 0.92, 0.92])
    right = [1, 0, 1, 1]
    assert expected_calibration_error(sure, right) == pytest.approx(0.5 * 0.12 + 0.5 * 0.08)
    bins = reliability(sure, right)
    assert [b["n"] for b in bins] == [2, 2]
    assert bins[0]["low"] == pytest.approx(0.60)
    assert bins[0]["high"] == pytest.approx(0.65)
    assert bins[0]["confidence"] == pytest.approx(0.62)
    assert bins[0]["accuracy"] == 0.5
    # confidence 1 belongs to the last bin; equal scores (0.5) are half right and therefore calibrated
    assert reliability(np.array([1.0, 0.5]), [1, 0.5])[-1]["high"] == 1.0
    assert expected_calibration_error(np.array([1.0, 0.5]), [1, 0.5]) == 0.0


@pytest.mark.parametrize("c", [1.0, 3.0, 0.5])
def test_the_temperature_that_was_put_in_is_found(c):
    d, first = pairs()
    assert fit_temperature(c * d, first) == pytest.approx(c, rel=0.03)
    # the same pairs turned so that the better one comes first, and the probabilities themselves as labels
    assert fit_temperature(c * np.where(first == 1, d, -d)) == pytest.approx(c, rel=0.03)
    assert fit_temperature(c * d, 1 / (1 + np.exp(-d))) == pytest.approx(c, rel=1e-6)


def test_overconfidence_of_3_is_seen_and_mended():
    d, first = pairs(200_000)
    margin = 3 * np.where(first == 1, d, -d)
    right = margin > 0
    # every bin is overconfident, so ECE is E[sigma(3|d|)] - E[sigma(|d|)]: 0.150 for d ~ N(0, 1.5^2), by quadrature
    assert expected_calibration_error(confidence(margin), right) == pytest.approx(0.150, abs=0.002)
    mended = confidence(margin, fit_temperature(margin))
    # what chance leaves of a perfectly calibrated model at this n, too
    assert expected_calibration_error(mended, right) == pytest.approx(0.002, abs=0.001)
    assert ece_of_a_calibrated_model(mended, simulations=50)[0] == pytest.approx(0.002, abs=0.001)


def test_the_temperature_is_the_minimum_of_the_loss():
    margin = np.array([2.0, 1.0, -0.5, 3.0, -1.0])

    def loss(t):
        return np.mean(np.log1p(np.exp(-margin / t)))

    best = fit_temperature(margin)
    assert loss(best) < min(loss(best * 1.01), loss(best / 1.01))


def test_temperatures_at_the_ends():
    assert fit_temperature([1.0, 2.0, 3.0]) == pytest.approx(2e-4)  # all right: as sure as it can be
    assert fit_temperature([-1.0, -2.0, -3.0]) == pytest.approx(2e4)  # all wrong: as unsure as it can be
    assert fit_temperature([0.0, 0.0]) == 1.0
    with pytest.raises(InputError, match="finite"):
        fit_temperature([float("inf")])
    with pytest.raises(InputError):
        fit_temperature([1.0, 2.0], [1.0])


def test_even_a_perfect_model_shows_an_error_with_few_pairs():
    # every confidence 0.8, n pairs: |mean - 0.8| has mean sqrt(2/pi) sqrt(0.16 / n)
    for n in (100, 1000):
        mean, high = ece_of_a_calibrated_model(np.full(n, 0.8), simulations=20_000)
        assert mean == pytest.approx(np.sqrt(2 / np.pi * 0.16 / n), rel=0.02)
        assert high == pytest.approx(1.96 * np.sqrt(0.16 / n), rel=0.05)  # |N(0,1)| is below 1.96 in 95 %


def test_simulated_reference_matches_what_calibrated_models_show():
    rng = np.random.default_rng(5)
    sure = rng.uniform(0.5, 1, size=300)
    shown = [expected_calibration_error(sure, rng.random(300) < sure) for _ in range(3000)]
    mean, high = ece_of_a_calibrated_model(sure)
    assert mean == pytest.approx(np.mean(shown), rel=0.02)
    assert high == pytest.approx(np.quantile(shown, 0.95), rel=0.05)


def test_bad_input_is_named():
    with pytest.raises(InputError, match="one outcome per confidence"):
        expected_calibration_error(np.array([0.6]), [1, 0])
    with pytest.raises(InputError, match=r"\[0.5, 1\]"):
        reliability(np.array([0.4]), [1])


def test_ten_thousand_pairs_after_temperature_and_three_times_too_sure():
    """Issue figures: ECE under 0.02 on 10,000 pairs after a temperature from others; x3 is undone within 5 %."""
    d, first = pairs(20_000, seed=7)
    margin = 3 * np.where(first == 1, d, -d)
    t = fit_temperature(margin[:10_000])
    assert t == pytest.approx(3.0, rel=0.05)
    held_out = margin[10_000:]
    assert expected_calibration_error(confidence(held_out, t), held_out > 0) < 0.02


def test_with_465_pairs_and_ten_bins_a_perfect_model_averages_0_045():
    """As issue 4 says: what chance alone shows at that n, for differences of standard deviation 1.5."""
    d, _ = pairs(465, seed=1)
    mean, high = ece_of_a_calibrated_model(confidence(d))
    assert mean == pytest.approx(0.045, abs=0.01)
    assert high > mean
