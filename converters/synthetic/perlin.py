"""Made-up defects: a blob of Perlin noise filled with a piece of another image, as in DRAEM.

Perlin, "An image synthesizer" (SIGGRAPH 1985); Zavrtanik et al., "DRAEM" (ICCV 2021). DRAEM fills with textures of
another data set; here the good images' own pieces do, so that nothing is fetched. Pure functions.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from converters.synthetic.foreground import Mask, Pixels

CELLS = (2, 3, 4, 6)  # of the noise along a side: few make smooth blobs, many make ragged ones
ROOM = 3.0  # the side of the noise in units of the defect's (root of its area)


def perlin_noise(side: int, cells: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Gradient noise, side x side, about -1..1, with ``cells`` cells along a side."""
    angles = generator.uniform(0, 2 * np.pi, (cells + 1, cells + 1))
    gradients = np.stack([np.cos(angles), np.sin(angles)], axis=2)
    position = (np.arange(side) + 0.5) * cells / side
    cell, inside = position.astype(int), position % 1
    fade = inside**3 * (inside * (inside * 6 - 15) + 10)
    rows, columns = np.meshgrid(cell, cell, indexing="ij")
    y, x = np.meshgrid(inside, inside, indexing="ij")
    corners = [
        [(gradients[rows + dy, columns + dx] * np.stack([x - dx, y - dy], axis=2)).sum(2) for dx in (0, 1)]
        for dy in (0, 1)
    ]
    top, bottom = (left + (right - left) * fade for left, right in corners)
    return np.sqrt(2) * (top + (bottom - top) * fade[:, None])


def noise_mask(area: float, generator: np.random.Generator) -> Mask:
    """One blob of at most about ``area`` pixels, cropped to its bounding box; h x w of 0 and 1."""
    side = max(8, round(ROOM * np.sqrt(area)))
    noise = perlin_noise(side, int(generator.choice(CELLS)), generator)
    binary = (noise >= np.quantile(noise, 1 - min(0.5, area / side**2))).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(binary)
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    x, y, width, height, _ = stats[largest]
    return (labels[y : y + height, x : x + width] == largest).view(np.uint8)


def fill(parent: Pixels, texture: Pixels, generator: np.random.Generator) -> Pixels:
    """The pixels of a blob: a piece of the texture image, mirrored, lighter or darker, over the parent's window.

    ``parent`` is h x w x C and not larger than ``texture``; its share in what is returned is 0 to 0.8.
    """
    height, width = parent.shape[:2]
    y, x = (int(generator.integers(0, limit + 1)) for limit in np.array(texture.shape[:2]) - (height, width))
    piece = texture[y : y + height, x : x + width]
    piece = piece[:: generator.choice([-1, 1]), :: generator.choice([-1, 1])]
    opacity, gain = generator.uniform(0.2, 1.0), np.exp(generator.normal(0, 0.3))
    return np.clip(parent * (1 - opacity) + piece * opacity * gain, 0, 255).round().astype(np.uint8)
