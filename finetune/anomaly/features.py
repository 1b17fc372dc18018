"""Patch features of two middle stages of a torchvision ResNet."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.cli.terminal import progress

if TYPE_CHECKING:
    from torch import Tensor, nn

    from finetune.training.images import Images


ARCHS = ("resnet18", "resnet34", "resnet50", "wide_resnet50_2")  # the paper's is the last
STAGES = ("layer2", "layer3")  # strides 8 and 16: local, and not yet about ImageNet's classes
BATCH = 16


def build_backbone(arch: str, checkpoint: Path | None, imgsz: int, seed: int) -> "nn.Module":
    """A ResNet that returns the maps of STAGES as a dictionary, in evaluation mode."""
    import torch
    from torchvision.models.feature_extraction import create_feature_extractor

    from finetune.training.backbones import build_network, start_from

    torch.manual_seed(seed)
    network = build_network(arch, 2, imgsz, "linear", 0.0, None)
    if checkpoint:
        start_from(network, checkpoint, arch)
    return create_feature_extractor(network.eval(), list(STAGES))


def patch_features(backbone: Any, images: "Images", device: str, label: str) -> Iterator["Tensor"]:
    """B x h x w x F features of the cells of each batch of images; the coarser stage is brought to the finer's size."""
    import torch
    from torch.nn import functional as F

    from finetune.training.images import normalise

    with torch.no_grad(), progress(None, len(images), label) as bar:
        for pixels in images.pixels.split(BATCH):
            stages = [F.avg_pool2d(stage, 3, 1, 1) for stage in backbone(normalise(pixels.to(device))).values()]
            size = stages[0].shape[-2:]
            same = [stages[0], *(F.interpolate(stage, size, mode="bilinear") for stage in stages[1:])]
            yield torch.cat(same, 1).permute(0, 2, 3, 1)
            bar.update(len(pixels))
