"""Intervals of measures, and tests of differences, over the two noises there are: other test images, other trainings.

The noise of images is what resampling the test images shows (``bootstrap``) or, for shares and AUROC, what exact or
score intervals say of so many images; the noise of trainings is the spread between seeds. All trainings see the same
test images, as readers see the same cases in studies of radiologists, whose analysis this is: a measure's variance is
the covariance that its trainings share over resampled images, plus their sample variance / S, with Student's t for the
latter. N. Obuchowski, H. Rockette, Communications in Statistics - Simulation and Computation 1995; degrees of freedom:
S. Hillis, Statistics in Medicine 2007. With one seed, only the noise of images is known; and with several that agree by
chance, no less than that is taken. `benchmarks/coverage.py` shows what all of this covers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, isnan, nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betaincinv, expit, logit, ndtri, stdtr, stdtrit

from finetune.measures.bootstrap import LEVEL

Floats = NDArray[np.float64]
Bounds = tuple[float, float]
EDGE = 1 / 16  # of an image: how near to 0 or 1 a measure is taken to be at most, so that it has a logit
NEAR, ROUNDING = 1e-6, 1e-15
LARGE = 1e9  # degrees of freedom: a normal distribution
SEEDS_FOR_A_CLAIM = 3  # fewer trainings say nothing about the noise between them


@dataclass(frozen=True)
class Sampled:
    """One measure of S trainings on the same test images."""

    values: Floats  # (S,)
    draws: Floats  # S x B, in B resamples of the images; NaN where it is undefined
    images: int  # test images

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def variance(self) -> float:
        """Of the mean over trainings, by the spread between them alone; 0 for one training, of which none is known."""
        size = len(self.values)
        return float(self.values.var(ddof=1)) / size if size > 1 else 0.0


def share_interval(share: float, size: float, level: float = LEVEL) -> Bounds:
    """Exact interval of ``share`` of ``size`` images (C. Clopper, E. Pearson, Biometrika 1934).

    A mean share over trainings need not be a whole number of images.
    """
    found, tail = share * size, (1 - level) / 2
    low = betaincinv(found, size - found + 1, tail) if found > 0 else 0.0
    high = betaincinv(found + 1, size - found, 1 - tail) if found < size else 1.0
    return float(low), float(high)


def auroc_interval(auroc: float, positives: int, negatives: int, level: float = LEVEL) -> Bounds:
    """Score interval of an AUROC of so many images: those true values that it lies within z deviations of.

    Method 5 of R. Newcombe, Confidence Intervals for an Effect Size Measure Based on the Mann-Whitney Statistic,
    Part 2, Statistics in Medicine 2006. Unlike DeLong's, it has a width at 1.0, too.
    """
    z, pairs, extra = float(ndtri((1 + level) / 2)), positives * negatives, (positives + negatives) / 2 - 1

    def excess(true: float) -> float:
        variance = true * (1 - true) * (1 + extra * ((1 - true) / (2 - true) + true / (1 + true))) / pairs
        return (auroc - true) ** 2 - z**2 * variance

    inside = min(max(auroc, ROUNDING), 1 - ROUNDING)  # at 0 and 1 themselves the variance is 0
    low = brentq(excess, 0.0, inside) if auroc > 0 else 0.0
    high = brentq(excess, inside, 1.0) if auroc < 1 else 1.0
    return float(low), float(high)


def mean_interval(sampled: Sampled, of_images: Bounds | None = None) -> Bounds | None:
    """95 % interval of the mean over trainings of a measure in 0..1; None where resampling finds no spread.

    ``of_images`` is the interval for the noise of images where a better one is known than resampling gives, whose
    deviations are scaled to the part that the trainings share: what each has of its own shows in the spread between
    them. Limits are found as logits, where measures near 0 and 1 are less skewed; the two noises are independent, and
    their reaches combine by squares (G. Zou, A. Donner, Construction of Confidence Limits About Effect Measures,
    Statistics in Medicine 2008).
    """
    mean = sampled.mean
    if isnan(mean):
        return None
    edge = EDGE / sampled.images
    middle = float(_logit(mean, edge))
    if of_images is not None:
        below, above, least = (
            middle - float(_logit(of_images[0], edge)),
            float(_logit(of_images[1], edge)) - middle,
            0.0,
        )
    else:
        resampled, shared = sampled.draws.mean(axis=0), _covariance(sampled)
        spread = float(np.nanvar(resampled))
        if isnan(shared) or spread < ROUNDING:
            return None
        least = float(ndtri((1 + LEVEL) / 2)) * float(np.nanstd(_logit(resampled, edge)))
        below = above = least * sqrt(min(1.0, max(0.0, shared) / spread))
    size = len(sampled.values)
    slope = float(_logit(mean + NEAR, edge) - _logit(mean - NEAR, edge)) / (2 * NEAR)
    seeds = slope * float(stdtrit(size - 1, (1 + LEVEL) / 2)) * sqrt(sampled.variance) if size > 1 else 0.0
    down, up = (max(least, hypot(reach, seeds)) for reach in (below, above))
    return _from_logit(middle - down, edge), _from_logit(middle + up, edge)


def _logit(value: Any, edge: float) -> Any:
    """The logit of a measure, drawn in a little from 0 and 1, where it has none."""
    return logit(edge + (1 - 2 * edge) * value)


def _from_logit(value: float, edge: float) -> float:
    return min(1.0, max(0.0, (float(expit(value)) - edge) / (1 - 2 * edge)))


def difference_test(ours: Sampled, theirs: Sampled) -> dict[str, Any]:
    """The difference of two means with its 95 % interval and two-sided p; None where no resample tells a spread.

    Paired by images, not by seeds: the variance is that of the noise of images that the two do not share, and of the
    trainings of each, with Satterthwaite's degrees of freedom, as B. Welch's test has them (Biometrika 1947).
    """
    value = ours.mean - theirs.mean
    shared = [_covariance(ours), _covariance(theirs), _covariance(ours, theirs)]
    if isnan(value) or any(map(isnan, shared)):  # undefined in most resamples
        return {"value": None if isnan(value) else value, "low": None, "high": None, "p": None}
    seeds = [one.variance for one in (ours, theirs)]
    both = max(0.0, shared[0] + shared[1] - 2 * shared[2]) + sum(seeds)
    images = float(np.nanvar(ours.draws.mean(axis=0) - theirs.draws.mean(axis=0)))
    if max(both, images) < ROUNDING:
        same = abs(value) < ROUNDING
        return {"value": value, "low": 0.0 if same else None, "high": 0.0 if same else None, "p": 1.0 if same else None}
    doubt = sum(part**2 / (len(one.values) - 1) for part, one in zip(seeds, (ours, theirs), strict=True) if part)
    half, p = 0.0, 0.0
    for variance, freedom in ((images, LARGE), (both, min(LARGE, both**2 / doubt) if doubt else LARGE)):
        if variance >= ROUNDING:
            half = max(half, float(stdtrit(freedom, (1 + LEVEL) / 2)) * sqrt(variance))
            p = max(p, 2 * float(stdtr(freedom, -abs(value) / sqrt(variance))))
    return {"value": value, "low": value - half, "high": value + half, "p": p}


def _covariance(ours: Sampled, theirs: Sampled | None = None) -> float:
    """Mean covariance over resampled images between two models' trainings or, of one model, between different ones.

    The variance of a model's only training. NaN where a measure is undefined in most resamples.
    """
    both = [ours.draws] if theirs is None else [ours.draws, theirs.draws]
    known = np.isfinite(np.concatenate(both)).all(axis=0)
    if known.sum() < max(2, known.size / 2):
        return nan
    centred = [draws[:, known] - draws[:, known].mean(axis=1, keepdims=True) for draws in both]
    found = centred[0] @ centred[-1].T / (known.sum() - 1)
    if theirs is None and len(found) > 1:
        found = found[~np.eye(len(found), dtype=bool)]
    return float(found.mean())


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (S. Holm, Scandinavian Journal of Statistics 1979)."""
    size, largest = len(p_values), 0.0
    adjusted = [0.0] * size
    for rank, index in enumerate(sorted(range(size), key=lambda one: p_values[one])):
        largest = max(largest, min(1.0, (size - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
