"""Intervals and tests of differences, against textbooks, scipy, and by simulation."""

import importlib.util
from types import ModuleType

import numpy as np
import pytest
from conftest import REPOSITORY
from scipy import stats

from finetune.measures.intervals import (
    Sampled,
    auroc_interval,
    difference_test,
    holm,
    mean_interval,
    share_interval,
)


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    specification = importlib.util.spec_from_file_location(
        "coverage_of_intervals", REPOSITORY / "benchmarks/coverage.py"
    )
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("found", "size"), [(0, 12), (1, 12), (7, 25), (25, 25)])
def test_shares_have_scipys_exact_interval(found: int, size: int) -> None:
    expected = stats.binomtest(found, size).proportion_ci(method="exact")
    assert share_interval(found / size, size) == pytest.approx((expected.low, expected.high))


def test_auroc_interval_solves_newcombes_equation() -> None:
    z, (m, n) = 1.959964, (8, 25)
    for auroc in (0.7, 0.92, 1.0):
        for true in auroc_interval(auroc, n, m):
            terms = 1 + ((m + n) / 2 - 1) * ((1 - true) / (2 - true) + true / (1 + true))
            expected = z * np.sqrt(true * (1 - true) * terms / (m * n))
            assert abs(auroc - true) == pytest.approx(expected, rel=1e-5, abs=1e-9)
    low, high = auroc_interval(1.0, n, m)
    assert high == 1.0 and 0.8 < low < 0.95
    assert auroc_interval(0.0, n, m) == pytest.approx((0.0, 1 - low), abs=1e-9)


def test_auroc_of_many_images_has_the_interval_of_hanley_and_mcneil() -> None:
    """Their example: area 0.893 of 51 abnormal and 58 normal images, standard error 0.032 (Radiology 1982)."""
    low, high = auroc_interval(0.893, 51, 58)
    assert (high - low) / 2 / 1.96 == pytest.approx(0.032, abs=0.002)


def test_holm_of_a_textbook() -> None:
    """R: p.adjust(c(0.01, 0.02, 0.03, 0.005), "holm")."""
    assert holm([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def sampled(values: list[float], noise: float = 0.0, seed: int = 0, images: int = 1000) -> Sampled:
    """Trainings of these values, all of which see the same noise of images."""
    shared = np.random.default_rng(seed).normal(0, noise, 4000)
    return Sampled(np.array(values), np.array(values)[:, None] + shared, images)


def test_noise_of_seeds_alone_gives_welchs_test() -> None:
    ours, theirs = [0.61, 0.66, 0.58, 0.65], [0.5, 0.56, 0.47]
    expected = stats.ttest_ind(ours, theirs, equal_var=False)
    bounds = expected.confidence_interval()
    found = difference_test(sampled(ours), sampled(theirs))
    assert (found["low"], found["high"], found["p"]) == pytest.approx((bounds.low, bounds.high, expected.pvalue))


def test_noise_of_seeds_alone_gives_students_interval() -> None:
    """On the scale of logits; the spread of images is next to nothing."""
    values = [0.45, 0.5, 0.55]
    low, high = mean_interval(sampled(values, 1e-6))
    half = stats.t.interval(0.95, 2, 0, stats.sem(values))[1]
    assert np.log(high / (1 - high)) == pytest.approx(4 * half, rel=1e-3) and low == pytest.approx(1 - high)


def test_noise_of_images_that_both_share_is_no_difference() -> None:
    ours, theirs = sampled([0.6, 0.6, 0.6], 0.1), sampled([0.55, 0.55, 0.55], 0.1)
    assert difference_test(ours, theirs)["p"] is None  # no resample differs: nothing tells the noise
    theirs = sampled([0.55, 0.55, 0.55], 0.1, seed=1)
    found = difference_test(ours, theirs)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * 0.1 * np.sqrt(2), rel=0.05)
    assert difference_test(ours, ours) == {"value": 0, "low": 0, "high": 0, "p": 1}


def test_seeds_that_agree_by_chance_hide_no_noise_of_images() -> None:
    random = np.random.default_rng(0)
    own = Sampled(np.full(3, 0.5), 0.5 + random.normal(0, 0.05, (3, 4000)), 1000)
    low, high = mean_interval(own)
    assert high - low == pytest.approx(2 * 1.96 * 0.05 / np.sqrt(3), rel=0.05)


def test_an_interval_needs_a_spread() -> None:
    assert mean_interval(sampled([1.0, 1.0, 1.0])) is None
    assert mean_interval(Sampled(np.array([0.5]), np.array([[0.5, np.nan, np.nan, np.nan]]), 9)) is None
    low, high = mean_interval(sampled([0.97], 0.02))
    assert 0 < low < 0.97 < high < 1


def test_exact_bounds_cover(coverage: ModuleType) -> None:
    assert min(coverage.coverage_of_share(share, size) for share, size in coverage.SHARES) >= 0.95
    random = np.random.default_rng(0)
    assert all(coverage.coverage_of_auroc(*case, 1000, random) >= 0.94 for case in coverage.AUROCS[1:3])


def test_intervals_cover_and_equal_models_are_seldom_called_different(coverage: ModuleType) -> None:
    found = coverage.simulate(coverage.NOISES["both"], 3, 60, np.random.default_rng(0))
    for one in found.values():
        assert one["covered"] >= 0.87 and one["different"] <= 0.1  # of 60: within chance of 0.92 and 0.06
    assert found["Dice"]["covered"] < 1.0  # not by being endless
