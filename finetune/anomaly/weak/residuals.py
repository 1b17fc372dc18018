"""Residuals: what the blocks of an image have other than the good patches that they are nearest to.

H. Li et al., Industrial Anomaly Detection and Localization Using Weakly-Supervised Residual Transformers (arXiv
2306.03492) classify "Positional Fast Anomaly Residuals" (PosFAR): features minus their nearest good ones under a
constraint of position, of which the k nearest are kept to augment with. That much is in what could be read of it, the
abstracts of its versions. Ours are: the place as two more features, whose weight is in units of the features' own
spread; what is left out in training; and the network that features come from.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from finetune.anomaly.features import patch_features
from finetune.anomaly.memory import coreset, good_cells
from finetune.training.images import Images

CANDIDATES = 50_000  # cells of good images that the memory is chosen from
POSITION = 0.5  # a way through the whole image weighs as much as this times the features' spread
KEPT = 3  # nearest patches of each cell


@dataclass(frozen=True)
class Memory:
    """M good patches, each with its place."""

    features: Tensor  # M x F
    places: Tensor  # M x 2: row and column, 0..1
    owners: Tensor  # M: number of the object that the image shows

    def spread(self) -> Tensor:
        """How far a patch is from the mean patch, as a rule."""
        return self.features.var(0, correction=0).sum().sqrt()

    def nearest(self, features: Tensor, owner: int | None = None, count: int = 1) -> Tensor:
        """h x w x ``count``: indices of the patches that each cell (h x w x F) is nearest to, the nearest first.

        Patches of ``owner`` don't count: beside its own, an image in training would have no residuals.
        """
        height, width, _ = features.shape
        weight = POSITION * self.spread()
        cells = torch.cat([features.flatten(0, 1), weight * places_of(height, width).to(features.device)], 1)
        distances = torch.cdist(cells, torch.cat([self.features, weight * self.places], 1))
        if owner is not None:
            distances[:, self.owners == owner] = torch.inf
        return distances.topk(count, largest=False).indices.view(height, width, count)

    def residuals(self, features: Tensor) -> Tensor:
        """B x h x w x F: what each cell of images that were not learned from has other than its nearest patch."""
        return torch.stack([each - self.features[self.nearest(each)[..., 0]] for each in features])


def places_of(height: int, width: int) -> Tensor:
    """(h w) x 2: row and column of the middle of each cell, 0..1."""
    rows, columns = ((torch.arange(side) + 0.5) / side for side in (height, width))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)


def remember(
    backbone: nn.Module, arch: str, good: Images, owners: Tensor, share: float, device: str, seed: int
) -> Memory:
    """The coreset of good images' cells; ``owners`` (N) are the numbers of the objects that the images show.

    There must be two objects, since each is held against others.
    """
    features, cells, side = good_cells(backbone, arch, good, CANDIDATES, device, seed)
    chosen = coreset(features, max(2 * KEPT, round(share * len(features))), seed)
    image, cell = cells[chosen].unbind(1)
    return Memory(features[chosen], places_of(side, side)[cell].to(device), owners[image].to(device))


@dataclass(frozen=True)
class Table:
    """Features and nearest good patches of N training images, found once: 1000 images of 512 px take 1.3 GB."""

    features: Tensor  # N x h x w x F, float16
    nearest: Tensor  # N x h x w x K, int32: those of other objects
    memory: Memory  # on the CPU

    def residuals(self, index: int, window: tuple[slice, slice], rank: Tensor | None = None) -> Tensor:
        """h x w x F of a window of an image, to the nearest patch or to that of a ``rank``, 0..K - 1, of each cell."""
        found = self.nearest[index][window]
        chosen = found[..., 0] if rank is None else found.gather(-1, rank[..., None])[..., 0]
        return self.features[index][window].float() - self.memory.features[chosen.long()]


def look_up(backbone: nn.Module, arch: str, memory: Memory, images: Images, owners: Tensor, device: str) -> Table:
    """The table of training images; ``owners`` (N) are the numbers of the objects that they show."""
    others = len(memory.owners) - int(torch.bincount(memory.owners.cpu()).max())
    features, nearest, left = [], [], iter(owners.tolist())
    for batch in patch_features(backbone, arch, images, device, "looking at train"):
        features.append(batch.half().cpu())
        nearest += [memory.nearest(each, next(left), min(KEPT, others)).int().cpu() for each in batch]
    on_cpu = Memory(memory.features.cpu(), memory.places.cpu(), memory.owners.cpu())
    return Table(torch.cat(features), torch.stack(nearest), on_cpu)
