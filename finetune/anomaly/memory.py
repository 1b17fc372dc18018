"""The memory of good patches: a coreset, and each patch's distance to it.

K. Roth et al., Towards Total Recall in Industrial Anomaly Detection (PatchCore), CVPR 2022.
"""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from converters.cli.terminal import progress
from finetune.anomaly.features import patch_features
from finetune.training.heat_maps import Map
from finetune.training.images import Images

PROJECTED = 64  # dimensions in which the coreset is chosen (Johnson and Lindenstrauss; section 3.2 of the paper)
MOST = 500_000  # cells that the coreset is chosen from, drawn at random where good images have more
BLUR = 4  # sigma, px, as in the paper


def coreset(features: Tensor, count: int, seed: int) -> Tensor:
    """Indices of ``count`` of N features (N x F), each the one farthest from those before: greedy k-centre."""
    generator = torch.Generator().manual_seed(seed)
    if features.shape[1] > PROJECTED:
        matrix = torch.randn(features.shape[1], PROJECTED, generator=generator) / PROJECTED**0.5
        features = features @ matrix.to(features.device)
    squares = features.square().sum(1)
    chosen = [int(torch.randint(len(features), (1,), generator=generator))]
    nearest = torch.full((len(features),), torch.inf, device=features.device)
    with progress(range(count - 1), count - 1, "choosing patches") as steps:
        for _ in steps:
            last = chosen[-1]
            torch.minimum(nearest, squares - 2 * (features @ features[last]) + squares[last], out=nearest)
            nearest[last] = -1  # rounding may leave it a little above 0
            chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen)


def remember(backbone: nn.Module, arch: str, good: Images, share: float, device: str, seed: int) -> Tensor:
    """M x F: the coreset of the features of good images."""
    candidates, _, _ = good_cells(backbone, arch, good, MOST, device, seed)
    return candidates[coreset(candidates, max(1, round(share * len(candidates))), seed)]


def good_cells(
    backbone: nn.Module, arch: str, good: Images, most: int, device: str, seed: int
) -> tuple[Tensor, Tensor, int]:
    """At most some ``most`` cells of good images, drawn at random: N x F, the image and the cell of each (N x 2), and
    the cells a side.
    """  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    each = -(-most // len(good))
    features: list[Tensor] = []
    places: list[Tensor] = []
    first, side = 0, 0
    for batch in patch_features(backbone, arch, good, device, "good images"):
        cells, side = batch.flatten(1, 2), batch.shape[1]
        drawn = torch.randperm(cells.shape[1], generator=generator)[:each]
        features.append(cells[:, drawn.to(device)].flatten(0, 1))
        places.append(torch.cartesian_prod(torch.arange(first, first + len(batch)), drawn))
        first += len(batch)
    return torch.cat(features), torch.cat(places), side


def distance_maps(
    backbone: nn.Module, arch: str, memory: Tensor, images: Images, device: str, label: str
) -> tuple[list[Map], list[float], int]:
    """Distances of images' cells to the nearest memory, smoothed, S x S float32; the largest of each; cells a side."""
    size = images.pixels.shape[-1]
    maps, largest, side = [], [], 0
    for features in patch_features(backbone, arch, images, device, label):
        side = features.shape[1]
        for cells in distances_of(features, memory).cpu().numpy():
            maps.append(smoothed(cells, size))
            largest.append(float(cells.max()))
    return maps, largest, side


def distances_of(features: Tensor, memory: Tensor) -> Tensor:
    """B x h x w: how far each cell (B x h x w x F) is from the nearest of the memory (M x F)."""
    return torch.cdist(features.flatten(0, 2), memory).amin(1).reshape(features.shape[:3])


def smoothed(cells: NDArray[np.float32], size: int) -> Map:
    """Distances of cells, h x w, as a map of ``size`` x ``size``."""
    full = cv2.resize(cells, (size, size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.GaussianBlur(full, (0, 0), BLUR), np.float32)
