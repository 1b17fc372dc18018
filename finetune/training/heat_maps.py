"""Boxes from heat maps, and whether the peak of a map hits the defect."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from finetune.measures.masks import GOOD_PIXELS, regions_above
from finetune.measures.scores import best_threshold
from finetune.runs.dataset import Dataset, read_mask
from finetune.training.images import Images

Map = NDArray[np.float32]
SLACK = 8  # px of the S x S input around a defect that still count as a hit: one cell of a map of stride 8


def detections(
    dataset: Dataset, images: Images, maps: Sequence[Map], classes: Sequence[int], level: float, middle: float
) -> list[dict[str, Any]]:
    """COCO results from maps, at full image size, scored by peak / (peak + middle); ``classes`` are N, from 1."""
    return [
        {"image_id": dataset.image_ids[name], **found}
        for name, size, heat, category in zip(images.names, images.sizes, maps, classes, strict=True)
        for found in boxes_of(heat, size, int(category), level, middle)
    ]


def boxes_of(heat: Map, size: tuple[int, int], category: int, level: float, middle: float) -> Iterator[dict[str, Any]]:
    """COCO results without an image's id from its map, at its full ``size`` (width, height)."""
    fx, fy = size[0] / heat.shape[1], size[1] / heat.shape[0]
    for region, peak in regions_above(heat, level):
        x, y, w, h = region.box
        yield {
            "category_id": category,
            "bbox": [round(v, 2) for v in (x * fx, y * fy, w * fx, h * fy)],
            "score": round(peak / (peak + middle), 5),
        }


def level_from_val(maps: Sequence[Map], labels: NDArray[Any]) -> float:
    """The map value at which regions count as found, from classes of val's images (N, 0 is good) and no dearer labels.

    What tells defective images from good ones best, an image being as defective as its peak; with good images alone,
    what GOOD_PIXELS of their pixels stay under.
    """
    if (labels > 0).any():
        return best_threshold(labels > 0, np.array([heat.max() for heat in maps]))
    return float(np.quantile(np.stack(maps), GOOD_PIXELS))


def to_full_size(images: Images, maps: Sequence[Map]) -> Mapping[str, Map]:
    """Image name -> map at the size of the image file."""
    return {name: full_size(heat, size) for name, size, heat in zip(images.names, images.sizes, maps, strict=True)}


def full_size(heat: Map, size: tuple[int, int]) -> Map:
    """A map at the ``size`` (width, height) of its image."""
    return np.asarray(cv2.resize(heat, size, interpolation=cv2.INTER_LINEAR), np.float32)


def pointing_game(dataset: Dataset, part: str, images: Images, maps: Sequence[Map]) -> dict[str, float]:
    """Share of defect images whose map peaks on a defect, or within SLACK px of one, and what chance would hit.

    J. Zhang et al., Top-Down Neural Attention by Excitation Backprop, IJCV 2018 (they allow 15 px). Chance is a
    point drawn anywhere in the image. NaN without the masks format.
    """
    hits, chances = [], []
    folder = dataset.folder / "masks" / "semantic" / part
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * SLACK + 1, 2 * SLACK + 1))
    for name, heat in zip(images.names, maps, strict=True):
        path = folder / f"{Path(name).stem}.png"
        mask = read_mask(path) if folder.is_dir() else np.zeros((1, 1), np.uint8)
        if not mask.any():
            continue
        shown = cv2.resize((mask > 0).astype(np.float32), heat.shape[::-1], interpolation=cv2.INTER_AREA)
        near = cv2.dilate((shown > 0).astype(np.uint8), kernel)
        hits.append(float(near[np.unravel_index(heat.argmax(), heat.shape)]))
        chances.append(float(near.mean()))
    return {"pointing": float(np.mean(hits or [np.nan])), "pointing_chance": float(np.mean(chances or [np.nan]))}
