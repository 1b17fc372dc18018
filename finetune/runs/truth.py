"""The ground truth of a part: annotations, and their masks decoded when they are asked for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from finetune.measures.masks import Region, merged, regions
from finetune.runs.dataset import Dataset


@dataclass(frozen=True)
class Truth:
    """The ground truth of one part: N images in the order of their ids.

    ``label`` is the kind of label that it tells of, since a model's thresholds are to come from no dearer ones than it
    learned from: with "none" and "good" it holds the good images alone, with "box" masks are filled boxes; with
    "class" masks are there as well, and not to be looked at.
    """

    dataset: Dataset
    part: str
    label: str = "mask"

    @cached_property
    def coco(self) -> dict[str, Any]:
        self.dataset.format("coco")
        return self.dataset.ground_truth(self.part)

    @cached_property
    def names(self) -> list[str]:
        labels = self.dataset.labels(self.part)
        return [name for name in self.dataset.images(self.part) if labels[name] is None or not self._good_only]

    @property
    def _good_only(self) -> bool:
        return self.label in ("none", "good")

    @cached_property
    def ids(self) -> list[int]:
        return [self.dataset.image_ids[name] for name in self.names]

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """0 for a good image, else the index of its class + 1; (N,)."""
        labels = self.dataset.labels(self.part)
        known = (labels[name] for name in self.names)
        return np.array([0 if label is None else label + 1 for label in known], np.int64)

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each image."""
        by_id = {entry["id"]: (entry["height"], entry["width"]) for entry in self.coco["images"]}
        return [by_id[id_] for id_ in self.ids]

    @cached_property
    def annotations(self) -> list[list[dict[str, Any]]]:
        """COCO annotations of each image."""
        return grouped(self.coco["annotations"], self.ids)

    @cached_property
    def groups(self) -> list[str]:
        """A name for each image that byte-identical ones share, those of one group, and the tiles of one image."""
        first = {
            key.replace("/", "__"): group[0].replace("/", "__")
            for group in self.dataset.card.get("duplicates", ())
            for key in group
        }
        groups = self.dataset.split.get("groups", {})
        first |= {key.replace("/", "__"): f"group/{group}" for key, group in groups.items()}
        tiles = self.dataset.tiles
        whole = [tiles["tiles"][name]["image"] if tiles else name for name in self.names]
        return [first.get(name, name) for name in whole]

    @property
    def strata(self) -> list[int]:
        """The label of each image, and of a tile that shows nothing the label of the image that it was cut from."""
        of_group: dict[str, int] = {}
        for group, label in zip(self.groups, self.labels.tolist(), strict=True):
            of_group[group] = max(label, of_group.get(group, 0))
        return [of_group[group] for group in self.groups]

    @cached_property
    def _encoded(self) -> list[dict[str, Any] | None]:
        """All defects of each image as one RLE, which takes little memory and is fast to decode."""
        found: list[dict[str, Any] | None] = []
        for entries, size in zip(self.annotations, self.sizes, strict=True):
            shapes = [box_outline(entry["bbox"]) if self.label == "box" else entry["segmentation"] for entry in entries]
            parts = [merged(shape, *size) for shape in shapes]
            found.append(coco_mask.merge(parts) if parts else None)
        return found

    @cached_property
    def regions(self) -> list[list[Region]]:
        """The connected defects of each image, which pixel measures count by."""
        return [regions(self.mask(index)) if code else [] for index, code in enumerate(self._encoded)]

    def mask(self, index: int) -> NDArray[np.uint8]:
        """All defects of an image, H x W of 0 and 1."""
        encoded = self._encoded[index]
        return np.zeros(self.sizes[index], np.uint8) if encoded is None else coco_mask.decode(encoded)


@lru_cache(maxsize=32)
def truth_of(dataset: Dataset, part: str, label: str = "mask") -> Truth:
    return Truth(dataset, part, label)


def box_outline(box: Sequence[float]) -> list[list[float]]:
    """A box of x, y, width, height as a COCO polygon."""
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def grouped(entries: Iterable[dict[str, Any]], ids: Sequence[int]) -> list[list[dict[str, Any]]]:
    """COCO entries image by image, in the order of ``ids``; those of other images are left out."""
    found: dict[int, list[dict[str, Any]]] = {id_: [] for id_ in ids}
    for entry in entries:
        if entry["image_id"] in found:
            found[entry["image_id"]].append(entry)
    return [found[id_] for id_ in ids]
