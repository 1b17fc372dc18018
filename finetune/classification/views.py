"""What a training draws its images from: pixels, changed anew each time, or maps of a frozen network, computed once.

Both have ``draw``, a batch by the indices of its images, and ``split``, all images in batches.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from converters.cli.terminal import progress
from finetune.training.images import Images, augmentation, normalise


class Pixels:
    """Images as a network takes them, B x 3 x S x S; ``draw`` changes each at random."""

    def __init__(self, images: Images, augment: str, arch: str, device: str) -> None:
        self.pixels, self.arch, self.device = images.pixels, arch, device
        self.change = augmentation(augment, images.pixels.shape[-1])

    def draw(self, indices: Tensor) -> Tensor:
        return self.prepared(torch.stack([self.change(self.pixels[i]) for i in indices]))

    def split(self, batch: int) -> Iterator[Tensor]:
        return map(self.prepared, self.pixels.split(batch))

    def prepared(self, pixels: Tensor) -> Tensor:
        return normalise(pixels.to(self.device), self.arch).to(memory_format=torch.channels_last)


class Maps:
    """What a frozen CellNet's ``stages`` made of a few views of each image; ``draw`` takes any view of each.

    Kept in 16 bits: a view of 320 px takes 0.22 MB of memory, of 448 px 0.43 MB.
    """

    def __init__(self, network: Any, pixels: Pixels, views: int, seed: int) -> None:
        """The first of the ``views`` is the image as it is, the others are changed by ``pixels.change``."""
        self.device = pixels.device
        torch.manual_seed(seed)
        network.eval()
        with torch.no_grad(), progress(None, views * len(pixels.pixels), "looking") as bar:
            self.views = [self._look(network, pixels, view, bar) for view in range(views)]

    @staticmethod
    def _look(network: Any, pixels: Pixels, view: int, bar: Any) -> list[Tensor]:
        found = []
        for indices in torch.arange(len(pixels.pixels)).split(8):
            shown = pixels.draw(indices) if view else pixels.prepared(pixels.pixels[indices])
            found.append([maps.half().cpu() for maps in network.stages(shown)])
            bar.update(len(indices))
        return [torch.cat(stage) for stage in zip(*found, strict=True)]

    def draw(self, indices: Tensor) -> list[Tensor]:
        chosen = torch.randint(len(self.views), (len(indices),)).tolist()
        pairs = zip(chosen, indices.tolist(), strict=True)
        drawn = [[maps[index] for maps in self.views[view]] for view, index in pairs]
        return self.prepared([torch.stack(stage) for stage in zip(*drawn, strict=True)])

    def split(self, batch: int) -> Iterator[list[Tensor]]:
        return map(self.prepared, zip(*(maps.split(batch) for maps in self.views[0]), strict=True))

    def prepared(self, maps: Any) -> list[Tensor]:
        return [one.to(self.device).float() for one in maps]
