"""Networks that classifiers and feature maps start from: EfficientNet-Lite0, our own two, all of torchvision's."""

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from converters.cli.errors import DatasetError
from finetune.training.checkpoints import load_state
from finetune.training.painted_defects import CELLS
from finetune.training.published import TIMM
from finetune.training.weights import EMBEDDED, OWN

CHANNELS = (32, 64, 128, 256)
STAGES = {2: 40, 4: 112}  # blocks of EfficientNet-Lite0 with the last maps of strides 8 and 16, and their features
CELL_FEATURES = 64  # of CellNet
LOOKS = 6  # cells of the feature map that FineNet looks at most
AUXILIARY = {"googlenet": {"aux_logits": False, "init_weights": True}, "inception_v3": {"aux_logits": False}}


class Head(nn.Sequential):
    """The last layers, N x F -> N x C: `linear`, or `mlp` with a hidden layer and dropout."""

    def __init__(self, features: int, classes: int, kind: str, dropout: float) -> None:
        if kind == "mlp":
            hidden = max(64, features // 2)
            layers = [nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes)]
        else:
            layers = [nn.Dropout(dropout), nn.Linear(features, classes)]
        super().__init__(*layers)


class DeepNet(nn.Module):
    """Four stages of convolution, BatchNorm, LeakyReLU and pooling, 32 to 256 channels, averaged over the image."""

    def __init__(self, classes: int, head: str, dropout: float) -> None:
        super().__init__()
        stages = [_stage(before, after) for before, after in zip((3, *CHANNELS), CHANNELS, strict=False)]
        self.features = nn.Sequential(*stages)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = Head(CHANNELS[-1], classes, head, dropout)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.features(images)))


def _stage(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.1), nn.MaxPool2d(2)
    )


class FineNet(nn.Module):
    """A residual network of stride 8 that looks at the few cells which it takes for a defect.

    ``cells`` names each cell of the feature map (see `finetune.classification.pretext`, where it learns to); the
    cells least likely to be untouched are averaged, beside the largest and the mean of each feature over the image.
    """

    def __init__(self, classes: int, head: str, dropout: float) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.InstanceNorm2d(3),  # light and colour of an image as a whole are no defect
            *_convolution(3, 16, 5, stride=2),
            *_convolution(16, 32, 3),
            nn.MaxPool2d(2),
            Residual(32, 64),
            Residual(64, 128, stride=2),
            Residual(128, 128),
            Residual(128, 128, dilation=2),
        )
        self.cells = nn.Conv2d(128, CELLS, 1)
        self.head = Head(3 * 128, classes, head, dropout)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.features(images)))

    def pool(self, features: Tensor) -> Tensor:
        """N x 128 x h x w -> N x 384."""
        defect = 1 - self.cells(features).float().softmax(1)[:, 0].flatten(1)
        share, at = defect.topk(min(LOOKS, defect.shape[1]), 1)
        looked = features.flatten(2).gather(2, at[:, None].expand(-1, features.shape[1], -1))
        return torch.cat([(looked * share[:, None]).mean(2), features.amax((2, 3)), features.mean((2, 3))], 1)


class CellNet(nn.Module):
    """EfficientNet-Lite0 whose head looks at cells of 8 px: in an average over the image a small defect is lost.

    The maps of strides 8 and 16 are standardised, projected to CELL_FEATURES and added at the finer one's size; of
    each feature, the largest value among all cells enters the head, standardised as well. What comes after these
    strides is left out.
    """

    def __init__(self, classes: int, dropout: float) -> None:
        super().__init__()
        published: Any = timm.create_model(TIMM)
        self.conv_stem, self.bn1, self.blocks = published.conv_stem, published.bn1, published.blocks[: max(STAGES) + 1]
        self.cells, self.standard = Cells(), Standard(CELL_FEATURES, affine=False)
        self.head = Head(CELL_FEATURES, classes, "linear", dropout)

    def forward(self, images: Tensor | list[Tensor]) -> Tensor:
        """N x 3 x S x S images, or what ``stages`` made of them -> N x C."""
        maps = self.stages(images) if isinstance(images, Tensor) else images
        return self.head(self.standard(self.cells(maps).amax((2, 3))))

    @torch.no_grad()
    def activations(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """N x C logits of N images, and N x h x w: by how much each cell speaks for the likeliest defect, not for good.

        The class activation map of B. Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016.
        """
        cells = self.cells(self.stages(images))
        logits = self.head(self.standard(cells.amax((2, 3))))
        last: Any = self.head[-1]
        weight = last.weight / self.standard.deviation()
        spoken = weight[logits[:, 1:].argmax(1) + 1] - weight[0]
        return logits, F.relu(torch.einsum("nfhw,nf->nhw", cells, spoken))

    def stages(self, images: Tensor) -> list[Tensor]:
        """N x 3 x S x S -> maps of N x 40 x S/8 x S/8 and N x 112 x S/16 x S/16."""
        maps, found = self.bn1(self.conv_stem(images)), []
        for index, block in enumerate(self.blocks):
            maps = block(maps)
            if index in STAGES:
                found.append(maps)
        return found


class Standard(nn.BatchNorm1d):
    """BatchNorm, by its running statistics where a batch is one image, which has no deviation."""

    running_mean: Tensor
    running_var: Tensor

    def deviation(self) -> Tensor:
        return (self.running_var + self.eps).sqrt()

    def forward(self, input: Tensor) -> Tensor:
        if self.training and len(input) > 1:
            return super().forward(input)
        return (input - self.running_mean) / self.deviation()


class Cells(nn.Module):
    """The maps of two strides, the finer first -> N x CELL_FEATURES x h x w of the finer one's h and w."""

    def __init__(self) -> None:
        super().__init__()
        widths = STAGES.values()
        self.standards = nn.ModuleList(nn.BatchNorm2d(width, affine=False) for width in widths)
        self.projections = nn.ModuleList(nn.Conv2d(width, CELL_FEATURES, 1) for width in widths)

    def forward(self, maps: list[Tensor]) -> Tensor:
        layers = zip(maps, self.standards, self.projections, strict=True)
        fine, coarse = (projection(standard(one)) for one, standard, projection in layers)
        return F.relu(fine + F.interpolate(coarse, fine.shape[-2:], mode="bilinear"))


class Residual(nn.Module):
    """Two 3 x 3 convolutions and a way around them (He et al., CVPR 2016)."""

    def __init__(self, before: int, after: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.straight = nn.Sequential(
            *_convolution(before, after, 3, stride, dilation), *_convolution(after, after, 3, 1, dilation)[:-1]
        )
        self.around = nn.Sequential(nn.AvgPool2d(stride), *_convolution(before, after, 1)[:-1])
        if before == after and stride == 1:
            self.around = nn.Sequential()

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.straight(images) + self.around(images))


def _convolution(before: int, after: int, size: int, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    padding = size // 2 * dilation
    return [
        nn.Conv2d(before, after, size, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    ]


def known_networks() -> list[str]:
    """Names for --arch: the one whose weights are installed, our own, then torchvision's classification networks."""
    return [EMBEDDED, *OWN, *models.list_models(module=models)]


def build_network(arch: str, classes: int, imgsz: int, head: str, dropout: float, stride: int | None) -> nn.Module:
    """A network with random weights and a head for ``classes``.

    ``stride``: at most this many px of the image to a cell of the last feature map (for torchvision's; later
    strides become 1, the weights still fit). Raises DatasetError where the network can't take ``imgsz``.
    """
    if arch == "fine" and imgsz % 8:
        raise DatasetError(f"--arch fine can't take images of --imgsz {imgsz}: a multiple of 8 is needed")
    if arch in OWN:
        return {"fine": FineNet, "deep": DeepNet}[arch](classes, head, dropout)
    if arch == EMBEDDED and head == "cells":
        return CellNet(classes, dropout)
    settings: dict[str, Any] = AUXILIARY.get(arch, {})
    if arch.startswith("vit_"):
        settings = {"image_size": imgsz}
    elif arch == "maxvit_t":
        settings = {"input_size": (imgsz, imgsz)}
    try:
        network = timm.create_model(TIMM) if arch == EMBEDDED else models.get_model(arch, weights=None, **settings)
        if stride:
            _limit_stride(network, imgsz, stride)
        _replace_head(network, classes, head, dropout)
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, imgsz, imgsz))
    except (ValueError, RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or ["refused"])[0]
        raise DatasetError(f"--arch {arch} can't take images of --imgsz {imgsz}: {reason}") from None
    return network


def _replace_head(network: nn.Module, classes: int, kind: str, dropout: float) -> None:
    """Put a Head in place of the last Linear layer; SqueezeNet ends in a convolution over 512 channels instead."""
    linear = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        network.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), Head(512, classes, kind, dropout))
        return
    name, old = linear[-1]
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, Head(old.in_features, classes, kind, dropout))


def _limit_stride(network: nn.Module, imgsz: int, stride: int) -> None:
    """Set the stride of every layer to 1 that would halve a map with imgsz / stride cells a side or fewer."""
    sides: dict[Any, int] = {}  # of the maps that come into each layer
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)]
    strided = [layer for layer in layers if layer.stride in (2, (2, 2))]
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: sides.update({module: inputs[0].shape[-1]}))
        for module in strided
    ]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, imgsz, imgsz))
    for hook in hooks:
        hook.remove()
    for module, side in sides.items():
        if side <= -(-imgsz // stride):
            module.stride = (1, 1) if isinstance(module, nn.Conv2d) else 1


def head_of(network: nn.Module) -> tuple[str, Head]:
    """The name and the module of a network's head."""
    return next((name, module) for name, module in network.named_modules() if isinstance(module, Head))


def new_parts(network: nn.Module) -> dict[str, nn.Module]:
    """The parts of a network that published weights do not have, by name."""
    name, head = head_of(network)
    own = {"cells": network.cells, "standard": network.standard} if isinstance(network, CellNet) else {}
    return own | {name: head}


def cam_layer(network: nn.Module) -> nn.Module | None:
    """The last feature map of our own networks; None for torchvision's, where torchcam finds it."""
    return network.features if isinstance(network, FineNet | DeepNet) else None


def start_from(network: nn.Module, path: Path, arch: str) -> None:
    """Load a checkpoint into all but the new parts, and into those where it fits; raises DatasetError if it doesn't."""
    state = load_state(path)
    if "_conv_stem.weight" in state:  # as EfficientNet-PyTorch names the tensors of EMBEDDED, in timm's order
        state = dict(zip(timm.create_model(TIMM).state_dict(), state.values(), strict=True))
    own, new = network.state_dict(), tuple(f"{name}." for name in new_parts(network))
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    missing = [key for key in own if key not in fitting and not key.startswith(new)]
    if missing:
        raise DatasetError(
            f"--weights {path}: doesn't fit --arch {arch}: {len(missing)} of {len(own)} tensors are missing or of "
            f"another shape, first {missing[0]}"
        )
    network.load_state_dict(fitting, strict=False)
