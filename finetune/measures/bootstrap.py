"""Resampling of test images: within their class, groups together; seeded."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95


def resample(
    strata: Sequence[object], groups: Sequence[object], count: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """How much each of N images counts in each of ``count`` resamples; count x N.

    Each stratum (an image's class) is drawn from with replacement; a unit is a group of images that belong together
    (byte-identical, or of one object). Of n units n - 1 are drawn, each counting n / (n - 1), so that the variance of a
    mean is the unbiased one, which n draws fall short of by 1 / n: half of it in a class of two images. J. Rao, C. Wu,
    Resampling Inference With Complex Survey Data, JASA 1988.
    """
    units: dict[object, dict[object, list[int]]] = {}
    stratum_of = {group: stratum for stratum, group in zip(reversed(strata), reversed(groups), strict=True)}
    for position, group in enumerate(groups):
        units.setdefault(stratum_of[group], {}).setdefault(group, []).append(position)
    weights = np.ones((count, len(groups)))  # a unit alone in its stratum always counts once
    for members in units.values():
        size = len(members)
        if size > 1:
            drawn = generator.multinomial(size - 1, np.full(size, 1 / size), size=count) * (size / (size - 1))
            for times, positions in zip(drawn.T, members.values(), strict=True):
                weights[:, positions] = times[:, None]
    return weights


def interval(values: NDArray[np.float64], level: float = LEVEL) -> tuple[float, float] | None:
    """The percentile interval of resampled values; None where a measure is undefined in most of them.

    B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993.
    """
    known = values[~np.isnan(values)]
    if len(known) < max(2, len(values) / 2):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
