"""The product in an image: its pixels, position, size and angle.

The method is simple and stated: the background's colour is the median of the image's border; Otsu's threshold
(IEEE Trans. SMC, 1979) cuts the distance from it; the largest component is the product, its small holes filled.
Where that is hardly anything, nearly everything, one of many parts, or runs along the border, the image shows a
texture, and all of it is the product.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # H x W or H x W x 3
Mask = NDArray[np.uint8]  # H x W, 0 or 1
BORDER = 0.02  # of the shorter side: the rim that shows the background
LEAST, MOST = 0.02, 0.9  # share of the image that a product covers
MOST_OF_RIM = 0.25  # share of the rim that a product may cover
LEAST_OF_PARTS = 0.7  # share of what is no background that the product has, the rest being specks
LARGE_HOLE = 0.05  # of the product's area; smaller ones are rather bright spots, scratches among them
SAME = 0.92  # IoU from which two outlines (convex hulls) count as the same
SMALL = 128  # px, the side at which outlines are compared


@dataclass(frozen=True)
class Frame:
    """The pose of a product in its image: the middle (x, y) and the size (root of its area) in px, its angle in rad.

    The angle runs from the image's x axis to the product's, clockwise as the image is seen (y points down).
    """

    x: float
    y: float
    angle: float
    size: float

    def to_product(self, x: float, y: float) -> tuple[float, float]:
        """Coordinates along and across the product's axis, in units of its size."""
        return _turned((x - self.x) / self.size, (y - self.y) / self.size, -self.angle)

    def to_image(self, along: float, across: float) -> tuple[float, float]:
        """The inverse of ``to_product``: x and y in px."""
        x, y = _turned(along, across, self.angle)
        return self.x + x * self.size, self.y + y * self.size


def _turned(x: float, y: float, angle: float) -> tuple[float, float]:
    return x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)


def find_foreground(image: Pixels) -> Mask | None:
    """H x W of 0 and 1, the product; None for a texture."""
    rim = _rim(image.shape[:2])
    colours = image.reshape(*image.shape[:2], -1).astype(np.float32)
    distance = np.abs(colours - np.median(colours[rim], axis=0)).max(axis=2)
    scaled = cv2.GaussianBlur(np.minimum(distance, 255).astype(np.uint8), (5, 5), 0)
    _, binary = cv2.threshold(scaled, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    binary = cv2.morphologyEx(binary, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(binary)
    if count < 2:
        return None
    areas: NDArray[Any] = stats[1:, cv2.CC_STAT_AREA]
    mask = (labels == 1 + int(areas.argmax())).view(np.uint8)
    whole = (
        LEAST <= mask.mean() <= MOST and mask[rim].mean() <= MOST_OF_RIM and areas.max() >= LEAST_OF_PARTS * areas.sum()
    )
    return _without_small_holes(mask) if whole else None


def _without_small_holes(mask: Mask) -> Mask:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
    left, top, right, bottom = stats[:, 0], stats[:, 1], stats[:, 0] + stats[:, 2], stats[:, 1] + stats[:, 3]
    enclosed = (left > 0) & (top > 0) & (right < mask.shape[1]) & (bottom < mask.shape[0])
    filled = enclosed & (stats[:, cv2.CC_STAT_AREA] < LARGE_HOLE * stats[0, cv2.CC_STAT_AREA])
    filled[0] = True  # the product itself
    return filled[labels].view(np.uint8)


def _rim(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    width = max(1, round(BORDER * min(shape)))
    rim = np.ones(shape, bool)
    rim[width:-width, width:-width] = False
    return rim


def frame_of(mask: Mask, kind: str) -> Frame:
    """The frame of a product's mask. Its axis is the longest one, from the slim end to the heavy one, where the
    product's ``kind`` (see ``kind_of``) is "turned"; else the image's x axis."""
    m = cv2.moments(mask, binaryImage=True)
    x, y, size = m["m10"] / m["m00"], m["m01"] / m["m00"], float(np.sqrt(m["m00"]))
    if kind != "turned":
        return Frame(x, y, 0.0, size)
    angle = 0.5 * np.arctan2(2 * m["mu11"], m["mu20"] - m["mu02"])
    c, s = np.cos(angle), np.sin(angle)
    skewness = c**3 * m["mu30"] + 3 * c**2 * s * m["mu21"] + 3 * c * s**2 * m["mu12"] + s**3 * m["mu03"]
    return Frame(x, y, float(angle + (np.pi if skewness > 0 else 0.0)), size)


def kind_of(foregrounds: Sequence[Mask | None]) -> str:
    """The kind of pose that a product has in its images, from the foregrounds of some of them.

    "texture": most images have none. "round": turning an outline by 37 degrees about its middle gives the same
    one. "aligned": the outlines of different images are the same. Else "turned": the product lies at any angle.
    """
    masks = [mask for mask in foregrounds if mask is not None]
    if 2 * len(masks) <= len(foregrounds):
        return "texture"
    small = [_centred(mask, 0.0) for mask in masks]
    if np.median([_iou(one, _centred(mask, 37.0)) for one, mask in zip(small, masks, strict=True)]) >= SAME:
        return "round"
    common = (np.mean(small, axis=0) >= 0.5).view(np.uint8)
    return "aligned" if np.median([_iou(one, common) for one in small]) >= SAME else "turned"


def _centred(mask: Mask, degrees: float) -> Mask:
    """The mask's convex hull, turned about its middle, which is moved to the middle of a small canvas."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = np.zeros_like(mask)
    cv2.fillConvexPoly(hull, cv2.convexHull(np.concatenate(contours)), [1])
    frame = frame_of(hull, "aligned")
    move = np.array([[0, 0, SMALL / 2 - frame.x], [0, 0, SMALL / 2 - frame.y]])
    matrix = cv2.getRotationMatrix2D((frame.x, frame.y), degrees, SMALL / 4 / frame.size) + move
    return np.asarray(cv2.warpAffine(hull, matrix, (SMALL, SMALL), flags=cv2.INTER_NEAREST), np.uint8)


def _iou(one: Mask, other: Mask) -> float:
    return int(np.count_nonzero(one & other)) / max(1, int(np.count_nonzero(one | other)))
