"""Heat maps of a classifier: class activations of a CellNet, Grad-CAM++ of others.

A map is P(defect) times that of the likeliest defect class, S x S float32, not normalised image by image: a map of a
good image is to be low everywhere. A. Chattopadhay et al., Grad-CAM++, WACV 2018, by torchcam.
"""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchcam.methods import GradCAMpp

from converters.cli.errors import DatasetError
from converters.cli.terminal import progress
from finetune.training.backbones import CellNet, cam_layer
from finetune.training.heat_maps import Map
from finetune.training.images import Images, normalise


def check_heat_maps(model: Any, imgsz: int) -> None:
    """Raise DatasetError for an architecture that has no heat maps, before it is trained."""
    with _extractor(model, imgsz):
        pass


def _extractor(model: Any, imgsz: int) -> Any:
    """torchcam's, hooked into the model; a CellNet needs none."""
    if isinstance(model, CellNet):
        return nullcontext()
    logging.getLogger("torchcam").setLevel(logging.ERROR)  # it warns about finding the layer by itself
    try:
        return GradCAMpp(model, cam_layer(model), input_shape=(3, imgsz, imgsz))
    except (ValueError, TypeError):
        raise DatasetError("this --arch has no spatial feature map for Grad-CAM++: add --no-heatmaps") from None


def class_maps(model: Any, arch: str, images: Images, batch: int, device: str) -> tuple[list[Map], int]:
    """Maps of S x S for N images, and the cells a side that they come from, by a model in any mode; it is
    left in evaluation mode.

    Raises DatasetError for an architecture without a spatial feature map (transformers on patches).
    """
    model.eval()
    size = images.pixels.shape[-1]
    maps: list[Map] = []
    cells = 0
    with _extractor(model, size) as extractor, progress(None, len(images), "heat maps") as bar:
        for pixels in images.pixels.split(batch):
            found, cells = _maps_of(model, arch, extractor, pixels.to(device))
            maps += list(found)
            bar.update(len(pixels))
    return maps, cells


def _maps_of(model: Any, arch: str, extractor: Any, pixels: Tensor) -> tuple[NDArray[np.float32], int]:
    """Maps of B images (B x 3 x S x S bytes), B x S x S, and the cells a side that they come from."""
    images = normalise(pixels, arch)
    if isinstance(model, CellNet):
        logits, cams = model.activations(images)
    else:
        logits = model(images)
        cams = extractor((logits[:, 1:].argmax(1) + 1).tolist(), logits, normalized=False)[0]
    cams = cams * (1 - logits.detach().softmax(1)[:, :1, None])
    full = F.interpolate(cams[:, None], pixels.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return full.cpu().numpy(), min(cams.shape[-2:])


def mapper(model: Any, arch: str, imgsz: int) -> Callable[[Tensor], Map]:
    """The same for one image after the other, each 1 x 3 x S x S bytes: its map, S x S."""
    if isinstance(model, CellNet):
        return lambda pixels: _maps_of(model.eval(), arch, None, pixels)[0][0]
    extractor = _extractor(model.eval(), imgsz)
    extractor.disable_hooks()

    def map_of(pixels: Tensor) -> Map:
        extractor.enable_hooks()
        heat = _maps_of(model, arch, extractor, pixels)[0][0]
        extractor.disable_hooks()  # they are in the way of answers without gradients
        return heat

    return map_of
