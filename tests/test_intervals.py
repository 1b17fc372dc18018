"""Intervals and tests of the comparison: against scipy, worked examples, and what they cover in simulations."""

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_ind

from finetune.measures.bootstrap import resample
from finetune.measures.intervals import Sampled, auroc_interval, difference_test, holm, mean_interval, share_interval


@pytest.mark.parametrize(("hits", "size"), [(0, 12), (3, 12), (12, 12), (24, 25)])
def test_shares_have_scipys_exact_interval(hits: int, size: int) -> None:
    expected = binomtest(hits, size).proportion_ci(method="exact")
    assert share_interval(hits / size, size) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_perfect_auroc_is_no_proof() -> None:
    low, high = auroc_interval(1.0, 25, 8)
    assert high == 1.0 and 0.6 < low < 0.95
    low, high = auroc_interval(0.92, 25, 8)
    assert low < 0.80 and 0.95 < high < 1.0


def test_auroc_is_covered_where_it_was_not() -> None:
    """0.98 on 8 good and 25 defect images; DeLong's interval covers it in 70 %."""
    random, shift, covered = np.random.default_rng(0), 2**0.5 * 2.0537, 0
    for _ in range(300):
        good, defect = random.normal(0, 1, 8), random.normal(shift, 1, 25)
        auroc = float((defect[:, None] > good).mean())
        low, high = auroc_interval(auroc, 25, 8)
        covered += low <= 0.98 <= high
    assert covered / 300 > 0.92


def test_holm_as_in_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_noise_of_trainings_alone_has_students_width() -> None:
    """Many images, three trainings: the interval on the logit scale is that of Student's t with two degrees."""
    values = np.array([0.50, 0.54, 0.46])
    draws = values[:, None] + np.random.default_rng(0).normal(0, 1e-5, (3, 400))
    low, high = mean_interval(Sampled(values, draws))  # type: ignore[misc]
    half = 4.303 * values.std(ddof=1) / 3**0.5
    assert (high - low) / 2 == pytest.approx(half, rel=0.05)


def test_a_difference_is_welchs_where_images_make_no_noise() -> None:
    ours, theirs = np.array([0.50, 0.54, 0.46]), np.array([0.70, 0.66, 0.75])
    still = np.random.default_rng(0).normal(0, 1e-6, (3, 400))
    found = difference_test(Sampled(ours, ours[:, None] + still), Sampled(theirs, theirs[:, None] + still))
    assert found["p"] == pytest.approx(ttest_ind(ours, theirs, equal_var=False).pvalue, rel=0.02)


def test_equal_models_are_seldom_called_different() -> None:
    """Three trainings each, whose skill varies: seed noise alone made 20 % of equal pairs `beyond noise`."""
    random, different = np.random.default_rng(1), 0
    for _ in range(200):
        difficulty = random.normal(0, 0.2, 80)
        weights = resample([0] * 80, list(range(80)), 100, random)
        pair = []
        for _ in range(2):
            scores = 0.6 + random.normal(0, 0.05, (3, 1)) + difficulty + random.normal(0, 0.1, (3, 80))
            pair.append(Sampled(scores.mean(1), scores @ weights.T / 80))
        different += difference_test(*pair)["p"] < 0.05
    assert different / 200 < 0.09
