"""Uncertainty by resampling: images within their class, groups together, seeds as well; all seeded."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

LEVEL = 0.95
SEEDS_FOR_A_CLAIM = 3  # fewer training runs say nothing about the noise between runs


def resample(
    strata: Sequence[object], groups: Sequence[object], count: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Counts of how often each of N images is drawn in each of ``count`` resamples; count x N.

    Each stratum (an image's class) is drawn from with replacement, as many units as it has; a unit is a group of
    images that belong together (byte-identical, or of one object). B. Efron, R. Tibshirani, An Introduction to the
    Bootstrap, 1993.
    """
    units: dict[object, dict[object, list[int]]] = {}
    stratum_of = {group: stratum for stratum, group in zip(reversed(strata), reversed(groups), strict=True)}
    for position, group in enumerate(groups):
        units.setdefault(stratum_of[group], {}).setdefault(group, []).append(position)
    weights = np.zeros((count, len(groups)))
    for members in units.values():
        size = len(members)
        drawn = generator.multinomial(size, np.full(size, 1 / size), size=count)
        for times, positions in zip(drawn.T, members.values(), strict=True):
            weights[:, positions] = times[:, None]
    return weights


def over_seeds(values: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Mean over S seeds drawn with replacement, resample by resample; ``values`` S x B -> (B,)."""
    seeds, count = values.shape
    drawn = generator.integers(seeds, size=(seeds, count))
    return np.take_along_axis(values, drawn, axis=0).mean(axis=0)


def interval(values: NDArray[np.float64], level: float = LEVEL) -> tuple[float, float] | None:
    """The percentile interval of resampled values; None where a measure is undefined in most of them."""
    known = values[~np.isnan(values)]
    if len(known) < max(2, len(values) / 2):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def share_interval(share: float, size: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact interval of ``share`` of ``size`` images (C. Clopper, E. Pearson, Biometrika 1934).

    For shares of 0 and 1, where resampling finds no spread: 0 of 12 false alarms may still be one in four.
    """
    found, tail = round(share * size), (1 - level) / 2
    low = betaincinv(found, size - found + 1, tail) if found else 0.0
    high = betaincinv(found + 1, size - found, 1 - tail) if found < size else 1.0
    return float(low), float(high)
