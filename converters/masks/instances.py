"""From a mask to instances: the connected components of its foreground."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from converters.sources.samples import Crop

Mask = NDArray[np.uint8]  # H x W, 0 or 1
Chain = NDArray[np.int32]  # N x 2, (x, y): border pixels in order, background on the walker's right


@dataclass(frozen=True)
class InstanceRule:
    """The rule by which a mask is divided: the options ``--instances --connectivity --merge-gap --min-area``."""

    instances: str = "component"
    connectivity: int = 8
    merge_gap: int = 0
    min_area: int = 1

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """The rule among the settings of a card, or the options of a command."""
        return cls(settings["instances"], int(settings["connectivity"]), settings["merge_gap"], settings["min_area"])


@dataclass(frozen=True)
class Instance:
    """One defect: ``mask`` (h x w of 0 and 1) is cropped to its bounding box, whose corner is at ``x0, y0``."""

    x0: int
    y0: int
    mask: Mask
    area: int

    @classmethod
    def of(cls, mask: Mask) -> Self:
        """All foreground of an image's mask (H x W of 0 and 1), of which there may be none, as one instance."""
        x, y, width, height = cv2.boundingRect(mask)
        crop = mask[y : y + height, x : x + width].copy()  # lets go of the whole
        return cls(x, y, crop, int(np.count_nonzero(crop)))

    @property
    def xyxy(self) -> tuple[int, int, int, int]:
        """Bounding box on pixel edges: x1 and y1 are one past the last column and row."""
        height, width = self.mask.shape
        return self.x0, self.y0, self.x0 + width, self.y0 + height

    @property
    def xywh(self) -> tuple[int, int, int, int]:
        height, width = self.mask.shape
        return self.x0, self.y0, width, height

    @cached_property
    def borders(self) -> list[list[Chain]]:
        """Border chains of each 8-connected part, in the crop: the outer one first, then one for each hole.

        Followed once for all formats that write outlines.
        """
        found, tree = cv2.findContours(self.mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        chains: list[Chain] = [np.asarray(chain, np.int32).reshape(-1, 2) for chain in found]
        links: Any = np.asarray(tree).reshape(-1, 4).tolist()  # next, previous, first hole, parent
        parts = []
        for index, (_, _, hole, parent) in enumerate(links):
            if parent < 0:
                part = [chains[index]]
                while hole >= 0:
                    part.append(chains[hole])
                    hole = links[hole][0]
                parts.append(part)
        return parts


def find_instances(
    mask: Mask, rule: InstanceRule = InstanceRule(), within: tuple[int, int, int, int] | None = None
) -> list[Instance]:
    """Divide a mask (H x W of 0 and 1) into instances, from top to bottom as OpenCV labels them.

    Instances below ``rule.min_area`` pixels are left out; an empty mask has none. ``within`` is the mask's
    bounding xywh where the caller knows it already: finding it costs a tenth of decoding the mask.
    """
    x, y, width, height = within or cv2.boundingRect(mask)
    if width == 0:
        return []
    crop = mask[y : y + height, x : x + width]
    # Labelling alone tells cheaply that a mask is one part, as most are.
    if rule.instances == "image" or cv2.connectedComponents(crop, connectivity=rule.connectivity)[0] == 2:
        found = [Instance(x, y, crop, int(cv2.countNonZero(crop)))]
    else:
        found = _components(crop, x, y, rule)
    return [instance for instance in found if instance.area >= rule.min_area]


def _components(crop: Mask, x: int, y: int, rule: InstanceRule) -> list[Instance]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(crop, connectivity=rule.connectivity)
    if count > 2 and rule.merge_gap:
        labels, stats = _merge(labels, stats, rule.merge_gap)
    instances = []
    for label, (left, top, width, height, area) in enumerate(stats[1:].tolist(), start=1):
        part = (labels[top : top + height, left : left + width] == label).view(np.uint8)
        instances.append(Instance(x + left, y + top, part, area))
    return instances


def _merge(labels: NDArray[Any], stats: NDArray[Any], gap: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Join components whose nearest pixel centres lie less than ``gap`` pixels apart (Euclidean)."""
    group = np.arange(len(stats))
    for label, (left, top, width, height, _) in enumerate(stats[1:].tolist(), start=1):
        rows = slice(max(top - gap, 0), top + height + gap)
        columns = slice(max(left - gap, 0), left + width + gap)
        around = labels[rows, columns]
        distance = cv2.distanceTransform((around != label).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        near = np.unique(group[around[(distance < gap) & (around > 0)]])
        group[np.isin(group, near)] = near.min()
    kept, group = np.unique(group, return_inverse=True)
    merged = group[labels].astype(np.int32)
    boxes = [cv2.boundingRect((merged == label).view(np.uint8)) for label in range(1, len(kept))]
    areas = np.bincount(merged.ravel(), minlength=len(kept))
    return merged, np.array([[0] * 5, *([*box, area] for box, area in zip(boxes, areas[1:], strict=True))])


def cropped(mask: Mask, crop: Crop) -> Mask:
    """The part of a mask that lies in a tile."""
    x, y, width, height = crop
    return mask[y : y + height, x : x + width]
