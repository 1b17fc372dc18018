"""Measures of masks and heat maps: overlap, boundary, per-region overlap (AUPRO).

Pixel scores are 16 bit, so that counts at each of their levels say all that curves and thresholds need, exactly and
without sorting pixels.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from finetune.measures.masks import TOP, Region
from finetune.measures.scores import Floats, divided

BOUNDARY_RATIOS = (0.02, 0.005)  # of the diagonal; Cheng et al. use 0.02, small defects need the finer one
PRO_LIMITS = (0.3, 0.05)  # false-positive rates up to which the PRO curve is integrated
COARSE = 1024  # levels of pixel scores that the intervals (not the estimates) are computed from


def boundary(mask: NDArray[np.uint8], ratio: float) -> NDArray[np.uint8]:
    """Pixels of a mask (H x W, 0 or 1) within ``ratio`` of the image's diagonal of its contour.

    The image's edge counts as contour. B. Cheng et al., Boundary IoU, CVPR 2021.
    """
    depth = _depth(mask)
    return ((depth > 0) & (depth <= _reach(mask.shape, ratio))).astype(np.uint8)


def _depth(mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Chessboard distance of each pixel to the next one outside of the mask, or of the image."""
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_C, 3)[1:-1, 1:-1], np.float32)


def _reach(shape: tuple[int, ...], ratio: float) -> int:
    return max(1, round(ratio * float(np.hypot(shape[0], shape[1]))))


def boundary_counts(hit: NDArray[np.uint8], mask: NDArray[np.uint8]) -> dict[str, int]:
    """Pixels in both boundaries and in either, at each ratio; both masks H x W of 0 and 1."""
    x, y, w, h = cv2.boundingRect(hit | mask)
    window = np.s_[y : y + h, x : x + w]  # around it there is nothing, which is as good as an edge
    ours, theirs = (_depth(side[window]) if w else np.zeros((0, 0)) for side in (hit, mask))
    counts = {}
    for ratio in BOUNDARY_RATIOS:
        reach = _reach(mask.shape, ratio)
        a, b = ((side > 0) & (side <= reach) for side in (ours, theirs))
        counts[f"inter{ratio}"] = int(np.count_nonzero(a & b))
        counts[f"union{ratio}"] = int(np.count_nonzero(a | b))
    return counts


def level_counts(scores: NDArray[np.uint16], regions: Sequence[Region]) -> tuple[NDArray[Any], NDArray[Any], Floats]:
    """Defect pixels, good pixels and shares of defect regions at each of TOP + 1 levels of an image (H x W).

    A pixel's share is one over its region's area, so that the shares add up to the number of regions.
    """
    found = [region.of(scores) for region in regions]
    inside = np.concatenate(found) if found else np.zeros(0, np.uint16)
    weights = np.repeat([1 / len(one) for one in found], [len(one) for one in found])
    positive = np.bincount(inside, minlength=TOP + 1)
    above = scores[scores > 0]  # painted boxes and masks are mostly 0, which bincount is slow at
    negative = np.bincount(above, minlength=TOP + 1) - positive
    negative[0] += scores.size - above.size
    return positive, negative, np.asarray(np.bincount(inside, weights, minlength=TOP + 1), float)


def coarse_levels(positive: NDArray[Any], negative: NDArray[Any], shares: NDArray[Any]) -> NDArray[np.int64]:
    """First levels of about COARSE bins, cut where defect pixels or good ones lie, and finest at the top.

    Counts at each of L levels of N images, N x L each.
    """
    good = negative.sum(axis=0, dtype=float)
    rank = np.cumsum(good[::-1])[::-1] / good.sum()  # false-positive rate at each level
    steps = np.sqrt(rank)  # finer where the rate is small
    steps = (steps[0] - steps) / max(steps[0], 1e-12)
    for side in (positive, shares):
        total = side.sum(axis=0, dtype=float)
        steps = steps + np.cumsum(total) / max(total.sum(), 1e-12)
    bins = np.floor(steps / 3 * COARSE)
    return np.flatnonzero(np.diff(bins, prepend=-1)).astype(np.int64)


def pro_curve(share: Floats, negative: Floats) -> tuple[Floats, Floats]:
    """False-positive rate and per-region overlap, ascending from 0 to 1, at L levels of scores, highest first; L + 1.

    P. Bergmann et al., MVTec AD, CVPR 2019 and IJCV 2021: a region's overlap is the share of it at or above the
    threshold, averaged over all regions of all images. ``share`` and ``negative`` are the shares of regions and the
    good pixels at each level, ascending, of all images together.
    """
    rate, overlap = (np.append(0.0, np.cumsum(side[::-1])) for side in (negative, share))
    return rate / max(rate[-1], 1), overlap / max(overlap[-1], 1e-12)


def area_to(rate: Floats, overlap: Floats, limit: float) -> float:
    """Area under a curve up to ``limit`` on its first axis, divided by the limit; 0..1."""
    inside = rate <= limit
    x = np.append(rate[inside], limit)
    y = np.append(overlap[inside], np.interp(limit, rate, overlap))
    return float(np.trapezoid(y, x) / limit)


def aupro(share: Floats, negative: Floats, limit: float) -> Floats:
    """Area under the PRO curve up to a false-positive rate, as in MVTec's own code; both B x L levels; (B,)."""
    return np.array([area_to(*pro_curve(*row), limit) for row in zip(share, negative, strict=True)])


def overlap_measures(true: Floats, false: Floats, missed: Floats) -> dict[str, Floats]:
    """IoU and Dice of pixels pooled over images; (B,) each. 0 / 0 is NaN."""
    return {"iou": divided(true, true + false + missed), "dice": divided(2 * true, 2 * true + false + missed)}
