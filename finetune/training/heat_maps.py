"""Boxes from heat maps, and whether the peak of a map hits the defect."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from finetune.measures.boxes import box_metrics
from finetune.measures.masks import regions_above
from finetune.runs.dataset import Dataset, read_mask
from finetune.training.images import Images

Map = NDArray[np.float32]
QUANTILES = (0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)  # of val's map values: candidates for the box threshold
SLACK = 8  # px of the S x S input around a defect that still count as a hit: one cell of a map of stride 8


def detections(
    dataset: Dataset, images: Images, maps: Sequence[Map], classes: Sequence[int], threshold: float, scale: float
) -> list[dict[str, Any]]:
    """COCO results from maps, at full image size, scored by peak / scale; ``classes`` are N, from 1."""
    found = []
    for name, (width, height), heat, category in zip(images.names, images.sizes, maps, classes, strict=True):
        fx, fy = width / heat.shape[1], height / heat.shape[0]
        for region, peak in regions_above(heat, threshold):
            x, y, w, h = region.box
            found.append(
                {
                    "image_id": dataset.image_ids[name],
                    "category_id": int(category),
                    "bbox": [round(v, 2) for v in (x * fx, y * fy, w * fx, h * fy)],
                    "score": round(min(1.0, peak / scale), 5),
                }
            )
    return found


def fit_box_threshold(
    dataset: Dataset,
    part: str,
    images: Images,
    maps: Sequence[Map],
    classes: Sequence[int],
    scale: float,
    use_classes: bool = True,
) -> float:
    """The map value whose regions have the best AP50 on a part. For val, never for test."""
    truth = dataset.ground_truth(part)
    candidates = np.quantile(np.stack(maps), QUANTILES)
    found = [detections(dataset, images, maps, classes, float(value), scale) for value in candidates]
    scores = [average_precision(truth, boxes, use_classes) for boxes in found]
    return float(candidates[-1] if np.isnan(scores).all() else candidates[int(np.nanargmax(scores))])


def average_precision(truth: dict[str, Any], boxes: list[dict[str, Any]], use_classes: bool) -> float:
    """AP50 as the mean over classes, or with all classes as one; NaN where the part shows no defect."""
    if not use_classes:
        defects = [{**entry, "category_id": 1} for entry in truth["annotations"]]
        truth = {**truth, "annotations": defects, "categories": [{"id": 1, "name": "defect"}]}
    return box_metrics(truth, boxes).map50 if truth["annotations"] else float("nan")


def to_full_size(images: Images, maps: Sequence[Map]) -> Mapping[str, Map]:
    """Image name -> map at the size of the image file."""
    return {
        name: np.asarray(cv2.resize(heat, size, interpolation=cv2.INTER_LINEAR), np.float32)
        for name, size, heat in zip(images.names, images.sizes, maps, strict=True)
    }


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
