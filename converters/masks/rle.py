"""COCO's run lengths of a mask."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converters.masks.instances import Instance


def rle(instance: "Instance", width: int, height: int) -> dict[str, Any]:
    """Compressed RLE of the whole image, as pycocotools encodes it."""
    import numpy as np  # late: the options of to_coco import this module
    from pycocotools import mask as coco_mask

    x0, y0, x1, y1 = instance.xyxy
    canvas = np.zeros((height, width), np.uint8, order="F")
    canvas[y0:y1, x0:x1] = instance.mask
    encoded = coco_mask.encode(canvas)
    return {"size": [height, width], "counts": encoded["counts"].decode("ascii")}
