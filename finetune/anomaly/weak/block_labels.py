"""What a label says of an image's blocks: good, defect or unknown; and what a teacher makes of the unknown ones.

That blocks are classified, that those inside of boxes are unknown, and that a semi-supervised step (ResMixMatch) labels
them is in the abstracts of H. Li et al., arXiv 2306.03492. The shares, the bags and the teacher's rule are ours.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.measures.masks import regions

DEFECT = 0.25  # a block with this share of defect pixels or more is a defect; with none it is good
BOX_BAG, TAG_BAG = 0.2, 0.005  # share of an unknown box or image that is a defect, at least one block
SURE = 0.9  # the teacher's probability from which on an unknown block has a label


@dataclass(frozen=True)
class BlockLabels:
    """Labels of h x w blocks."""

    known: Tensor  # h x w, int8: 1 defect, 0 good, -1 unknown
    bags: Tensor  # h x w, int16: number, from 1, of the box or image around an unknown block that holds a defect; or 0
    share: float = 0.0  # of a bag's blocks that are a defect

    def taught(self, scores: Tensor, sure: float | None = SURE) -> Tensor:
        """h x w like ``known``, in which a teacher has labelled unknown blocks by its scores (h x w), and no other.

        The highest scores of each bag are defects; of the rest, those that are at least ``sure`` are, and those at most
        1 - ``sure`` are good. Without ``sure``, scores are no probabilities, and the rest stays unknown.
        """
        labels, unknown = self.known.clone(), self.known < 0
        if sure is not None:
            labels[unknown & (scores >= sure)] = 1
            labels[unknown & (scores <= 1 - sure)] = 0
        for number in range(1, int(self.bags.max()) + 1):
            bag = (self.bags == number).nonzero()
            highest = scores[bag[:, 0], bag[:, 1]].topk(max(1, round(self.share * len(bag)))).indices
            labels[tuple(bag[highest].T)] = 1
        return labels


def all_good(side: int) -> BlockLabels:
    """Of a good image."""
    return BlockLabels(torch.zeros(side, side, dtype=torch.int8), torch.zeros(side, side, dtype=torch.int16))


def from_mask(mask: NDArray[np.uint8], side: int) -> BlockLabels:
    """Of H x W pixels, 0 is good: unknown is what holds some defect, yet less than the share DEFECT.

    The fullest block of a defect is one in any case.
    """
    shares = _shares(mask > 0, side)
    known = np.where(shares >= DEFECT, 1, np.where(shares > 0, -1, 0)).astype(np.int8)
    for region in regions(mask):
        own = np.zeros(mask.shape, bool)
        x, y, w, h = region.box
        own[y : y + h, x : x + w] = region.pixels
        known.flat[_shares(own, side).argmax()] = 1
    return BlockLabels(torch.from_numpy(known), torch.zeros(side, side, dtype=torch.int16))


def _shares(mask: NDArray[np.bool_], side: int) -> NDArray[np.float32]:
    """The share of each block, side x side, that a mask covers."""
    return np.asarray(cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA), np.float32)


def from_boxes(boxes: Iterable[Sequence[float]], size: tuple[int, int], side: int) -> BlockLabels:
    """Of boxes of x, y, width, height in an image of ``size`` (width, height), px: outside is good, inside unknown.

    A block inside of several boxes is in the bag of the smallest.
    """
    bags = torch.zeros(side, side, dtype=torch.int16)
    for number, (x, y, w, h) in enumerate(sorted(boxes, key=lambda box: -box[2] * box[3]), start=1):
        (left, right), (top, low) = (
            (int(start * side / length), max(int(start * side / length) + 1, int(np.ceil(end * side / length))))
            for start, end, length in ((x, x + w, size[0]), (y, y + h, size[1]))
        )
        bags[top:low, left:right] = number
    return BlockLabels(-(bags > 0).to(torch.int8), bags, BOX_BAG)


def from_tag(side: int) -> BlockLabels:
    """Of an image that shows a defect somewhere."""
    everywhere = torch.ones(side, side, dtype=torch.int16)
    return BlockLabels(-everywhere.to(torch.int8), everywhere, TAG_BAG)
