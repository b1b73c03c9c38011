"""Gao's curves and best-of-n against closed forms and brute force; the guard's rule on looks made by hand."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest

from prefloop.errors import InputError
from prefloop.evaluation.overoptimization import Curve, Guard, Look, best_of_n, best_of_n_kl, fit_curve


def test_the_kl_of_best_of_n() -> None:
    assert best_of_n_kl(16) == pytest.approx(1.8351, abs=1e-4)
    assert best_of_n_kl(1) == 0.0
    for n in (2, 16):  # the best of n uniform scores has the density n u^(n-1): its KL by the rule of midpoints
        u = (np.arange(200_000) + 0.5) / 200_000
        density = n * u ** (n - 1)
        assert best_of_n_kl(n) == pytest.approx(float((density * np.log(density)).mean()), abs=1e-5)
    with pytest.raises(InputError, match="n >= 1, got 0"):
        best_of_n_kl(0)


def test_with_few_outcomes_it_is_a_strict_upper_bound() -> None:
    """Three outcomes of probability 0.5, 0.3 and 0.2, the worst first: the better of two has F^2 less F^2 of the one
    below, 0.25, 0.39 and 0.36, and 0.25 log 0.5 + 0.39 log 1.3 + 0.36 log 1.8 = 0.141 where the formula says 0.193."""
    p, q = [0.5, 0.3, 0.2], [0.25, 0.39, 0.36]
    exact = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert exact == pytest.approx(0.141, abs=1e-3)
    assert best_of_n_kl(2) == pytest.approx(0.193, abs=1e-3)


@pytest.mark.parametrize("ties", [False, True])
def test_the_estimator_equals_brute_force(ties: bool) -> None:
    rng = np.random.default_rng(0)
    gold, proxy = rng.normal(size=9), rng.normal(size=9)
    if ties:
        proxy = np.round(proxy)
    for n in (1, 2, 4, 9):
        means = []
        for subset in itertools.combinations(range(9), n):
            chosen = list(subset)
            top = [i for i in chosen if proxy[i] == proxy[chosen].max()]
            means.append(gold[top].mean())
        assert best_of_n(proxy, gold, n) == pytest.approx(np.mean(means))
    with pytest.raises(InputError, match="n = 10"):
        best_of_n(proxy, gold, 10)


def test_the_peaks_of_both_curves() -> None:
    """By hand: 2 d - d^2/2 peaks at 2 with 2; d (1 - log d) peaks at 1 with 1. A fine grid agrees for others."""
    assert Curve("best_of_n", 2.0, 0.5).peak == (2.0, 2.0)
    assert Curve("rl", 1.0, 1.0).peak == (1.0, 1.0)
    for curve in (Curve("best_of_n", 0.7, 0.2), Curve("rl", 0.9, 0.4)):
        grid = np.linspace(0.001, 10, 100_000)
        values = [curve.at(d) for d in grid]
        assert curve.peak is not None
        assert curve.peak == pytest.approx((grid[int(np.argmax(values))], max(values)), abs=1e-3)
    assert Curve("rl", 1.0, -0.1).peak is None
    assert Curve("best_of_n", -1.0, 0.5).peak is None


@pytest.mark.parametrize("kind", ["best_of_n", "rl"])
def test_a_curve_is_fitted_back(kind: Any) -> None:
    planted = Curve(kind, 0.8, 0.3)
    d = np.linspace(0, 4, 9)
    found = fit_curve(d, [planted.at(x) for x in d], kind)
    assert found is not None
    assert (found.alpha, found.beta) == pytest.approx((0.8, 0.3))
    assert fit_curve([0.0, 1.0, 1.0, 2.0], [0.0, 1.0, 1.0, 1.0], kind) is None


def look(step: int, proxy: float, held: float, *, n: int = 40, **changes: Any) -> Look:
    """n prompts whose held-out scores differ by prompt alone, so that a change is never chance."""
    by_prompt = np.linspace(-1, 1, n)
    values: dict[str, Any] = {
        "texts": ["a b c"] * n,
        "proxy": np.full(n, proxy) + by_prompt,
        "held_out": np.full((1, n), held) + by_prompt,
        "kl": np.full(n, 0.1 * step),
        "tokens": np.full(n, 10.0) + 2 * by_prompt,
        "ended": np.ones(n),
        "entropy": np.full(n, 20.0),
    }
    return Look(step, **{**values, **changes})


def alarms(course: list[tuple[float, float]]) -> list[bool]:
    guard = Guard()
    return [guard(look(step, *point)).stop for step, point in enumerate(course)]


def test_two_warnings_in_a_row_are_an_alarm() -> None:
    assert alarms([(0, 0), (1, 1), (2, 0.9), (3, 0.8)]) == [False, False, False, True]
    assert alarms([(0, 0), (1, 1), (2, 0.9), (3, 0.95), (4, 0.8)]) == [False] * 5, "one warning, a rise, one warning"
    assert alarms([(0, 0), (1, 1), (0.9, 0.9), (0.8, 0.8)]) == [False] * 4, "the proxy falls too: no fooling"


def test_a_fall_that_chance_explains_is_no_alarm() -> None:
    """Each prompt's score moves by +-1 around a mean fall of 0.02: both bounds fall, the paired interval holds 0."""
    guard, n = Guard(), 40
    noise = np.where(np.arange(n) % 2, 1.0, -1.0)
    steps = [guard(look(0, 0, 0)), guard(look(1, 1, 1))]
    for step, sign in ((2, 1), (3, -1)):
        seen = look(step, step, 1 - 0.01 * step)
        steps.append(guard(Look(**{**vars(seen), "held_out": seen.held_out + sign * noise})))
    assert guard.rows[2]["warning"]
    assert guard.rows[3]["warning"]
    assert [finding.stop for finding in steps] == [False] * 4


def test_the_best_look_is_the_highest_lower_bound() -> None:
    guard = Guard()
    found = [guard(look(step, step, held)).best for step, held in enumerate((0.0, 1.0, 0.9, 1.1, 1.1))]
    assert found == [True, True, False, True, False]
    assert guard.best["step"] == 3


def test_disagreement_lowers_the_held_out_score() -> None:
    """Two rewards, 1 and 3: mean 2, standard deviation 1."""
    n = 8
    finding = Guard()(look(0, 0, 0, n=n, held_out=np.array([[1.0] * n, [3.0] * n])))
    assert finding.metrics["guard/held_out"] == pytest.approx(1.0)
    assert finding.metrics["guard/spread"] == pytest.approx(1.0)


def test_what_length_explains() -> None:
    """At first the proxy is half the length in tokens: the slope is 1/2. Six tokens more explain 3 of a gain of 4."""
    guard = Guard()
    start = look(0, 0, 0)
    guard(Look(**{**vars(start), "proxy": start.tokens / 2}))
    later = Look(**{**vars(start), "tokens": start.tokens + 6, "proxy": start.tokens / 2 + 4})
    assert guard(later).metrics["guard/length_share"] == pytest.approx(3 / 4)


def test_latent_outliers_are_those_outside_of_the_first_looks_cloud() -> None:
    rng = np.random.default_rng(1)
    guard, cloud = Guard(), rng.normal(size=(40, 6))
    guard(look(0, 0, 0, latents=cloud))
    moved = cloud.copy()
    moved[:10] += 8
    metrics = guard(look(1, 0, 0, latents=moved)).metrics
    assert metrics["guard/outliers"] == pytest.approx(0.25, abs=0.03)


def test_it_says_what_it_saw() -> None:
    guard = Guard()
    guard(look(0, 0, 0))
    guard(look(4, 1, 1))
    guard(look(8, 2, 0.9))
    words = guard(look(12, 3, 0.7, texts=["a b c a b c a b c"] * 40, ended=np.zeros(40))).words
    assert "step 12: reward 3.00, held-out 0.70" in words
    assert "ALARM: since step 4, the best, the reward went from 1.00 to 3.00" in words
    assert "while the held-out reward fell by 0.30 [0.30, 0.30]" in words
    assert "57% of the word triples repeat earlier ones (at first 0%)" in words
    assert "only 0% of the answers end by themselves (at first 100%)" in words


def test_the_state_is_json_and_goes_on_as_if_nothing_had_happened() -> None:
    course = [(0.0, 0.0), (1.0, 1.0), (2.0, 0.9), (3.0, 0.8)]
    whole = Guard()
    expected = [whole(look(step, *point)) for step, point in enumerate(course)]
    guard = Guard()
    for step, point in enumerate(course):
        again = Guard()
        again.load_state(json.loads(json.dumps(guard.state())))
        guard = again
        assert guard(look(step, *point)) == expected[step]
    assert guard.report() == whole.report()
    assert guard.report()["alarm"] is True
    assert [row["words"] for row in guard.report()["looks"]] == [finding.words for finding in expected]
    assert guard.report()["best_step"] == 1


def test_the_curve_through_the_looks() -> None:
    """Looks on R(d) = d (1 - 0.5 log d), d = sqrt(KL): the peak e^(2 - 1) comes back as KL e^2."""
    guard, curve = Guard(), Curve("rl", 1.0, 0.5)
    for step in range(6):
        kl = 2.0 * step
        finding = guard(look(step, step, curve.at(math.sqrt(kl)), kl=np.full(40, kl)))
    assert finding.metrics["guard/peak_kl"] == pytest.approx(math.e**2)


def test_another_number_of_prompts_is_refused() -> None:
    guard = Guard()
    guard(look(0, 0, 0))
    with pytest.raises(InputError, match="the same 40 prompts, got 8"):
        guard(look(1, 0, 0, n=8))
