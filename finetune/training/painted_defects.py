"""Defects painted on good images: kinds, shapes and where they go."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
KINDS = ("fill", "fill line", "tint", "tint line", "paste", "shift", "turn", "erase")
CELLS = 1 + len(KINDS)  # classes of a cell: untouched, or how it was made
MOST = 10  # synthetic defects in an image
VISIBLE = 10  # grey levels: a smaller change is no defect


def paint_defects(image: Pixels, other: Pixels, generator: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Paint up to MOST defects into a good image.

    ``image`` and ``other`` (another good image to take patches from) are S x S x 3, RGB. Returns the new image and
    S x S of 0 (untouched) or the class of the defect there, 1..CELLS-1. What displaces or erases is put where the
    image has structure, since it would not be seen elsewhere.
    """
    painted, classes = image.copy(), np.zeros(image.shape[:2], np.uint8)
    structure = _structure(image)
    for _ in range(generator.integers(0, MOST + 1)):
        kind = int(generator.integers(len(KINDS)))
        structural = kind >= STRUCTURAL
        mask = draw_line(generator) if "line" in KINDS[kind] else draw_blob(generator, structural)
        side, limit = mask.shape[0], image.shape[0] - mask.shape[0]
        if limit < 1:
            continue
        centre = (
            np.searchsorted(structure, generator.random()) if structural else generator.integers(image[..., 0].size)
        )
        y, x = (int(np.clip(v - side // 2, 0, limit)) for v in divmod(int(centre), image.shape[1]))
        window = (slice(y, y + side), slice(x, x + side))
        before = painted[window]
        content = CONTENT[kind](painted, other, mask, (y, x), generator)
        soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), generator.uniform(0.4, 0.9))[..., None]
        after = np.clip(before * (1 - soft) + content * soft, 0, 255).astype(np.uint8)
        seen = (mask > 0) & (cv2.absdiff(after, before).max(2) >= VISIBLE)
        classes[window][seen] = 1 + kind
        painted[window] = after
    return painted, classes


def _structure(image: Pixels) -> NDArray[np.float64]:
    """Cumulated share, over all pixels row by row, of the image's edges (blurred)."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    edges = cv2.blur(np.abs(cv2.Laplacian(grey, cv2.CV_32F, ksize=3)), (9, 9))
    cumulated = np.cumsum(np.minimum(edges, np.quantile(edges[::4, ::4], 0.9)) + 1e-3, dtype=np.float64)
    return cumulated / cumulated[-1]


def draw_blob(generator: np.random.Generator, large: bool) -> Pixels:
    """A filled polygon of 8 to 60 px, or 16 to 70 where it is to be ``large``, else at times hollow; 0 and 1."""
    radius = np.exp(generator.uniform(np.log(8 if large else 4), np.log(28 if large else 24)))
    turns = np.sort(generator.uniform(0, 2 * np.pi, generator.integers(5, 12)))
    spokes = radius * generator.uniform(0.5, 1.25, len(turns))
    corners = spokes[:, None] * np.stack([np.cos(turns), generator.uniform(0.5, 1) * np.sin(turns)], 1)
    side = int(2.6 * radius) + 4
    mask = np.zeros((side, side), np.uint8)
    points = [np.round(corners + side / 2).astype(np.int32)]
    if not large and generator.random() < 0.2:
        cv2.polylines(mask, points, True, 1, 2)
    else:
        cv2.fillPoly(mask, points, 1)
    return mask


def draw_line(generator: np.random.Generator) -> Pixels:
    """A bent line of 1 to 3 px, 8 to 80 px long; side x side of 0 and 1."""
    length, bend = generator.uniform(8, 80), generator.uniform(-1.5, 1.5)
    angles = generator.uniform(0, 2 * np.pi) + np.linspace(0, bend, 9)
    points = np.cumsum(length / 9 * np.stack([np.cos(angles), np.sin(angles)], 1), 0)
    points -= points.min(0) - 3
    side = int(np.ceil(points.max())) + 4
    mask = np.zeros((side, side), np.uint8)
    cv2.polylines(mask, [np.round(points).astype(np.int32)], False, 1, int(generator.integers(1, 4)))
    return mask


def _cut(image: Pixels, y: int, x: int, side: int) -> Pixels:
    y, x = (int(np.clip(v, 0, limit - side)) for v, limit in zip((y, x), image.shape, strict=False))
    return image[y : y + side, x : x + side]


def _fill(image: Pixels, other: Pixels, mask: Pixels, at: tuple[int, int], generator: np.random.Generator) -> Pixels:
    colour = np.clip(generator.uniform(0, 255) + generator.normal(0, 20, 3), 0, 255)
    strength = generator.uniform(0.5, 1)
    return (_cut(image, *at, len(mask)) * (1 - strength) + strength * colour).astype(np.uint8)


def _tint(image: Pixels, other: Pixels, mask: Pixels, at: tuple[int, int], generator: np.random.Generator) -> Pixels:
    gain = np.exp(generator.normal(0, 0.3) + generator.normal(0, 0.12, 3))
    return np.clip(_cut(image, *at, len(mask)) * gain, 0, 255).astype(np.uint8)


def _paste(image: Pixels, other: Pixels, mask: Pixels, at: tuple[int, int], generator: np.random.Generator) -> Pixels:
    source = image if generator.random() < 0.7 else other
    y, x = generator.integers(0, np.array(image.shape[:2]) - len(mask) + 1)
    return np.rot90(_cut(source, y, x, len(mask)), int(generator.integers(4)))


def _shift(image: Pixels, other: Pixels, mask: Pixels, at: tuple[int, int], generator: np.random.Generator) -> Pixels:
    angle, distance = generator.uniform(0, 2 * np.pi), generator.uniform(3, 14)
    y, x = at[0] + distance * np.sin(angle), at[1] + distance * np.cos(angle)
    return _cut(image, round(y), round(x), len(mask))


def _turn(image: Pixels, other: Pixels, mask: Pixels, at: tuple[int, int], generator: np.random.Generator) -> Pixels:
    side = len(mask)
    angle = generator.choice([-1, 1]) * generator.uniform(20, 160)
    turn = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), angle, 1)
    turned = cv2.warpAffine(_cut(image, *at, side), turn, (side, side), borderMode=cv2.BORDER_REFLECT)
    return np.asarray(turned, np.uint8)


def _erase(image: Pixels, other: Pixels, mask: Pixels, at: tuple[int, int], generator: np.random.Generator) -> Pixels:
    return np.asarray(cv2.inpaint(_cut(image, *at, len(mask)), mask, 3, cv2.INPAINT_TELEA), np.uint8)


CONTENT = (_fill, _fill, _tint, _tint, _paste, _shift, _turn, _erase)  # as KINDS
STRUCTURAL = KINDS.index("paste")  # from here on
