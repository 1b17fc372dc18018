"""Masks and anomaly maps as arrays and as COCO's run lengths; what follows from a map at a level."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

TOP = 65535  # the highest value of a 16-bit map
GOOD_PIXELS = 0.99  # share of good pixels that stay under the level where no mask shows a defect


def merged(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """A COCO segmentation (polygons, RLE or compressed RLE) as one compressed RLE of pycocotools."""
    if isinstance(segmentation, dict) and not isinstance(segmentation["counts"], list):
        return segmentation
    encoded = coco_mask.frPyObjects(segmentation, height, width)
    return coco_mask.merge(encoded) if isinstance(encoded, list) else encoded


def decode(segmentation: Any, height: int, width: int) -> NDArray[np.uint8]:
    """A COCO segmentation (polygons, RLE or compressed RLE) as H x W of 0 and 1."""
    return coco_mask.decode(merged(segmentation, height, width))


def rings(mask: NDArray[Any], slack: float) -> list[NDArray[Any]]:
    """Outlines of a mask and of its holes, V x 2 (x, y) each, at most ``slack`` px off."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return [cv2.approxPolyDP(contour, slack, True).reshape(-1, 2) for contour in contours]


@dataclass(frozen=True)
class Region:
    """8-connected pixels of an H x W mask, cut out with their box."""

    box: tuple[int, int, int, int]  # x, y, width, height
    pixels: NDArray[np.bool_]  # height x width

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """The values (H x W) of the region's pixels; (P,)."""
        x, y, w, h = self.box
        return values[y : y + h, x : x + w][self.pixels]


def regions(mask: NDArray[Any]) -> list[Region]:
    """The connected regions of a mask (H x W, not 0 is inside), as MVTec counts defects."""
    if not mask.any():
        return []
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    boxes = [(int(x), int(y), int(w), int(h)) for x, y, w, h in stats[1:, :4]]
    return [
        Region((x, y, w, h), labels[y : y + h, x : x + w] == index) for index, (x, y, w, h) in enumerate(boxes, start=1)
    ]


def regions_above(heat: NDArray[Any], level: float) -> list[tuple[Region, float]]:
    """The regions of a map (H x W) at or above a level, each with its peak: what a heat map finds."""
    return [(region, float(region.of(heat).max())) for region in regions(heat >= level)]


def best_level(pairs: Iterable[tuple[NDArray[np.uint16], NDArray[np.uint8]]]) -> int:
    """The level, 1..TOP, at which maps have the best Dice with masks, all pixels pooled. For val, never for test.

    Without a defect among the masks, the level that 99 % of the pixels stay under. Value 0 says that nothing was
    found there, so that it is no level.
    """
    positive, negative = (np.zeros(TOP + 1) for _ in range(2))
    for heat, mask in pairs:
        inside = np.bincount(heat[mask > 0], minlength=TOP + 1)
        positive += inside
        negative += np.bincount(heat.ravel(), minlength=TOP + 1) - inside
    if not positive.any():
        return int(min(TOP, np.searchsorted(np.cumsum(negative), GOOD_PIXELS * negative.sum()) + 1))
    true, false = (np.cumsum(side[::-1])[::-1] for side in (positive, negative))
    return int(np.argmax((2 * true / (true + false + positive.sum()))[1:])) + 1
