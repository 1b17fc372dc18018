"""Settings of a memory of good patches."""

from dataclasses import dataclass

from finetune.training.weights import EMBEDDED

# EfficientNet-Lite0, whose weights are installed, and torchvision's; the paper's is the last.
ARCHS = (EMBEDDED, "resnet18", "resnet34", "resnet50", "wide_resnet50_2")


@dataclass(frozen=True)
class Recipe:
    """What a run of normality goes by."""

    arch: str = EMBEDDED
    weights: str = "DEFAULT"  # the installed ones of EMBEDDED, torchvision's by name, a file, or none
    imgsz: int = 320  # side of the square input, px
    coreset: float = 0.01  # share of the cells of good images to remember, 0..1
    labels: str = "good"  # of train: good images alone, or also each image's class
    seed: int = 0
