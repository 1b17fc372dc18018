"""The images of synthetic products: each is a pure function of (seed, category, kind, number).

An image with a defect starts as the good image of the same generator (`render_good`), and differs from it nowhere
outside its mask. Light, position, scale, contrast, blur and noise vary more between good images than a defect changes
them, so no single number of a whole image tells good from defect.

Images are float32 in 0..255 until `develop` rounds them. Axis order is (row, column, channel); points are (x, y) in
pixels, with pixel centres at whole numbers.
"""

import cv2
import numpy as np

from converters.synthetic.camera import SIZE, Rng, develop
from converters.synthetic.catalogue import PRODUCTS, counts_of


def image_rng(seed: int, category: str, kind: str, number: int) -> Rng:
    """The generator of one image, independent of every other image."""
    return np.random.default_rng([seed, list(PRODUCTS).index(category), list(counts_of(category)).index(kind), number])


def render_good(category: str, rng: Rng) -> np.ndarray:
    """uint8 good image, (256, 256, 3) RGB or (256, 256) grey."""
    layers = PRODUCTS[category].random(rng).draw()
    return develop(layers.image, layers.noise)


def render_defect(category: str, defect: str, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """uint8 image with a defect, and its (256, 256) uint8 mask of 0 and 255.

    Outside the mask the image is `render_good` of a generator in the same state.
    """
    product = PRODUCTS[category].random(rng)
    layers = product.draw()
    mask = np.zeros((SIZE, SIZE), bool)
    while mask.sum() < 8:  # a defect that fell off the product is drawn again
        image, mask = product.damaged(defect, layers, rng)
    good, bad = develop(layers.image, layers.noise), develop(image, layers.noise)
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
    if kind not in PRODUCTS[category].DEFECTS:
        return {f"{kind}/{number:03d}.png": encode(render_good(category, rng))}
    image, mask = render_defect(category, kind, rng)
    return {
        f"test/{kind}/{number:03d}.png": encode(image),
        f"ground_truth/{kind}/{number:03d}_mask.png": encode(mask),
    }
