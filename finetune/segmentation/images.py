"""Images and instance masks of a dataset as SAM sees them: in eight views, resized for the encoder and for the loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from converters.cli.errors import DatasetError
from finetune.runs.dataset import Dataset, read_image, read_mask
from finetune.segmentation.prompts import Mask

VIEWS = 8  # a square's symmetries: view = 4 * mirrored + quarter turns; 0 is the image as it is


@dataclass(frozen=True)
class MarkedImage:
    """One image and what is marked in it; pixels are read when asked for."""

    name: str
    path: Path
    masks: tuple[Path, Path]  # PNGs of classes (index + 1) and of instances (1, 2, ...)
    joined: bool  # one instance for all defects of the image
    marked: bool  # does it show a defect?

    def pixels(self, view: int = 0) -> NDArray[np.uint8]:
        """H x W x 3, RGB."""
        return seen_as(read_image(self.path, cv2.IMREAD_COLOR_RGB), view)

    def instances(self, view: int = 0) -> tuple[NDArray[np.int64], list[int]]:
        """The number of each pixel's instance, H x W, 0 for none; and the class of instance 1, 2, ..."""
        classes, ids = (_read(path) for path in self.masks)
        if self.joined:
            ids = (ids > 0).astype(ids.dtype)
        kinds = [int(np.bincount(classes[ids == number]).argmax()) - 1 for number in range(1, int(ids.max()) + 1)]
        return seen_as(ids, view), kinds

    def size(self) -> tuple[int, int]:
        """(height, width), from the file's header."""
        with Image.open(self.path) as image:
            return image.height, image.width

    def mask(self) -> Mask:
        """All defects, H x W."""
        return (_read(self.masks[1]) > 0).astype(np.uint8)

    def main_kind(self) -> int:
        """The class of most defect pixels."""
        classes = _read(self.masks[0])
        return int(np.bincount(classes[classes > 0]).argmax()) - 1


def images_of(dataset: Dataset, part: str, joined: bool) -> list[MarkedImage]:
    """The images of a part; raises DatasetError for an empty one, or where there are no PNG masks."""
    folder, names, labels = dataset.format("masks"), dataset.images(part), dataset.labels(part)
    if not names:
        raise DatasetError(f"{dataset.folder}: the {part} part holds no image; convert with another --protocol")
    stems = [f"{Path(name).stem}.png" for name in names]
    return [
        MarkedImage(
            name,
            dataset.image_file(part, name),
            (folder / "semantic" / part / stem, folder / "instance" / part / stem),
            joined,
            labels[name] is not None,
        )
        for name, stem in zip(names, stems, strict=True)
    ]


def _read(path: Path) -> NDArray[np.int64]:
    return read_mask(path).astype(np.int64)


def seen_as(pixels: NDArray[Any], view: int) -> NDArray[Any]:
    """H x W (x 3), mirrored left to right where ``view`` is 4 or more, then turned by ``view % 4`` quarters."""
    return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if view >= 4 else pixels, view % 4))


def fitted(size: Sequence[int], longest: int) -> tuple[int, int]:
    """(height, width) with ``longest`` as the longer side, rounded as SAM's own ResizeLongestSide rounds."""
    scale = longest / max(size)
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def covered(mask: Mask, size: tuple[int, int]) -> NDArray[np.float32]:
    """The share of each cell that a mask covers after resizing it to ``size``, (height, width), 0..1.

    Shrinking averages over areas, so a part of one pixel or a hole keeps its share of a cell, and all cells
    together the mask's area: nothing is rounded away, as it is by taking every n-th pixel.
    """
    return np.asarray(cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA), np.float32)


def binary(cover: NDArray[np.float32]) -> Mask:
    """Cells that are covered by half; where none is, those that are covered most. Never empty if the mask wasn't."""
    return (cover >= min(0.5, float(cover.max()))).astype(np.uint8) if cover.any() else np.zeros(cover.shape, np.uint8)
