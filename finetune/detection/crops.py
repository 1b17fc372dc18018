"""Squares of whole images for training: most of a product's image shows no defect, and what shows none is soon learnt.

Unlike the tiles of a converter, they are cut in the run's own view of the train part, and a model that has learnt from
them looks at whole images on the same scale.
"""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from converters.datasets.tiles import TileRule, grid
from finetune.measures.masks import decode
from finetune.runs.dataset import Dataset, read_image
from finetune.runs.truth import Truth

OVERLAP = 0.5  # so that a defect that a square cuts is whole in the next
LEAST_SHARE = 0.3  # of a defect's pixels in a square: with less of it, a square is left out
LEAST_PIXELS = 10  # of a defect: a speck teaches nothing, not even what good images look like


def cut_train_part(dataset: Dataset, size: int, images: Path, labels: Path) -> list[str]:
    """Write the train part as squares of ``size`` px, PNG and YOLO polygons of the same stem; return the files' names.

    A polygon is the convex hull of what the square shows of a defect, so that boxes stay tight when it is turned.
    """
    truth = Truth(dataset, "train")
    names = []
    for index, name in enumerate(truth.names):
        image = read_image(dataset.image_file("train", name), cv2.IMREAD_UNCHANGED)
        height, width = truth.sizes[index]
        masks = [
            (entry["category_id"] - 1, decode(entry["segmentation"], height, width))
            for entry in truth.annotations[index]
        ]
        for x, y, w, h in grid(width, height, TileRule(size, OVERLAP)):
            window = np.s_[y : y + h, x : x + w]
            shown = [(label, mask, mask[window]) for label, mask in masks if mask[window].any()]
            rows = [
                hull_row(label, part)
                for label, mask, part in shown
                if mask.sum() >= LEAST_PIXELS and part.sum() / mask.sum() >= LEAST_SHARE
            ]
            if rows or not shown:
                file = images / f"{Path(name).stem}@{x}_{y}.png"
                cv2.imwrite(str(file), image[window])
                (labels / f"{file.stem}.txt").write_text("\n".join(rows), "utf-8")
                names.append(file.name)
    return names


def hull_row(label: int, mask: NDArray[np.uint8]) -> str:
    """The convex hull of a mask's pixels as a row of YOLO; pixels have an extent, so that a line has one too."""
    rows, columns = np.nonzero(mask)
    corners = np.concatenate([np.stack([columns + dx, rows + dy], axis=1) for dx in (0, 1) for dy in (0, 1)])
    hull = cv2.convexHull(corners.astype(np.int32))[:, 0] / mask.shape[::-1]
    return " ".join([str(label), *(f"{value:.6f}" for value in hull.ravel())])
