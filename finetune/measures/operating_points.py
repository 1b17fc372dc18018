"""Thresholds of image scores that people act on: so many good images rejected, so many defects found, least cost.

An image is rejected where its score reaches the threshold. Scores that a threshold is chosen from are those of images
that the model did not learn from, and not those that it is measured on. A share is kept for new images of the same kind
as conformal prediction does it (V. Vovk, A. Gammerman, G. Shafer, Algorithmic Learning in a Random World, 2005;
R. Laxhammar, G. Falkman, 2015): of n images, the m-th most extreme is passed by a new one with a chance of m / (n + 1)
at most. So 1 % needs 99 images, and fewer give no threshold.
"""

from dataclasses import dataclass
from math import ceil, floor, hypot
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.measures.intervals import Bounds, share_interval
from finetune.measures.scores import Floats

REJECTS = (0.01, 0.05)  # shares of good images
RECALLS = (0.95, 0.99)  # shares of defective images
SLACK = 1e-9  # 0.01 * 100 is a little less than 1


def images_needed(share: float) -> int:
    """The number of images from which a threshold that this share of new ones passes can be chosen."""
    return ceil(1 / share - 1 - SLACK)


def threshold_for_rejects(good: Floats, share: float) -> float | None:
    """The lowest threshold that a new good image reaches with a chance of ``share`` at most; None from too few."""
    allowed = floor(share * (len(good) + 1) + SLACK)
    if not allowed:
        return None
    return float(np.nextafter(np.sort(good)[len(good) - allowed], np.inf))  # above it: as scores are compared by >=


def threshold_for_recall(defective: Floats, recall: float) -> float | None:
    """The highest threshold that a new defective image misses with a chance of 1 - ``recall`` at most, or None."""
    allowed = floor((1 - recall) * (len(defective) + 1) + SLACK)
    return float(np.sort(defective)[allowed - 1]) if allowed else None


@dataclass(frozen=True)
class Price:
    """What wrong decisions cost, and how often an image shows a defect."""

    prevalence: float  # 0..1
    escape: float  # of a defect that passes as good
    reject: float  # of a good image that is rejected

    def per_1000(self, missed: Any, rejected: Any) -> Any:
        """Of 1000 images, from the shares of defective ones missed and of good ones rejected."""
        return 1000 * (self.prevalence * self.escape * missed + (1 - self.prevalence) * self.reject * rejected)

    def bounds(self, missed: float, missed_bounds: Bounds, rejected: float, rejected_bounds: Bounds) -> Bounds:
        """Interval of ``per_1000`` from those of the two shares, which are of different images, so independent.

        G. Zou, A. Donner, Construction of Confidence Limits About Effect Measures, Statistics in Medicine 2008.
        """
        middle = self.per_1000(missed, rejected)
        below, above = (
            hypot(self.per_1000(missed - one, 0), self.per_1000(0, rejected - other))
            for one, other in zip(missed_bounds, rejected_bounds, strict=True)
        )
        return float(max(0.0, middle - below)), float(middle + above)


def error_shares(defect: NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats, Floats]:
    """Thresholds, ascending, and at each the share of defective images missed and of good ones rejected; all (T,).

    The last threshold is above every score: all pass. NaN where a side holds no image.
    """
    distinct = np.unique(scores)
    halfway = np.concatenate([distinct[:1], (distinct[1:] + distinct[:-1]) / 2])
    thresholds = np.append(halfway, np.nextafter(distinct[-1:], np.inf))
    good, bad = np.sort(scores[~defect]), np.sort(scores[defect])
    missed, passed = (np.searchsorted(side, thresholds) / (len(side) or np.nan) for side in (bad, good))
    return thresholds, missed, 1 - passed


def cheapest_threshold(defect: NDArray[np.bool_], scores: Floats, price: Price) -> float | None:
    """The threshold with the least cost, halfway between two scores; None where a side holds no image."""
    if defect.all() or not defect.any():
        return None
    thresholds, missed, rejected = error_shares(defect, scores)
    return float(thresholds[int(np.argmin(price.per_1000(missed, rejected)))])


def share_of(hits: NDArray[np.bool_], units: int) -> dict[str, Any] | None:
    """A share of images with its exact 95 % interval and counts; None of no images.

    ``units`` is how many images the interval is of, where some belong together and count once.
    """
    if not len(hits):
        return None
    value = float(np.mean(hits))
    low, high = share_interval(value, units)
    return {"value": value, "low": low, "high": high, "count": int(np.sum(hits)), "of": len(hits), "units": units}
