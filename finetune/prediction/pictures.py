"""Pictures of answers: the image with what was found in it, and its heat map in colour."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from finetune.measures.masks import decode, rings

SIDE = 1024  # px, the longest of a picture
MARK, HALO = (255, 0, 255), (0, 0, 0)  # RGB
QUALITY = 88  # of JPEG
Rgb = NDArray[np.uint8]


def overlay(image: Rgb, detections: Sequence[dict[str, Any]], classes: Sequence[str]) -> Rgb:
    """The image, no larger than SIDE, with outlines of masks, or boxes without one, and their classes and scores."""
    height, width = image.shape[:2]
    canvas, scale = _fitted(image), min(1.0, SIDE / max(height, width))
    for found in detections:
        x, y, w, h = found["bbox"]
        outlines = [np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)])]
        if "segmentation" in found:
            outlines = rings(decode(found["segmentation"], height, width), 0)
        points = [(ring * scale).round().astype(np.int32) for ring in outlines]
        text = f"{classes[found['category_id'] - 1]} {found['score']:.2f}"
        at = (max(0, int(x * scale)), max(14, int(y * scale) - 4))
        for colour, thick in ((HALO, 3), (MARK, 1)):
            cv2.polylines(canvas, points, True, colour, thick, cv2.LINE_AA)
            cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, thick, cv2.LINE_AA)
    return canvas


def heat_picture(heat: NDArray[np.float32], middle: float) -> Rgb:
    """A heat map in colour, no larger than SIDE; ``middle``, a usual peak of a good image, is a quarter up."""
    level = np.round(255 * (heat / (heat + middle)) ** 2).astype(np.uint8)  # squared, so that good parts stay dark
    return np.asarray(cv2.applyColorMap(_fitted(level), cv2.COLORMAP_INFERNO)[..., ::-1], np.uint8)


def _fitted(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy, made smaller where it is larger than SIDE."""
    scale = SIDE / max(image.shape[:2])
    if scale >= 1:
        return image.copy()
    return np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def save_picture(path: Path, picture: Rgb) -> None:
    path.parent.mkdir(exist_ok=True)
    settings = [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if path.suffix == ".jpg" else []
    cv2.imwrite(str(path), picture[..., ::-1], settings)
