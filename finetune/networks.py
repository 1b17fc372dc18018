"""The classifier's networks: any of torchvision's by name, and two of our own that start from random weights.

Every network takes N x 3 x H x W (float32, normalised) and returns logits, N x C. Its last layer is a `Head`,
whose input are the penultimate features (N x F) that are resampled and compared elsewhere.
"""

from torch import Tensor, nn

OWN = ("deep", "fine")
CHANNELS = (32, 64, 128, 256)


class Head(nn.Sequential):
    """The last layers: `linear`, or `mlp` with a hidden layer and dropout. N x F -> N x C."""

    def __init__(self, features: int, classes: int, kind: str, dropout: float) -> None:
        if kind == "mlp":
            hidden = max(64, features // 2)
            layers = [nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes)]
        else:
            layers = [nn.Dropout(dropout), nn.Linear(features, classes)]
        super().__init__(*layers)


class DeepNet(nn.Module):
    """Four stages of convolution, BatchNorm, LeakyReLU and pooling, 32 to 256 channels, averaged over the image."""

    def __init__(self, classes: int, kind: str, dropout: float) -> None:
        super().__init__()
        stages = [_stage(before, after) for before, after in zip((3, *CHANNELS), CHANNELS, strict=False)]
        self.features = nn.Sequential(*stages)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = Head(CHANNELS[-1], classes, kind, dropout)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.features(images)))


def _stage(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.1), nn.MaxPool2d(2)
    )
