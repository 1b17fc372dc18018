"""Scenes of the sample dataset: each image is a pure function of (seed, category, kind, number).

`washer` is a toothed ring of brushed metal (RGB), `weave` is twill cloth (grey). An image with a defect starts as the
good image of the same generator (`render_good`), and differs from it nowhere outside its mask. Light, position, scale,
contrast, blur and noise vary more between good images than a defect changes them, so no single number of a whole image
tells good from defect.

Images are float32 in 0..255 until `develop` rounds them. Axis order is (row, column, channel); points are (x, y) in
pixels, with pixel centres at whole numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from converters.synthetic.camera import SIZE, Layers, Rng, changed, develop, image_rng
from converters.synthetic.catalogue import DEFECTS
from converters.synthetic.defects import hole, scratch, stain
from converters.synthetic.washer import (
    Washer,
    draw_washer,
    inked,
    make_washer,
    stamped_mark,
    washer_misplaced,
    washer_missing_part,
)
from converters.synthetic.weave import Weave, draw_weave, make_weave, weave_misplaced, weave_missing_part

Scene = Washer | Weave
MAKERS: dict[str, Callable[[Rng], Scene]] = {"washer": make_washer, "weave": make_weave}
ON_SURFACE = {"scratch": scratch, "hole": hole, "stain": stain}


def draw(scene: Scene) -> Layers:
    """The scene without noise."""
    return draw_washer(scene) if isinstance(scene, Washer) else draw_weave(scene)


def render_good(category: str, rng: Rng) -> np.ndarray:
    """uint8 good image, (256, 256, 3) RGB for `washer`, (256, 256) for `weave`."""
    layers = draw(MAKERS[category](rng))
    return develop(layers.image, layers.noise)


def restructure(scene: Scene, good: np.ndarray, defect: str, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """The scene drawn again with a part missing or misplaced; image and mask."""
    if isinstance(scene, Washer):
        change = washer_missing_part if defect == "missing_part" else washer_misplaced
        other = change(scene, rng)
        image = draw(other).image
        if other.mark != scene.mark:
            return image, inked(stamped_mark(scene)) | inked(stamped_mark(other))
        return image, changed(good, image)
    alter = weave_missing_part if defect == "missing_part" else weave_misplaced
    moved, mask = alter(scene, rng)
    return draw(moved).image, mask


def render_defect(category: str, defect: str, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """uint8 image with a defect, and its (256, 256) uint8 mask of 0 and 255.

    Outside the mask the image is `render_good` of a generator in the same state.
    """
    scene = MAKERS[category](rng)
    layers = draw(scene)
    good = develop(layers.image, layers.noise)
    mask = np.zeros((SIZE, SIZE), bool)
    while mask.sum() < 8:  # a defect that fell off the product is drawn again
        if defect in ON_SURFACE:
            image, mask = ON_SURFACE[defect](layers, rng)
        else:
            image, mask = restructure(scene, layers.image, defect, rng)
    bad = develop(image, layers.noise)
    where = mask if good.ndim == 2 else mask[..., None]
    return np.where(where, bad, good), mask.astype(np.uint8) * 255


def encode(image: np.ndarray) -> bytes:
    """PNG bytes of a uint8 RGB or grey image."""
    if image.ndim == 3:
        image = image[..., ::-1]  # cv2 takes BGR
    settings = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]  # noise: faster and smaller
    return cv2.imencode(".png", image, settings)[1].tobytes()


def render_files(seed: int, category: str, kind: str, number: int) -> dict[str, bytes]:
    """The files of one image, named relative to the category's folder."""
    rng = image_rng(seed, category, kind, number)
    if kind not in DEFECTS:
        return {f"{kind}/{number:03d}.png": encode(render_good(category, rng))}
    image, mask = render_defect(category, kind, rng)
    return {
        f"test/{kind}/{number:03d}.png": encode(image),
        f"ground_truth/{kind}/{number:03d}_mask.png": encode(mask),
    }
