"""Pictures of answers: the image with what was found in it, and its heat map in colour."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from finetune.measures.masks import decode, rings

LEAST, SIDE = 512, 1024  # px, the longest side of an overlay: small images are enlarged, so that words stay small
MARK, HALO = (255, 0, 255), (0, 0, 0)  # RGB
LETTERS = (cv2.FONT_HERSHEY_SIMPLEX, 0.45)
QUALITY = 88  # of JPEG
Rgb = NDArray[np.uint8]


def overlay(image: Rgb, detections: Sequence[dict[str, Any]], classes: Sequence[str]) -> Rgb:
    """The image with outlines of masks, or boxes without one, and their classes and scores; the surest on top."""
    height, width = image.shape[:2]
    canvas = _fitted(image, LEAST)
    scale, line = max(canvas.shape) / max(height, width), max(canvas.shape) // LEAST + 1  # seen on a small page too
    for found in sorted(detections, key=lambda each: each["score"]):
        x, y, w, h = found["bbox"]
        outlines = [np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)])]
        if "segmentation" in found:
            outlines = rings(decode(found["segmentation"], height, width), 0)
        points = [(ring * scale).round().astype(np.int32) for ring in outlines]
        text = f"{classes[found['category_id'] - 1]} {found['score']:.2f}"
        for colour, thick in ((HALO, line + 2), (MARK, line)):
            cv2.polylines(canvas, points, True, colour, thick, cv2.LINE_AA)
        _write(canvas, text, int(x * scale), int(y * scale) - 4)
    return canvas


def _write(canvas: Rgb, text: str, x: int, y: int) -> None:
    """Words on a ground of their own, their lower left corner at (x, y) or as near as they fit."""
    (width, height), below = cv2.getTextSize(text, *LETTERS, 1)
    x, y = max(0, min(x, canvas.shape[1] - width)), max(y, height + 1)
    cv2.rectangle(canvas, (x, y - height - 1), (x + width, y + below - 1), HALO, -1)
    cv2.putText(canvas, text, (x, y), *LETTERS, MARK, 1, cv2.LINE_AA)


def heat_picture(heat: NDArray[np.float32], middle: float) -> Rgb:
    """A heat map in colour, no larger than SIDE; ``middle``, a usual peak of a good image, is a quarter up."""
    cubes = (heat / middle) ** 3  # so that good parts stay dark, and what is twice as hot is three quarters up
    level = np.round(255 - 765 / (3 + cubes)).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(_fitted(level, 1), cv2.COLORMAP_INFERNO)[..., ::-1], np.uint8)


def _fitted(image: NDArray[np.uint8], least: int) -> NDArray[np.uint8]:
    """A copy whose longest side is ``least`` to SIDE."""
    longest = max(image.shape[:2])
    scale = min(max(longest, least), SIDE) / longest
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=way), np.uint8)


def save_picture(path: Path, picture: Rgb) -> None:
    path.parent.mkdir(exist_ok=True)
    settings = [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if path.suffix == ".jpg" else []
    cv2.imwrite(str(path), picture[..., ::-1], settings)
