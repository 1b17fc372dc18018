"""A memory of good patches as one graph, for ONNX: an image in, its score and heat map out."""

import cv2
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.anomaly.features import features_of
from finetune.anomaly.memory import BLUR
from finetune.anomaly.residuals import Types, summary_of
from finetune.training.onnx_files import enlarged, lengths, square


class Graph(nn.Module):
    """H x W x 3 bytes -> the defect score, 0..1, the map of distances, H x W, and with ``types`` C class scores."""

    memory: Tensor
    kernel: Tensor

    def __init__(
        self, backbone: nn.Module, arch: str, memory: Tensor, size: int, usual: float, types: Types | None
    ) -> None:
        super().__init__()
        self.backbone, self.arch, self.size, self.usual, self.types = backbone, arch, size, usual, types
        self.register_buffer("memory", memory)
        side = round(8 * BLUR + 1) | 1  # as OpenCV takes it for a sigma alone
        kernel = torch.from_numpy(cv2.getGaussianKernel(side, BLUR)).float()
        self.register_buffer("kernel", (kernel @ kernel.T)[None, None])

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = features_of(self.backbone, self.arch, square(image, self.size))[0]
        cells = features.flatten(0, 1)
        squares = cells.square().sum(1)[:, None] + self.memory.square().sum(1) - 2 * cells @ self.memory.T
        nearest = squares.amin(1).clamp(min=0).sqrt().reshape(features.shape[:2])
        side = torch.tensor(self.size)
        heat = enlarged(nearest, side, side)
        edge = self.kernel.shape[-1] // 2
        heat = F.conv2d(F.pad(heat[None, None], [edge] * 4, mode="reflect"), self.kernel)[0, 0]
        height, width, _ = lengths(image)
        heat, peak = enlarged(heat, height, width), nearest.max()
        if self.types is None:
            return peak / (peak + self.usual), heat
        summary = summary_of(cells, squares.clamp(min=0).sqrt(), self.memory)
        chances = self.types.chances(summary[None].double())[0].float()
        return 1 - chances[0], heat, chances[1:]
