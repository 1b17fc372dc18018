"""From tiles back to whole images: what a model found on each tile, in the coordinates of the image it was cut from.

detections = on_whole_images(found_on_tiles, open_dataset(out, "screw@tile-640"))
# COCO results for open_dataset(out, "screw"): same split, image ids of that dataset
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torchvision.ops import batched_nms, box_convert

from converters.masks.rle import encode
from finetune.measures.masks import decode
from finetune.runs.dataset import Dataset

EDGE = 1.5  # px: a box that ends this near to the border of its tile is cut off there


def on_whole_images(
    detections: Iterable[Mapping[str, Any]], dataset: Dataset, iou: float = 0.5
) -> list[dict[str, Any]]:
    """COCO results on the tiles of ``dataset`` as COCO results on the images of ``dataset.base``.

    Boxes (x, y, width, height, in pixels), polygons and RLE masks move to where their tile lies. Where tiles overlap, a
    defect that one tile's border cuts is whole in the next, so a box that ends at a border inside of what the
    neighbour sees as well is left out. Of boxes of one class that overlap by more than ``iou``, the surest stays.
    """
    record = dataset.tiles
    assert record
    tiles = {dataset.image_ids[name]: tile for name, tile in record["tiles"].items() if name in dataset.image_ids}
    return put_together(detections, tiles, record["images"], iou)


def put_together(
    detections: Iterable[Mapping[str, Any]],
    tiles: Mapping[int, Mapping[str, Any]],
    images: Mapping[str, Mapping[str, int]],
    iou: float = 0.5,
) -> list[dict[str, Any]]:
    """The same for ``tiles`` by image id (image, x, y, width, height) of ``images`` by name (id, width, height)."""
    starts: dict[str, dict[str, list[int]]] = {name: {"x": [], "y": []} for name in images}
    for tile in tiles.values():
        for axis, values in starts[tile["image"]].items():
            values.append(tile[axis])
    moved = []
    for found in detections:
        tile = tiles[found["image_id"]]
        if not _is_cut(found["bbox"], tile, starts[tile["image"]]):
            moved.append(_moved(found, tile, images[tile["image"]]))
    return _without_repetitions(moved, iou)


def _is_cut(bbox: list[float], tile: Mapping[str, Any], starts: dict[str, list[int]]) -> bool:
    """Does a box end at a side of its tile, inside of what the neighbour on that side sees as well?"""
    for axis, side in (("x", "width"), ("y", "height")):
        first = tile[axis] + bbox["xy".index(axis)]
        last = first + bbox[2 + "xy".index(axis)]
        low, high = tile[axis], tile[axis] + tile[side]
        before = [start + tile[side] for start in starts[axis] if start < low]  # where neighbours end
        after = [start for start in starts[axis] if start > low]
        if before and first <= low + EDGE and last <= max(before):
            return True
        if after and last >= high - EDGE and first >= min(after):
            return True
    return False


def _moved(found: Mapping[str, Any], tile: Mapping[str, Any], image: Mapping[str, int]) -> dict[str, Any]:
    x, y, width, height = found["bbox"]
    moved = {**found, "image_id": image["id"], "bbox": [x + tile["x"], y + tile["y"], width, height]}
    segmentation = found.get("segmentation")
    if isinstance(segmentation, list):  # polygons
        offset = (tile["x"], tile["y"])
        moved["segmentation"] = [[value + offset[i % 2] for i, value in enumerate(ring)] for ring in segmentation]
    elif segmentation is not None:
        whole = np.zeros((image["height"], image["width"]), np.uint8, order="F")
        shown = np.s_[tile["y"] : tile["y"] + tile["height"], tile["x"] : tile["x"] + tile["width"]]
        whole[shown] = decode(segmentation, tile["height"], tile["width"])
        moved["segmentation"] = encode(whole)
    return moved


def _without_repetitions(detections: list[dict[str, Any]], iou: float) -> list[dict[str, Any]]:
    """Non-maximum suppression in each image and class; the rest in order of image, the surest first."""
    if not detections:
        return []
    boxes = torch.tensor([found["bbox"] for found in detections], dtype=torch.float64)
    scores = torch.tensor([found["score"] for found in detections], dtype=torch.float64)
    pairs = torch.tensor([(found["image_id"], found["category_id"]) for found in detections])
    groups = torch.unique(pairs, dim=0, return_inverse=True)[1]
    kept = batched_nms(box_convert(boxes, "xywh", "xyxy"), scores, groups, iou).tolist()
    return sorted((detections[index] for index in kept), key=lambda found: (found["image_id"], -found["score"]))
