"""Images of a part in memory, as the classifier and the anomaly model see them, and augmentation in training."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2

from converters.cli.errors import DatasetError
from converters.cli.terminal import progress
from finetune.runs.dataset import Dataset, read_image
from finetune.training.weights import EMBEDDED

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation that torchvision's weights expect
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # those of EMBEDDED


@dataclass(frozen=True)
class Images:
    """A part of a dataset, decoded once and kept as bytes: 1000 images of 512 px take 0.8 GB."""

    names: list[str]
    pixels: Tensor  # N x 3 x S x S, uint8, RGB; squares, whatever the images were
    labels: Tensor  # N, int64: 0 is good, then the dataset's classes
    sizes: list[tuple[int, int]]  # width and height of the image files, px

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, indices: Tensor) -> "Images":
        picked = indices.tolist()
        return Images(
            [self.names[i] for i in picked], self.pixels[indices], self.labels[indices], [self.sizes[i] for i in picked]
        )


def load_images(dataset: Dataset, part: str, imgsz: int) -> Images:
    """Decode a part and resize it to ``imgsz`` x ``imgsz``; raises DatasetError for an empty part or a bad file."""
    labels = dataset.labels(part)
    if not labels:
        raise DatasetError(f"{dataset.folder}: the {part} part holds no image; convert with another --protocol")
    pixels = np.empty((len(labels), imgsz, imgsz, 3), np.uint8)
    sizes = []
    with progress(labels, len(labels), f"reading {part}") as names:
        for index, name in enumerate(names):
            image = read_image(dataset.image_file(part, name), cv2.IMREAD_COLOR_RGB)
            sizes.append((image.shape[1], image.shape[0]))
            pixels[index] = to_square(image, imgsz)
    classes = [0 if label is None else label + 1 for label in labels.values()]
    return Images(list(labels), torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor(classes), sizes)


def to_square(image: NDArray[np.uint8], imgsz: int) -> NDArray[np.uint8]:
    """An image, H x W x 3, as ``imgsz`` x ``imgsz`` x 3."""
    shrinks = min(image.shape[:2]) > imgsz
    resized = cv2.resize(image, (imgsz, imgsz), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def one_image(image: NDArray[np.uint8], imgsz: int) -> Tensor:
    """An image, H x W x 3, RGB, as a batch of one like ``Images.pixels``: 1 x 3 x S x S, uint8."""
    return torch.from_numpy(to_square(image, imgsz)).permute(2, 0, 1).contiguous()[None]


def normalise(pixels: Tensor, arch: str) -> Tensor:
    """N x 3 x S x S of 0..255 -> float32 with the mean and deviation that the weights of ``arch`` were trained with."""
    shape = (1, 3, 1, 1)
    known = HALF if arch == EMBEDDED else IMAGENET
    mean, std = (torch.tensor(values, device=pixels.device).view(shape) for values in known)
    return (pixels.float() / 255 - mean) / std


def augmentation(kind: str, imgsz: int) -> Callable[[Tensor], Tensor]:
    """A random change of one image (3 x S x S, uint8), by torchvision.transforms.v2 and torch's random generator.

    ``none``: as it is. ``camera``: what a camera above a product does: flips, any turn, shift, scale, exposure; the
    border is mirrored so that no corner turns black. ``strong``: the same and RandAugment (Cubuk et al. 2020).
    """
    if kind == "none":
        return lambda image: image
    bilinear = v2.InterpolationMode.BILINEAR
    steps: list[Any] = [
        v2.RandomHorizontalFlip(),
        v2.Pad(9 * imgsz // 20, padding_mode="reflect"),  # the corners of a turned, shifted, shrunk image lie in it
        v2.RandomAffine(180, translate=(0.05, 0.05), scale=(0.9, 1.1), interpolation=bilinear),
        v2.CenterCrop(imgsz),
        v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.1),
    ]
    return v2.Compose([*steps, v2.RandAugment(2, 7)] if kind == "strong" else steps)
