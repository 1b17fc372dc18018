"""COCO's run lengths of a mask: down its columns, starting with zeros (cocoapi, common/maskApi.c)."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from converters.masks.instances import Instance, Mask


def encode(mask: NDArray[Any]) -> dict[str, Any]:
    """Compressed run lengths of a mask, H x W of 0 and 1, as JSON can hold them."""
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}


def rle(instance: Instance, width: int, height: int) -> dict[str, Any]:
    """Compressed run lengths of the whole image that an instance lies in."""
    x0, y0, x1, y1 = instance.xyxy
    canvas = np.zeros((height, width), np.uint8, order="F")
    canvas[y0:y1, x0:x1] = instance.mask
    return encode(canvas)


def decode(counts: list[int], height: int, width: int) -> Mask:
    """H x W of 0 and 1 from run lengths that add up to as many pixels: pycocotools trusts them."""
    return coco_mask.decode(coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width))


def run_lengths(text: str) -> list[int]:
    """Compressed run lengths as numbers; raises ValueError for other text, which pycocotools would read past its end.

    Characters carry 5 bits each, lowest first, bit 5 says that another follows, bit 4 of the last is the sign;
    from the third run on, the difference to the run before the last is stored.
    """
    if not re.fullmatch("([P-o]{0,12}[0-O])*", text):
        raise ValueError("no run lengths as COCO compresses them")
    counts: list[int] = []
    value = shift = 0
    for bits in (ord(char) - 48 for char in text):
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return counts
