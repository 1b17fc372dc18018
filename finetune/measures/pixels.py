"""Measures of masks and heat maps: overlap, boundary, per-region overlap (AUPRO)."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.measures.scores import Floats, cumulated, divided

BOUNDARY_RATIOS = (0.02, 0.005)  # of the diagonal; Cheng et al. use 0.02, small defects need the finer one
PRO_LIMITS = (0.3, 0.05)  # false-positive rates up to which the PRO curve is integrated


def boundary(mask: NDArray[np.uint8], ratio: float) -> NDArray[np.uint8]:
    """Pixels of a mask (H x W, 0 or 1) within ``ratio`` of the image's diagonal of its contour.

    The image's edge counts as contour. B. Cheng et al., Boundary IoU, CVPR 2021.
    """
    import cv2

    distance = max(1, round(ratio * float(np.hypot(*mask.shape))))
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)
    return np.asarray(mask - inner[1:-1, 1:-1], np.uint8)


def regions(mask: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """Connected defects of a mask (H x W), as MVTec counts them (8-connectivity).

    Returns rows and columns of all P defect pixels, and each pixel's share of its region's area: they add up to
    the number of regions.
    """
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    rows, columns = np.nonzero(mask)
    return rows, columns, 1.0 / stats[labels[rows, columns], cv2.CC_STAT_AREA]


def pro_curve(maps: Iterable[NDArray[Any]], masks: Sequence[NDArray[np.uint8]]) -> tuple[Floats, Floats]:
    """False-positive rate and per-region overlap at every threshold that matters; both ascending from 0 to 1.

    ``maps`` are N anomaly maps, H x W of any number type, higher is more anomalous, read one at a time; ``masks``
    N ground truths of 0 and 1, gone through twice. P. Bergmann et al., MVTec AD, CVPR 2019 and IJCV 2021: a
    region's overlap is the share of it at or above the threshold, averaged over all regions of all images.
    Between two scores that occur in regions the overlap is constant, so only these scores (and the step just
    above each) are corners of the curve. Memory: the negatives' scores once, in the maps' own type.
    """
    good = [int(mask.size - np.count_nonzero(mask)) for mask in masks]
    negatives: NDArray[Any] | None = None
    scores, shares, filled = [], [], 0
    for score, mask, count in zip(maps, masks, good, strict=True):
        if negatives is None:
            negatives = np.empty(sum(good), score.dtype)
        negatives[filled : filled + count] = score[mask == 0]
        filled += count
        rows, columns, share = regions(mask)
        scores.append(score[rows, columns])
        shares.append(share)
    if negatives is None or not any(map(len, scores)):
        raise ValueError("no defect region in the ground truth")
    negatives.sort()
    levels, index = np.unique(np.concatenate(scores), return_inverse=True)
    overlap = cumulated(np.bincount(index, weights=np.concatenate(shares))[None])[0]
    overlap /= sum(share.sum() for share in shares)
    above = [len(negatives) - np.searchsorted(negatives, levels, side) for side in ("right", "left")]
    rate = np.stack(above, axis=1)[::-1].ravel() / max(1, len(negatives))
    overlap = np.repeat(np.append(overlap, 0.0), 2)[::-1][1:-1]  # just above a score: what the score above reached
    return np.concatenate([[0.0], rate, [1.0]]), np.concatenate([[0.0], overlap, [1.0]])


def area_to(rate: Floats, overlap: Floats, limit: float) -> float:
    """Area under a curve up to ``limit`` on its first axis, divided by the limit; 0..1."""
    inside = rate <= limit
    x = np.append(rate[inside], limit)
    y = np.append(overlap[inside], np.interp(limit, rate, overlap))
    return float(np.trapezoid(y, x) / limit)


def aupro(
    maps: Iterable[NDArray[Any]], masks: Sequence[NDArray[np.uint8]], limits: Sequence[float] = PRO_LIMITS
) -> tuple[float, ...]:
    """Area under the PRO curve (see ``pro_curve``) up to each false-positive rate, as MVTec's own code has it."""
    curve = pro_curve(maps, masks)
    return tuple(area_to(*curve, limit) for limit in limits)


def aupro_of_levels(share: Floats, negative: Floats, limit: float) -> Floats:
    """AUPRO of scores in L coarse levels, ascending: region shares and negatives at each level, both B x L; (B,)."""
    zeros = np.zeros((len(share), 1))
    rate = np.hstack([zeros, np.cumsum(negative[:, ::-1], axis=1)])
    overlap = np.hstack([zeros, np.cumsum(share[:, ::-1], axis=1)])
    rate, overlap = rate / np.maximum(rate[:, -1:], 1), overlap / np.maximum(overlap[:, -1:], 1e-12)
    return np.array([area_to(*curve, limit) for curve in zip(rate, overlap, strict=True)])


def overlap_measures(true: Floats, false: Floats, missed: Floats) -> dict[str, Floats]:
    """IoU and Dice of pixels pooled over images; (B,) each. 0 / 0 is NaN."""
    return {"iou": divided(true, true + false + missed), "dice": divided(2 * true, 2 * true + false + missed)}
