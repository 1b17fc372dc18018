"""A classifier as one graph, for ONNX: an image in, its score and those of the classes out.

Without a heat map: Grad-CAM++, which most networks have, needs gradients, and a runtime has none.
"""

from torch import Tensor, nn

from finetune.training.images import normalise
from finetune.training.onnx_files import square


class Graph(nn.Module):
    """H x W x 3 bytes -> the defect score and C class scores, 0..1, calibrated."""

    def __init__(self, network: nn.Module, arch: str, size: int, temperature: float) -> None:
        super().__init__()
        self.network, self.arch, self.size, self.temperature = network, arch, size, temperature

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(normalise(square(image, self.size), self.arch))
        chances = (logits / self.temperature).softmax(1)[0]
        return 1 - chances[0], chances[1:]
