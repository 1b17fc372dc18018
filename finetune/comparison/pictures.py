"""What the page shows of an image: itself and its heat maps as small WebP, masks as SVG outlines."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from converters.cli.errors import DatasetError
from finetune.measures.masks import rings

HEAT_SIDE = 96  # px
SIDES = (768, 640, 512, 384, 256, 160)  # px, of an image: the largest that is small enough in bytes


@dataclass(frozen=True)
class Overlay:
    """A model's pixel scores on one image."""

    outline: str = ""  # SVG path of the pixels at or above val's threshold
    heat: str | None = None  # data URI


def overlay(
    scores: NDArray[np.uint16], level: float | None, kind: str, strength: Callable[[NDArray[np.uint16]], NDArray[Any]]
) -> Overlay:
    """``kind`` as in `Answer`: boxes are drawn as boxes, so that they get no outline. ``strength``: levels -> 0..1."""
    return Overlay(
        outline="" if level is None or kind == "boxes" else outline(scores >= level),
        heat=heat_uri(strength(scores)) if kind == "heat maps" else None,
    )


def outline(mask: NDArray[Any]) -> str:
    """SVG path around a mask, H x W, with holes (fill rule evenodd); corners simplified to a pixel or so."""
    slack = max(0.7, 0.0008 * float(np.hypot(*mask.shape)))
    return "".join("M" + "L".join(f"{x} {y}" for x, y in ring) + "Z" for ring in rings(mask, slack))


def image_uri(path: Path, share: int) -> str:
    """The image as WebP of at most about ``share`` bytes, as a data URI: smaller rather than blurred."""
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, ModuleNotFoundError):  # Pillow's; ultralytics patches it to look for pi_heif then
        raise DatasetError(f"{path}: is no readable image: convert again with --overwrite") from None
    for side in SIDES:
        image.thumbnail((side, side))
        code = _webp(image, quality=70, method=2)  # 6 % larger than Pillow's usual 4, in half the time
        if len(code) <= share * 0.75:  # base64 makes four bytes of three
            break
    return _uri(code)


def heat_uri(strength: NDArray[Any]) -> str:
    """A heat map, H x W of 0..1, as a small transparent WebP, clear where it is low."""
    scale = HEAT_SIDE / max(strength.shape)
    small = cv2.resize(strength, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    level = np.round(255 * small**2).astype(np.uint8)  # squared, so that what good images show stays pale
    colour = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return _uri(_webp(Image.fromarray(np.dstack([colour, level])), quality=40, method=2))


def _webp(image: Image.Image, **settings: int) -> bytes:
    stream = BytesIO()
    image.save(stream, "WEBP", **settings)
    return stream.getvalue()


def _uri(code: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(code).decode("ascii")
