"""Grad-CAM++ maps of a classifier.

A map is P(defect) times the CAM of the likeliest defect class, S x S float32, not normalised image by image: a map of a
good image is to be low everywhere. A. Chattopadhay et al., Grad-CAM++, WACV 2018, by torchcam.
"""

import logging
from typing import Any

from torch.nn import functional as F
from torchcam.methods import GradCAMpp

from converters.cli.errors import DatasetError
from converters.cli.terminal import progress
from finetune.training.backbones import cam_layer
from finetune.training.heat_maps import Map
from finetune.training.images import Images, normalise


def check_heat_maps(model: Any, imgsz: int) -> None:
    """Raise DatasetError for an architecture that has no heat maps, before it is trained."""
    with _extractor(model, imgsz):
        pass


def _extractor(model: Any, imgsz: int) -> Any:
    logging.getLogger("torchcam").setLevel(logging.ERROR)  # it warns about finding the layer by itself
    try:
        return GradCAMpp(model, cam_layer(model), input_shape=(3, imgsz, imgsz))
    except (ValueError, TypeError):
        raise DatasetError("this --arch has no spatial feature map for Grad-CAM++: add --no-heatmaps") from None


def grad_cam(model: Any, arch: str, images: Images, batch: int, device: str) -> tuple[list[Map], int]:
    """Maps of S x S for N images, and the cells a side that they come from, by a model in any mode.

    It is left in evaluation mode.

    Raises DatasetError for an architecture without a spatial feature map (transformers on patches).
    """
    model.eval()
    size = images.pixels.shape[-1]
    maps: list[Map] = []
    cells = 0
    with _extractor(model, size) as extractor, progress(None, len(images), "heat maps") as bar:
        for pixels in images.pixels.split(batch):
            logits = model(normalise(pixels.to(device), arch))
            defect = logits[:, 1:].argmax(1) + 1
            cams = extractor(defect.tolist(), logits, normalized=False)[0]
            cams = cams * (1 - logits.detach().softmax(1)[:, :1, None])
            cells = min(cams.shape[-2:])
            full = F.interpolate(cams[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]
            maps += list(full.cpu().numpy())
            bar.update(len(pixels))
    return maps, cells
