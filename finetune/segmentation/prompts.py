"""Prompts as people give them, simulated from masks: A. Kirillov et al., Segment Anything, ICCV 2023, appendix A.

Pure functions. Masks are H x W of 0 and 1, and never empty; points are (x, y) in px of the mask, on pixel centres;
boxes are (x0, y0, x1, y1) on pixel edges, x1 one past the last column. Randomness comes from the generator that is
handed in.
"""

from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]
BOX_NOISE = 0.1  # standard deviation of a drawn box's corners, as a share of the box's side ...
MOST_NOISE = 20.0  # ... and the most that a corner is off, px


@dataclass(frozen=True)
class Prompt:
    """A prompt for one instance: a box, or points, or both."""

    box: NDArray[np.float32] | None = None  # (4,)
    points: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))  # K x 2
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))  # K: 1 in the instance, 0 outside

    def with_point(self, point: NDArray[np.float32], label: int) -> "Prompt":
        return replace(self, points=np.vstack([self.points, point]), labels=np.append(self.labels, label))

    def scaled(self, x: float, y: float) -> "Prompt":
        """The same prompt on a mask ``x`` times as wide and ``y`` times as high; float64 until it is rounded once."""
        box = None if self.box is None else (self.box * np.array([x, y, x, y])).astype(np.float32)
        return replace(self, box=box, points=(self.points * np.array([x, y])).astype(np.float32))


def box_of(mask: Mask) -> NDArray[np.float32]:
    """The tight box of a mask, (4,)."""
    x, y, width, height = cv2.boundingRect(mask)
    return np.array([x, y, x + width, y + height], np.float32)


def noisy_box(box: NDArray[np.float32], size: tuple[int, int], generator: np.random.Generator) -> NDArray[np.float32]:
    """A box as a hurried hand draws it, within the image (height, width) and at least 1 px a side."""
    x0, y0, x1, y1 = box
    sides = np.array([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
    noise = np.clip(generator.normal(0, BOX_NOISE, 4) * sides, -MOST_NOISE, MOST_NOISE)
    height, width = size
    xs, ys = np.sort((box + noise)[[0, 2]]), np.sort((box + noise)[[1, 3]])
    x0, y0 = min(max(xs[0], 0), width - 1), min(max(ys[0], 0), height - 1)
    x1, y1 = max(min(xs[1], width), x0 + 1), max(min(ys[1], height), y0 + 1)
    return np.array([x0, y0, x1, y1], np.float32)


def random_point(mask: Mask, generator: np.random.Generator) -> NDArray[np.float32]:
    """Any pixel of a mask, (2,)."""
    places = cv2.findNonZero(mask).reshape(-1, 2)
    return places[generator.integers(len(places))].astype(np.float32)


def error_point(mask: Mask, found: Mask, generator: np.random.Generator) -> tuple[NDArray[np.float32], int]:
    """The next click of a person: any pixel that ``found`` has wrong, and whether it belongs to the mask.

    Where nothing is wrong, any pixel of the mask.
    """
    wrong = mask ^ found
    point = random_point(wrong if wrong.any() else mask, generator)
    return point, int(mask[int(point[1]), int(point[0])])


def first_prompt(mask: Mask, box: NDArray[np.float32], size: tuple[int, int], generator: np.random.Generator) -> Prompt:
    """The first prompt of an interaction: a point of the mask or a noisy box, as likely as each other."""
    if generator.random() < 0.5:
        return Prompt().with_point(random_point(mask, generator), 1)
    return Prompt(box=noisy_box(box, size, generator))


def inner_point(mask: Mask) -> NDArray[np.float32]:
    """The pixel furthest from the mask's border, (2,): where people click first, and SAM's own evaluation does."""
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    row, column = np.unravel_index(int(distance.argmax()), distance.shape)
    return np.array([column, row], np.float32)


def spread_points(mask: Mask, count: int) -> NDArray[np.float32]:
    """``inner_point`` and then, one by one, the pixel of the mask furthest from those before; ``count`` x 2.

    A mask of fewer pixels repeats its points.
    """
    chosen = [inner_point(mask)]
    places = cv2.findNonZero(mask).reshape(-1, 2).astype(np.float32)
    nearest = np.full(len(places), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, np.linalg.norm(places - chosen[-1], axis=1))
        chosen.append(places[int(nearest.argmax())])
    return np.stack(chosen)
