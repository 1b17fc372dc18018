"""Small PNG files for class and instance masks."""

import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image


def voc_palette(colours: int) -> list[int]:
    """The PASCAL VOC colour map as a flat list of RGB values: index 0 is black, 1 dark red, 2 dark green, ..."""
    index = np.arange(colours)
    palette = np.zeros((colours, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return palette.ravel().tolist()


def index_png(indices: NDArray[np.uint8], colours: int) -> bytes:
    """Encode H x W indices below ``colours`` as a palette PNG with as few bits per pixel as they need.

    Masks are runs of few values: the fastest deflate level packs them as well as the slowest does.
    """
    bits = next(bits for bits in (1, 2, 4, 8) if colours <= 1 << bits)
    image = Image.fromarray(indices)
    image.putpalette(voc_palette(colours))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", bits=bits, compress_level=1)
    return buffer.getvalue()


def id_png(ids: NDArray[np.uint16]) -> bytes:
    """Encode H x W instance ids as a 16-bit grey PNG."""
    settings = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    return cv2.imencode(".png", ids, settings)[1].tobytes()
