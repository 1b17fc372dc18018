"""The memory of good patches: a coreset, and each patch's distance to it."""

import cv2
import torch
from torch import Tensor, nn

from finetune.anomaly.features import patch_features
from finetune.training.heat_maps import Map
from finetune.training.images import Images

PROJECTED = 128  # dimensions in which the coreset is chosen (Johnson and Lindenstrauss; section 3.2 of PatchCore)
CANDIDATES = 20_000  # cells that the coreset is chosen from, drawn at random where there are more


def coreset(features: Tensor, count: int, seed: int) -> Tensor:
    """Indices of ``count`` of N features (N x F), each the one farthest from those before: greedy k-centre."""
    generator = torch.Generator().manual_seed(seed)
    if features.shape[1] > PROJECTED:
        matrix = torch.randn(features.shape[1], PROJECTED, generator=generator) / PROJECTED**0.5
        features = features @ matrix.to(features.device)
    chosen = [int(torch.randint(len(features), (1,), generator=generator))]
    nearest = torch.full((len(features),), torch.inf, device=features.device)
    for _ in range(count - 1):
        nearest = torch.minimum(nearest, (features - features[chosen[-1]]).square().sum(1))
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen)


def remember(backbone: nn.Module, good: Images, share: float, device: str, seed: int) -> Tensor:
    """M x F: the coreset of the features of good images."""
    generator = torch.Generator().manual_seed(seed)
    most = -(-CANDIDATES // len(good))
    kept = []
    for features in patch_features(backbone, good, device, "good images"):
        cells = features.flatten(1, 2)
        kept.append(cells[:, torch.randperm(cells.shape[1], generator=generator)[:most].to(device)].flatten(0, 1))
    candidates = torch.cat(kept)
    return candidates[coreset(candidates, max(1, round(share * len(candidates))), seed)]


def distance_maps(backbone: nn.Module, memory: Tensor, images: Images, device: str, label: str) -> list[Map]:
    """S x S float32 of each image: distance of each cell to the nearest memory, smoothed as in the paper (sigma 4)."""
    size, maps = images.pixels.shape[-1], []
    for features in patch_features(backbone, images, device, label):
        nearest = torch.cdist(features.flatten(0, 2), memory).amin(1).reshape(features.shape[:3])
        for heat in nearest.cpu().numpy():
            full = cv2.resize(heat, (size, size), interpolation=cv2.INTER_LINEAR)
            maps.append(cv2.GaussianBlur(full, (0, 0), 4))
    return maps
