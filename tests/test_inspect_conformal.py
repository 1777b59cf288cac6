"""Thresholds, p-values and the drift alarm, against exact fractions and simulation."""

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import binom, false_discovery_control

from patchword.errors import UnsupportedError
from patchword.inspect.conformal import benjamini_hochberg, needed, p_values, rank, threshold
from patchword.inspect.drift import ALARM, Drift

RATES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.001)


@pytest.mark.parametrize("count", [1, 4, 19, 20, 98, 99, 100, 199, 999, 1999])
def test_a_score_above_the_threshold_has_a_p_value_of_at_most_the_rate(count: int) -> None:
    scores = np.random.default_rng(count).integers(0, 3 * count, count).astype(float)  # with ties
    new = np.arange(-1, 3 * count + 2, dtype=float)
    p = p_values(scores, new)
    counted = [Fraction(1 + int((scores >= s).sum()), count + 1) for s in new]
    assert p == pytest.approx([float(each) for each in counted], abs=1e-15)
    for rate in RATES:
        limit = threshold(scores, rate, None)
        assert (new > limit).tolist() == [each <= Fraction(str(rate)) for each in counted]
        assert math.isinf(limit) == (count < needed(rate))


def test_how_many_photos_are_needed() -> None:
    assert [needed(rate) for rate in (0.05, 0.01, 0.001)] == [19, 99, 999]
    assert needed(0.01, 0.95) == 299
    for rate in RATES:
        for confidence in (None, 0.9, 0.95, 0.99):
            n = needed(rate, confidence)
            assert rank(n, rate, confidence) <= n < rank(n - 1, rate, confidence) + 1
            assert rank(n - 1, rate, confidence) > n - 1


@pytest.mark.parametrize("count", [99, 298, 299, 473, 1000, 5000])
def test_with_confidence_the_rank_is_the_smallest_that_a_binomial_allows(count: int) -> None:
    allowed = [k for k in range(1, count + 1) if binom.cdf(count - k, count, 0.01) <= 0.05]
    assert rank(count, 0.01, 0.95) == (min(allowed) if allowed else count + 1)


def test_the_rates_hold_in_simulation() -> None:
    generator = np.random.default_rng(0)
    draws = generator.standard_normal((4000, 299))
    beyond = [math.erfc(threshold(row, 0.01, None) / 2**0.5) / 2 for row in draws]
    assert np.mean(beyond) == pytest.approx(3 / 300, abs=4 * np.std(beyond) / 4000**0.5)
    sure = [math.erfc(threshold(row, 0.01, 0.95) / 2**0.5) / 2 for row in draws]
    assert np.mean(np.array(sure) > 0.01) == pytest.approx(0.99**299, abs=0.014)


def test_lists_are_rejected_as_scipy_does() -> None:
    generator = np.random.default_rng(1)
    for _ in range(50):
        p = np.minimum(generator.integers(1, 101, 40) / 100, generator.uniform(size=40) * 4).clip(
            0, 1
        )
        for rate in (0.05, 0.1, 0.3):
            assert (
                benjamini_hochberg(p, rate) == (false_discovery_control(p) <= rate + 1e-12)
            ).all()
    assert benjamini_hochberg([], 0.1).shape == (0,)


def test_a_p_value_at_its_limit_is_rejected() -> None:
    """As fractions say, where 0.01 * 29 / 29 in floats is less than 0.01."""
    for held, rate in ((19, 0.05), (99, 0.01), (199, 0.01), (299, 0.2)):
        for photos in range(1, 120):
            lowest = Fraction(1, held + 1)
            for bad in range(1, photos + 1):
                p = [float(lowest)] * bad + [1.0] * (photos - bad)
                expected = lowest <= Fraction(str(rate)) * bad / photos
                assert benjamini_hochberg(p, rate).sum() == (bad if expected else 0)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 2, math.nan])
def test_a_rate_outside_0_and_1_is_refused(rate: float) -> None:
    for call in (lambda: rank(99, rate), lambda: rank(99, 0.01, rate), lambda: needed(rate)):
        with pytest.raises(UnsupportedError, match="more than 0 and less than 1"):
            call()


def test_the_drift_alarm_is_rare_for_photos_that_are_alike_and_soon_for_others() -> None:
    generator = np.random.default_rng(2)
    alarms = 0
    for _ in range(300):
        drift = Drift(generator.standard_normal(30).tolist())
        drift.add(generator.standard_normal(300).tolist())
        alarms += drift.at > 0
    assert alarms <= 3 + 3 * 3**0.5  # 1% of 300 in the mean, and three standard deviations
    for shift in (-3.0, 3.0):
        drift = Drift(generator.standard_normal(99).tolist())
        drift.add(generator.standard_normal(50).tolist())
        assert drift.at == 0
        drift.add((generator.standard_normal(60) + shift).tolist())
        assert 50 < drift.at <= 90
        assert drift.capital >= ALARM
    ties = Drift([0.0] * 50)
    ties.add([0.0] * 500)  # ties are no drift
    assert ties.at == 0


def test_the_capital_is_the_product_of_the_bets() -> None:
    drift = Drift([1.0, 2.0, 3.0])
    drift.add([9.0, 0.5])
    draws = random.Random(0)
    parts = [1 / 3] * 3
    for p in (draws.random() / 4, (4 + draws.random()) / 5):
        total = sum(parts)
        kept = [0.99 * part + 0.01 * total / 3 for part in parts]
        parts = [kept[0] * (1.5 - p), kept[1], kept[2] * (0.5 + p)]
    assert drift.capital == pytest.approx(sum(parts), rel=1e-12)
    again = Drift([1.0, 2.0, 3.0])
    again.add(drift.stream[:1])
    other = Drift([1.0, 2.0, 3.0])
    other.add(again.stream)  # goes on where it was kept
    other.add([0.5])
    assert other.capital == drift.capital
