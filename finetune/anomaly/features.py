"""Patch features of two middle stages of a torchvision ResNet."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor

from converters.cli.terminal import progress
from finetune.anomaly.recipe import Recipe
from finetune.training.backbones import build_network, start_from
from finetune.training.images import Images, normalise

STAGES = ("layer2", "layer3")  # strides 8 and 16: local, and not yet about ImageNet's classes
BATCH = 16


def build_backbone(recipe: Recipe, checkpoint: Path | None) -> nn.Module:
    """A ResNet that returns the maps of STAGES as a dictionary, in evaluation mode."""
    torch.manual_seed(recipe.seed)
    network = build_network(recipe.arch, 2, recipe.imgsz, "linear", 0.0, None)
    if checkpoint:
        start_from(network, checkpoint, recipe.arch)
    return create_feature_extractor(network.eval(), list(STAGES))


def patch_features(backbone: nn.Module, images: Images, device: str, label: str) -> Iterator[Tensor]:
    """B x h x w x F features of the cells of each batch of images; the coarser stage is brought to the finer's size."""
    with torch.no_grad(), progress(None, len(images), label) as bar:
        for pixels in images.pixels.split(BATCH):
            stages = [F.avg_pool2d(stage, 3, 1, 1) for stage in backbone(normalise(pixels.to(device))).values()]
            size = stages[0].shape[-2:]
            same = [stages[0], *(F.interpolate(stage, size, mode="bilinear") for stage in stages[1:])]
            yield torch.cat(same, 1).permute(0, 2, 3, 1)
            bar.update(len(pixels))
