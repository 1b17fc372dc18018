"""Patch features of the middle stages of a network."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor

from converters.cli.errors import DatasetError
from converters.cli.terminal import progress
from finetune.anomaly.recipe import Recipe
from finetune.runs.checksums import sha256
from finetune.training.backbones import build_network, start_from
from finetune.training.images import Images, normalise
from finetune.training.published import TIMM, start_weights
from finetune.training.weights import EMBEDDED

# Strides 8 and 16: local, and not yet about ImageNet's classes.
STAGES = {"layer2": "fine", "layer3": "coarse"}  # of a ResNet
INDICES = (2, 3)  # of EfficientNet-Lite0
BATCH = 16


def build_backbone(recipe: Recipe, checkpoint: Path | None) -> nn.Module:
    """A network that returns its maps of strides 8 and 16, N x F x h x w each, in evaluation mode."""
    torch.manual_seed(recipe.seed)
    network = build_network(recipe.arch, 2, recipe.imgsz, "linear", 0.0, None)
    if checkpoint:
        start_from(network, checkpoint, recipe.arch)
    if recipe.arch != EMBEDDED:
        return create_feature_extractor(network.eval(), STAGES)
    stages = timm.create_model(TIMM, features_only=True, out_indices=INDICES)
    stages.load_state_dict(network.state_dict(), strict=False)  # all but what comes after the last stage
    return stages.eval()


def patch_features(backbone: nn.Module, arch: str, images: Images, device: str, label: str) -> Iterator[Tensor]:
    """B x h x w x F features of the cells of each batch of images, averaged over 3 x 3 cells of their own stage.

    The coarser stage is brought to the finer's size (Roth et al., PatchCore, CVPR 2022, section 3.1).
    """
    with torch.no_grad(), progress(None, len(images), label) as bar:
        for pixels in images.pixels.split(BATCH):
            yield features_of(backbone, arch, pixels.to(device))
            bar.update(len(pixels))


def features_of(backbone: nn.Module, arch: str, pixels: Tensor) -> Tensor:
    """B x h x w x F features of the cells of B images (B x 3 x S x S of 0..255)."""
    found = backbone(normalise(pixels, arch))
    stages = [F.avg_pool2d(stage, 3, 1, 1) for stage in (found.values() if isinstance(found, dict) else found)]
    size = stages[0].shape[-2:]
    same = [stages[0], *(F.interpolate(stage, size, mode="bilinear") for stage in stages[1:])]
    return torch.cat(same, 1).permute(0, 2, 3, 1)


def weights_of_run(folder: Path, settings: Mapping[str, Any], weights: Path | None) -> Path | None:
    """The file that the network of a run began with, or ``weights``, where it lies now; None for random weights.

    Raises DatasetError where it is gone, or another.
    """
    try:
        checkpoint = start_weights(str(weights or settings["weights"]), settings["arch"])
    except DatasetError as error:
        raise DatasetError(f"{folder}: needs its weights: name where they lie now, with --weights ({error})") from None
    if (checkpoint and sha256(checkpoint)) != settings["weights_sha256"]:
        raise DatasetError(f"{folder}: was not made with {checkpoint}: name the file that it was, with --weights")
    return checkpoint
